//! Counts calls of the VM's fault functions with kprobe events.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};

const TRACING: &str = "/sys/kernel/tracing";
const GROUP: &str = "emm_bench";
/// Events, and the function that each counts: what asks the VM for pages once, for EMM, and for in-tree ODP. Below them both
/// call hmm_range_fault() or a name of 7.3's beside it, EMM to look only.
const EVENTS: [(&str, &str); 2] = [
    ("emm", "emm_trace_fault"),
    ("odp", "ib_umem_odp_map_dma_and_lock"),
];

/// Probes that are set. Dropping takes them away.
pub struct Probe(());

impl Probe {
    /// Sets them.
    pub fn new() -> Result<Self> {
        let probe = Self(());
        for (event, function) in EVENTS {
            define(&format!("p:{GROUP}/{event} {function}"))?;
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
        assert_eq!(count("  emm   12   0\n  other 7 0\n  odp 3 1\n"), 15);
        assert_eq!(count(""), 0);
    }
}
