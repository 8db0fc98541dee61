//! How a program says that it did its work: its result line, and the value in it.

/// What a program printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The line, with single spaces.
    pub line: String,
    /// Its value.
    pub value: Option<f64>,
    /// The value's unit.
    pub unit: &'static str,
}

/// Finds the outcome in all that a program printed, or nothing if it did not do its work.
pub type Read = fn(&str) -> Option<Outcome>;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn outcome(line: &str, value: Option<f64>, unit: &'static str) -> Option<Outcome> {
    Some(Outcome {
        line: words(line).join(" "),
        value,
        unit,
    })
}

/// The first line with `text` in it, as it is.
fn line_with(out: &str, text: &str) -> Option<Outcome> {
    outcome(out.lines().find(|l| l.contains(text))?, None, "")
}

/// `1638400 bytes in 0.02 seconds = 655.36 Mbit/sec`, and with `-c` no word of invalid data.
pub fn pingpong(out: &str) -> Option<Outcome> {
    if out.contains("invalid data") {
        return None;
    }
    let line = out.lines().find(|l| l.contains("Mbit/sec"))?;
    let value = words(line.split('=').nth(1)?).first()?.parse().ok();
    outcome(line, value, "Mbit/s")
}

/// The line of numbers under perftest's heading.
fn under<'a>(out: &'a str, heading: &str) -> Option<&'a str> {
    out.lines()
        .skip_while(|l| !(l.contains("#bytes") && l.contains(heading)))
        .nth(1)
}

/// ` 65536      150              83.10              82.90      0.001326`: the average.
pub fn bandwidth(out: &str) -> Option<Outcome> {
    let line = under(out, "BW average")?;
    let value = words(line).get(3)?.parse().ok()?;
    outcome(line, Some(value), "MiB/s")
}

/// ` 4096    200          267.13         21158.08      2231.62 …`: the typical value.
pub fn latency(out: &str) -> Option<Outcome> {
    let line = under(out, "t_typical")?;
    let value = words(line).get(4)?.parse().ok()?;
    outcome(line, Some(value), "µs")
}

/// At least 30 pings, which `-V` compares.
pub fn rping(out: &str) -> Option<Outcome> {
    let pings = out.lines().filter(|l| l.contains("ping data")).count();
    (pings >= 30).then(|| Outcome {
        line: format!("{pings} pings validated"),
        ..Outcome::default()
    })
}

/// `return status 0` of ucmatose and udaddy.
pub fn return_status(out: &str) -> Option<Outcome> {
    let done = out.contains("data transfers complete");
    done.then(|| line_with(out, "return status 0")).flatten()
}

/// `rdma_client: end 0`
pub fn end_status(out: &str) -> Option<Outcome> {
    line_with(out, "end 0")
}

/// `custom 64k 20 1 2.5m 0.40s 0.05 9947.97`; with `-T v` a wrong byte ends rstream with a message.
pub fn stream(out: &str) -> Option<Outcome> {
    let line = out.lines().find(|l| l.starts_with("custom"))?;
    let value = words(line).get(6)?.parse().ok()?;
    outcome(line, Some(value), "Gbit/s")
}

/// qperf prints `name:` and indented values for each test that it could do.
pub fn qperf(out: &str) -> Option<Outcome> {
    let values: Vec<String> = out
        .lines()
        .filter(|l| l.contains('='))
        .map(|l| words(l).join(" "))
        .collect();
    // The last two tests verify and print nothing but their names.
    let verified = ["ver_rc_compare_swap:", "ver_rc_fetch_add:"]
        .iter()
        .all(|name| out.lines().any(|l| l.starts_with(name)));
    (verified && values.len() >= 5).then(|| Outcome {
        line: values.join(", "),
        ..Outcome::default()
    })
}

/// `Final: 100 248.000 60821.128 38413.260 1.03 1.63 16 26`: the overall rate.
pub fn ucx(out: &str) -> Option<Outcome> {
    let line = out.lines().find(|l| l.starts_with("Final:"))?;
    let words = words(line);
    // Latency tests have three columns of time first, and the same columns of rates behind.
    let value = words.get(words.len().checked_sub(3)?)?.parse().ok()?;
    outcome(line, Some(value), "MB/s")
}

/// The table's last line: sizes up to the largest were sent, and all were acknowledged.
pub fn fabric(out: &str) -> Option<Outcome> {
    let line = out.lines().rfind(|l| l.contains(" =20 "))?;
    let value = words(line).get(5)?.parse().ok()?;
    outcome(line, Some(value), "MB/s")
}

/// `2 ranks compared 21318780 bytes: 0 wrong`, and `64 messages both ways, compared 135266304 bytes: 0 wrong`
pub fn compared(out: &str) -> Option<Outcome> {
    line_with(out, " bytes: 0 wrong")
}

/// unittest's last words: `Ran 7 tests in 3.2s` and `OK`.
pub fn unittest(out: &str) -> Option<Outcome> {
    let ran = out.lines().rfind(|l| l.starts_with("Ran "))?;
    let ok = out.lines().rfind(|l| l.starts_with("OK"))?;
    outcome(&format!("{ran}: {ok}"), None, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(read: Read, out: &str) -> Option<f64> {
        read(out)?.value
    }

    #[test]
    fn result_lines() {
        let said = "x\n1638400 bytes in 0.02 seconds = 655.36 Mbit/sec\n";
        assert_eq!(value(pingpong, said), Some(655.36));
        assert_eq!(pingpong(&format!("invalid data in page 0\n{said}")), None);
        let said = " #bytes #iterations BW peak[MiB/sec] BW average[MiB/sec] MsgRate[Mpps]\n \
                    65536      150     83.10     82.90     0.001326\n";
        let all = bandwidth(said).unwrap();
        assert_eq!(
            (all.line.as_str(), all.value),
            ("65536 150 83.10 82.90 0.001326", Some(82.9))
        );
        assert_eq!(bandwidth("nothing"), None);
        let said = " #bytes #iterations t_min[usec] t_max[usec] t_typical[usec]\n 8 200 50.93 358.0 362.67\n";
        assert_eq!(value(latency, said), Some(362.67));
        assert_eq!(rping("ping data: rdma-ping-0"), None);
        assert_eq!(
            value(
                stream,
                "custom    64k     20      1       2.5m        0.40s      0.05    9947.97"
            ),
            Some(0.05)
        );
        assert_eq!(
            value(
                ucx,
                "Final:                   100    248.000 60821.128 38413.260        1.03       1.63          16          26"
            ),
            Some(1.63)
        );
        assert_eq!(
            value(
                fabric,
                "4k      20      =20      160k        0.31s      0.53    7797.85       0.00"
            ),
            Some(0.53)
        );
        assert_eq!(compared("2 ranks compared 10 bytes: 1 wrong"), None);
        assert_eq!(compared("2 ranks compared 10 bytes: 10 wrong"), None);
        assert!(compared("2 ranks compared 10 bytes: 0 wrong").is_some());
        assert_eq!(unittest("Ran 7 tests in 3.2s\n\nFAILED (errors=1)"), None);
        assert!(unittest("Ran 7 tests in 3.2s\n\nOK (skipped=1)").is_some());
    }
}
