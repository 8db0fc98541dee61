//! Counts calls of the VM's fault functions with kprobe events.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};

const TRACING: &str = "/sys/kernel/tracing";
const GROUP: &str = "emm_bench";
/// Events, and the functions that each counts: the first that this kernel has. EMM faults through the first event's, in-tree ODP
/// through the second's (7.3 has the longer name).
const EVENTS: [(&str, &[&str]); 2] = [
    ("gup", &["get_user_pages_remote"]),
    (
        "hmm",
        &["hmm_range_fault_unlocked_timeout", "hmm_range_fault"],
    ),
];

/// Probes that are set. Dropping takes them away.
pub struct Probe(());

impl Probe {
    /// Sets them.
    pub fn new() -> Result<Self> {
        let probe = Self(());
        for (event, functions) in EVENTS {
            let set = |function: &&str| define(&format!("p:{GROUP}/{event} {function}"));
            if !functions.iter().any(|function| set(function).is_ok()) {
                bail!("this kernel has none of {}", functions.join(", "));
            }
        }
        enable(true)?;
        Ok(probe)
    }

    /// Calls so far.
    pub fn calls(&self) -> Result<u64> {
        let path = format!("{TRACING}/kprobe_profile");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Ok(count(&text))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A probe that stays counts on, and the next definition of its name says so.
        let _ = enable(false);
        for (event, _) in EVENTS {
            let _ = define(&format!("-:{GROUP}/{event}"));
        }
    }
}

fn define(line: &str) -> Result<()> {
    let path = format!("{TRACING}/kprobe_events");
    fs::File::options()
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{line}"))
        .with_context(|| format!("writing {line} to {path}"))
}

fn enable(on: bool) -> Result<()> {
    let path = format!("{TRACING}/events/{GROUP}/enable");
    fs::write(&path, if on { "1" } else { "0" }).with_context(|| format!("writing {path}"))
}

/// The sum of the hits in lines of `EVENT HITS MISSES`.
fn count(profile: &str) -> u64 {
    profile
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            EVENTS.iter().find(|(event, _)| *event == name)?;
            words.next()?.parse::<u64>().ok()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_added() {
        assert_eq!(count("  gup   12   0\n  other 7 0\n  hmm 3 1\n"), 15);
        assert_eq!(count(""), 0);
    }
}
