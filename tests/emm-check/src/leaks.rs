//! `leaks`: what kmemleak finds of ours. The rest of the kernel may leak, or seem to, without us.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::report::Report;
use crate::system;

const FILE: &str = "/sys/kernel/debug/kmemleak";
/// kmemleak reports no object that is younger than this at the scan.
const AGE: Duration = Duration::from_secs(6);
/// What a function of ours has in its line of a backtrace: the module's name.
const OURS: [&str; 3] = ["[ib_emm]", "[rdma_rxe]", "[emm_client]"];

/// Scans twice, since an object counts only when it was not found again, and reports each that one of our modules allocated.
pub fn leaks(report: &Report) -> Result<()> {
    system::debugfs()?;
    if !Path::new(FILE).exists() {
        report.skip(
            "leaks",
            &format!("{FILE} is missing: this kernel has no kmemleak"),
            false,
        );
        return Ok(());
    }
    let start = Instant::now();
    for _ in 0..2 {
        fs::write(FILE, "scan").with_context(|| format!("writing `scan` to {FILE}"))?;
        // What was lost a moment ago has to become old enough for the second one; the age is all that there is to wait for.
        thread::sleep(AGE.saturating_sub(start.elapsed()));
    }
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let objects = objects(&text);
    let (ours, others): (Vec<&str>, Vec<&str>) = objects.iter().partition(|object| is_ours(object));
    let count = format!("{} of ours, {} of others", ours.len(), others.len());
    report.fact(
        ours.is_empty(),
        true,
        &format!("kmemleak: {count}\n{}", ours.join("\n")),
        json!({"t": "leaks", "ours": ours, "others": others.len()}),
    );
    Ok(())
}

/// The objects of the file, each with its backtrace.
fn objects(text: &str) -> Vec<&str> {
    const BEGIN: &str = "unreferenced object ";
    let mut starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    starts.push(text.len());
    starts
        .windows(2)
        .map(|pair| text[pair[0]..pair[1]].trim_end())
        .collect()
}

fn is_ours(object: &str) -> bool {
    OURS.iter().any(|name| object.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
unreferenced object 0xffff888004dd0300 (size 192):
  comm \"a\", pid 1, jiffies 4294667296
  backtrace (crc 1234):
    kmalloc_noprof+0x1/0x2
    emm_region_create+0x33/0x90 [ib_emm]
unreferenced object 0xffff888004dd0400 (size 64):
  comm \"ib_emm\", pid 2, jiffies 4294667297
  backtrace (crc 0):
    acpi_init+0x1/0x2
";

    #[test]
    fn whose_an_object_is_its_backtrace_says() {
        let objects = objects(TEXT);
        assert_eq!(objects.len(), 2);
        assert!(is_ours(objects[0]) && objects[0].ends_with("[ib_emm]"));
        assert!(!is_ours(objects[1]));
        assert!(super::objects("").is_empty());
    }
}
