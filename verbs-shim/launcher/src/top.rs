// SPDX-License-Identifier: MIT OR Apache-2.0

//! `top`: the memory regions of running programs, from the kernel's own lists by way of `rdma(8)`.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cli::TopArgs, say};

/// The counters, by the names that mlx5 gave them.
const COUNTERS: [&str; 3] = ["page_faults", "page_invalidations", "page_prefetch"];

/// A device and a region's number in it.
type Key = (String, u64);

/// A region.
#[derive(Clone, Debug, Default, PartialEq)]
struct Region {
    pid: Option<u64>,
    program: String,
    bytes: u64,
    /// `None` where the driver has no such counter.
    counters: [Option<u64>; 3],
}

type Regions = BTreeMap<Key, Region>;

/// Prints all regions again and again: over the last time on a terminal, one after the other elsewhere.
///
/// # Errors
///
/// `rdma` can't be run, or its answer can't be read.
pub fn top(args: &TopArgs) -> Result<ExitCode> {
    let clear = if std::io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    let mut before = (look()?, Instant::now());
    let mut shown = 0;
    loop {
        let now = match args.count {
            // With a single look there is nothing to compare it with.
            Some(1) => before.clone(),
            _ => {
                thread::sleep(Duration::from_secs_f64(args.interval));
                (look()?, Instant::now())
            }
        };
        let seconds = now.1.duration_since(before.1).as_secs_f64();
        let text = table(&before.0, &now.0, seconds);
        if let Some(gone) = say::text(&format!("{clear}{text}"))? {
            return Ok(gone);
        }
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

fn rdma(object: &str) -> Result<Value> {
    let output = Command::new("rdma")
        .args(["-j", object, "show", "mr"])
        .output()
        .context("cannot run `rdma` (of the package iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`rdma -j {object} show mr` failed: {}", said.trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("`rdma -j {object} show mr` is no JSON"))
}

/// The regions of now. A kernel or driver without counters still has the list.
fn look() -> Result<Regions> {
    let mut regions = resources(&rdma("resource")?);
    if let Ok(statistic) = rdma("statistic") {
        count(&mut regions, &statistic);
    }
    Ok(regions)
}

/// The entries of an answer: objects, in arrays of any depth.
fn entries(answer: &Value) -> Vec<&Value> {
    match answer {
        Value::Array(all) => all.iter().flat_map(entries).collect(),
        Value::Object(_) => vec![answer],
        _ => Vec::new(),
    }
}

fn key(entry: &Value) -> Option<Key> {
    let device = entry.get("ifname")?.as_str()?.to_owned();
    Some((device, entry.get("mrn")?.as_u64()?))
}

fn resources(answer: &Value) -> Regions {
    let region = |entry: &Value| Region {
        pid: entry.get("pid").and_then(Value::as_u64),
        program: entry
            .get("comm")
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned(),
        bytes: entry.get("mrlen").and_then(Value::as_u64).unwrap_or(0),
        counters: [None; 3],
    };
    entries(answer)
        .into_iter()
        .filter_map(|entry| Some((key(entry)?, region(entry))))
        .collect()
}

fn count(regions: &mut Regions, answer: &Value) {
    for entry in entries(answer) {
        let region = key(entry).and_then(|key| regions.get_mut(&key));
        if let Some(region) = region {
            region.counters = COUNTERS.map(|name| entry.get(name).and_then(Value::as_u64));
        }
    }
}

/// The table: by process, then by region.
fn table(before: &Regions, now: &Regions, seconds: f64) -> String {
    let mut rows: Vec<_> = now.iter().collect();
    rows.sort_by_key(|(key, region)| (region.pid, *key));
    let mut text = format!(
        "{:>8} {:<16} {:<10} {:>8} {:>16} {:>10} {:>10} {:>10} {:>10}\n",
        "PID", "PROGRAM", "DEVICE", "MR", "BYTES", "FAULTS", "FAULTS/s", "INVAL/s", "PREFETCH/s"
    );
    for (key, region) in rows {
        let old = before.get(key);
        let rate = |at: usize| per_second(old, region, at, seconds);
        let pid = region.pid.map_or("kernel".into(), |pid| pid.to_string());
        let faults = region.counters[0].map_or("-".into(), |n| n.to_string());
        text += &format!(
            "{pid:>8} {:<16} {:<10} {:>8} {:>16} {faults:>10} {:>10} {:>10} {:>10}\n",
            region.program,
            key.0,
            key.1,
            region.bytes,
            rate(0),
            rate(1),
            rate(2)
        );
    }
    let bytes: u128 = now.values().map(|r| u128::from(r.bytes)).sum();
    text + &format!("{} regions, {bytes} bytes\n", now.len())
}

/// The growth of a counter; a dash where there is none, or nothing to compare it with.
fn per_second(old: Option<&Region>, new: &Region, at: usize, seconds: f64) -> String {
    match (old.and_then(|old| old.counters[at]), new.counters[at]) {
        (Some(old), Some(new)) if seconds > 0.0 => {
            format!("{:.0}", new.saturating_sub(old) as f64 / seconds)
        }
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn regions(faults: u64) -> Regions {
        let mut regions = resources(&json!([
            {"ifindex": 0, "ifname": "rxe0", "mrn": 4, "mrlen": 4096, "pid": 17, "comm": "rping"},
            {"ifindex": 0, "ifname": "rxe0", "mrn": 5, "mrlen": 64, "comm": "ib_core"},
        ]));
        count(
            &mut regions,
            &json!([{"ifname": "rxe0", "mrn": 4, "page_faults": faults, "page_invalidations": 2}]),
        );
        regions
    }

    #[test]
    fn rates() {
        let text = table(&regions(10), &regions(30), 2.0);
        let row = text
            .lines()
            .find(|l| l.contains("rping"))
            .expect("it is there");
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["17", "rping", "rxe0", "4", "4096", "30", "10", "0", "-"]
        );
        assert!(text.ends_with("2 regions, 4160 bytes\n"));
    }

    #[test]
    fn a_driver_without_counters() {
        let none =
            resources(&json!([{"ifname": "rxe0", "mrn": 4, "mrlen": 1, "pid": 1, "comm": "x"}]));
        let text = table(&none, &none, 1.0);
        assert!(
            text.contains(" 1          -          -          -          -\n"),
            "{text}"
        );
    }

    #[test]
    fn odd_answers_are_no_regions() {
        for odd in [
            json!(null),
            json!([]),
            json!([[{}]]),
            json!({"ifname": 3}),
            json!([1, "x"]),
        ] {
            assert_eq!(resources(&odd), Regions::new());
        }
    }
}
