//! Unmodified programs of the distribution, pinned and unpinned: `emm-check programs`, a test for each line.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::group::{Asked, Group, options};
use super::guest::{ran, spec, tail};
use super::tally::Outcome;
use soft_roce_setup::build;
use soft_roce_setup::guest::{End, Guest, Share};
use soft_roce_setup::proc::quote;

/// Longest time of all programs.
const LIMIT: Duration = Duration::from_secs(900);

/// Where `emm-check` looks for the Rust programs of `tests/programs`.
const PLACE: &str = "/programs";

/// The first part of their names.
pub fn group_name(series: &str) -> String {
    format!("guest::{series}::programs")
}

/// Those on the kernel `series` that are wanted: all, or what the filter names behind `programs::`.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context, series, ..
    } = asked;
    let name = group_name(series);
    let Some(only) = asked.tally.inside(&name) else {
        return Ok(None);
    };
    // Built before guests hold the cache's lock.
    build::ensure(context, &options(series))?;
    let programs = build::programs::ensure(context)?;
    let work = move || run(asked, name, &only, programs);
    Group::of_kernel(context, series, work).map(Some)
}

/// Runs those of the group `group` whose names contain one of `only`.
fn run(asked: Asked<'_>, group: String, only: &[String], programs: PathBuf) -> Result<()> {
    let artifacts = build::ensure(asked.context, &options(asked.series))?;
    let mut spec = spec();
    spec.shares.push(Share {
        host: programs,
        guest: PLACE.into(),
        read_only: true,
    });
    let mut guest = Guest::boot(asked.context, &artifacts, &spec)?;
    // What they do pinned is theirs.
    let unpinned = if asked.long { "" } else { "--unpinned" };
    let only: Vec<String> = only.iter().map(|part| quote(part)).collect();
    let script = format!(
        "worst=0; for only in {}; do emm-check --json programs {unpinned} \"$only\" || worst=$?; done; exit $worst",
        only.join(" ")
    );
    let start = Instant::now();
    let (end, text) = ran(&mut guest, &script, LIMIT)?;
    let facts: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|fact: &Value| fact["t"] == "program" || fact["t"] == "skip")
        .collect();
    for fact in &facts {
        let (name, took, outcome) = result(fact);
        asked.tally.add(&format!("{group}::{name}"), took, outcome);
    }
    // Each failed line is a failed test already.
    let whole = matches!(end, End::Exited(0 | 1)) && !facts.is_empty();
    if !whole {
        let why = format!("{}\n{}", guest.describe(&end), tail(&text));
        asked
            .tally
            .add(&group, start.elapsed(), Outcome::Failed(why));
    }
    asked.said.keep(group, text);
    Ok(())
}

/// The test of a fact.
fn result(fact: &Value) -> (String, Duration, Outcome) {
    let text = |key: &str| fact[key].as_str().unwrap_or("").to_owned();
    if fact["t"] == "skip" {
        return (
            text("what"),
            Duration::ZERO,
            Outcome::Failed(text("reason")),
        );
    }
    let outcome = if fact["ok"] == true {
        Outcome::Passed
    } else {
        Outcome::Failed(text("detail"))
    };
    let name = format!("{} ({})", text("program"), text("mr"));
    let took = Duration::from_secs_f64(fact["secs"].as_f64().unwrap_or(0.0).max(0.0));
    (name, took, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_are_tests() {
        let fact =
            json!({"t": "program", "program": "rping", "mr": "pinned", "ok": true, "secs": 1.5});
        let (name, took, outcome) = result(&fact);
        assert_eq!(
            (name.as_str(), took),
            ("rping (pinned)", Duration::from_millis(1500))
        );
        assert_eq!(outcome, Outcome::Passed);
        let fact = json!({"t": "skip", "what": "rping", "reason": "no shim"});
        assert_eq!(result(&fact).2, Outcome::Failed("no shim".into()));
    }
}
