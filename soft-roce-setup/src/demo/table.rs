//! Facts of the demo as lines and as a table. `emm-check --json` defines them: each has a type `t`, most
//! a kind of region `mr`, whether it held `ok`, and whether it must (`required`).

use std::fmt::Write as _;

use serde_json::Value;

fn text<'a>(fact: &'a Value, key: &str) -> &'a str {
    fact[key].as_str().unwrap_or("")
}

/// A number with few digits, or nothing.
fn number(fact: &Value, key: &str) -> String {
    match &fact[key] {
        Value::Number(n) if n.is_f64() => format!("{:.1}", n.as_f64().unwrap_or_default()),
        Value::Number(n) => n.to_string(),
        _ => "-".to_owned(),
    }
}

/// The kind of region, as the table calls it.
fn kind(fact: &Value) -> &str {
    match text(fact, "mr") {
        "odp" => "in-tree ODP",
        "emm" | "unpinned" => "EMM",
        other => other,
    }
}

/// How a fact that has a verdict came out.
fn verdict(fact: &Value) -> &'static str {
    match (fact["ok"].as_bool(), fact["required"].as_bool()) {
        (Some(true), _) => "held",
        (Some(false), Some(false)) => "WRONG (known)",
        (Some(false), _) => "FAILED",
        (None, _) => "",
    }
}

/// What was checked, what was measured.
fn row(fact: &Value) -> Option<(String, String)> {
    let n = |key| number(fact, key);
    Some(match text(fact, "t") {
        "reg" => (
            format!("register {} MiB", fact["bytes"].as_u64()? >> 20),
            format!(
                "{} us, VmPin {} KiB, VmRSS {} KiB",
                n("reg_us"),
                n("vmpin_kib"),
                n("vmrss_kib")
            ),
        ),
        "sweep" => (
            format!(
                "{} over {} MiB, odd",
                text(fact, "op"),
                fact["bytes"].as_u64()? >> 20
            ),
            format!(
                "{} pieces, {} wrong bytes, {} stray, {} MiB/s",
                n("pieces"),
                n("wrong_bytes"),
                n("stray_bytes"),
                n("mib_s")
            ),
        ),
        "matrix" => (
            format!("{}: offsets x lengths", text(fact, "op")),
            format!(
                "{} of {} wrong, {} with stray writes",
                n("wrong"),
                n("cases"),
                n("stray")
            ),
        ),
        "event" => (
            format!("{}: {}", text(fact, "event"), text(fact, "case")),
            text(fact, "detail").to_owned(),
        ),
        "program" => (
            text(fact, "program").to_owned(),
            format!(
                "{} {}, VmPin at most {} KiB",
                n("value"),
                text(fact, "unit"),
                n("max_vmpin_kib")
            ),
        ),
        "skip" => (
            format!("skipped: {}", text(fact, "what")),
            text(fact, "reason").to_owned(),
        ),
        _ => return None,
    })
}

/// The line that is shown when a fact comes in, if any.
pub fn live(fact: &Value) -> Option<String> {
    if text(fact, "t") == "phase" {
        return Some(format!("\n== {}", text(fact, "name")));
    }
    let (what, measured) = row(fact)?;
    let mut line = format!("   {:<12} {what}: {measured} {}", kind(fact), verdict(fact));
    if text(fact, "t") == "program" && !text(fact, "line").is_empty() {
        let _ = write!(line, "\n      {}", text(fact, "line"));
    }
    Some(line)
}

/// The table of all facts, aligned.
pub fn closing(facts: &[Value]) -> String {
    let rows: Vec<[String; 4]> = facts
        .iter()
        .filter_map(|fact| {
            let (what, measured) = row(fact)?;
            Some([
                what,
                kind(fact).to_owned(),
                measured,
                verdict(fact).to_owned(),
            ])
        })
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let mut out = String::from("\n");
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            let pad = width - cell.chars().count();
            let _ = write!(out, "{cell}{} | ", " ".repeat(pad));
        }
        let _ = writeln!(out, "{}", row[3]);
    }
    out
}

/// Whether everything that must hold did, to the last line.
pub fn all_held(facts: &[Value]) -> bool {
    facts
        .iter()
        .any(|fact| text(fact, "t") == "verdict" && fact["ok"] == true)
        && facts
            .iter()
            .all(|fact| fact["ok"] != false || fact["required"] == false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_verdict_is_no_success() {
        let good = json!({"t": "event", "ok": true, "required": true});
        let known = json!({"t": "matrix", "ok": false, "required": false});
        let end = json!({"t": "verdict", "ok": true});
        let bad = json!({"t": "event", "ok": false, "required": true});
        assert!(!all_held(std::slice::from_ref(&good)));
        assert!(all_held(&[good, known.clone(), end.clone()]));
        assert!(!all_held(&[bad, known, end]));
    }

    #[test]
    fn columns_are_aligned() {
        let facts = [
            json!({"t": "reg", "mr": "emm", "bytes": 1 << 28, "reg_us": 14.04, "vmpin_kib": 0,
                   "vmrss_kib": 5, "ok": true, "required": true}),
            json!({"t": "phase", "name": "x"}),
            json!({"t": "matrix", "mr": "odp", "op": "write", "cases": 56, "wrong": 48, "stray": 9,
                   "ok": false, "required": false}),
        ];
        let table = closing(&facts);
        let bars: Vec<_> = table.lines().skip(1).map(|l| l.find('|')).collect();
        assert_eq!(bars.len(), 2);
        assert_eq!(bars[0], bars[1]);
        assert!(table.contains("14.0 us, VmPin 0 KiB"));
        assert!(table.contains("WRONG (known)"));
    }
}
