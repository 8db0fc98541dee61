//! What the kernel keeps for a region.

use std::fs;

use anyhow::{Context as _, Result, bail};
use emm_check::mem::Map;
use emm_check::qp::Op;
use emm_check::system::Kind;

use crate::facts::Subject;
use crate::rig::{Area, Rig, huge_pages, small_pages, touch};
use crate::traffic::{CHUNK, cover};

const REGIONS: &str = "/sys/kernel/debug/ib_emm/regions";
const GIB: f64 = (1 << 30) as f64;
const RESIDENT: usize = 256 << 20;
const RESERVED: usize = 64 << 30;

fn subject(case: &'static str, unit: &'static str) -> Subject<'static> {
    Subject {
        row: "table",
        case,
        unit,
    }
}

/// Measures untouched, resident and given back memory. Peers keep all from registration on: what they take is seen in the
/// guest's free memory.
pub fn run() -> Result<()> {
    let rig = Rig::open()?;
    let untouched = subject("64 GiB, reserved", "KiB a GiB");
    untouched.tell("emm", reserved(&rig));
    let cases = [
        (
            "256 MiB of 4 KiB pages, translated",
            small_pages as fn(usize) -> Result<Map>,
        ),
        ("256 MiB of THP, translated", huge_pages),
    ];
    for (case, map) in cases {
        let per_gib = subject(case, "KiB a GiB");
        for kind in [Kind::Pinned, Kind::Odp] {
            per_gib.tell(kind.label(), taken(&rig, kind, map));
        }
        let (translated, left) = match translated(&rig, map) {
            Ok((translated, left)) => (Ok(translated), Ok(left)),
            Err(why) => (Err(anyhow::anyhow!("{why:#}")), Err(why)),
        };
        per_gib.tell("emm", translated);
        subject(case, "KiB left after MADV_DONTNEED").tell("emm", left);
    }
    Ok(())
}

/// KiB a GiB of a region that no traffic has met.
fn reserved(rig: &Rig) -> Result<f64> {
    let map = Map::with(0, RESERVED, libc::PROT_NONE, libc::MAP_NORESERVE, -1)?;
    let area = rig.area(Kind::Emm, map)?;
    Ok(per_gib(table_bytes(&area)?, RESERVED))
}

/// KiB a GiB of a region that is translated, and KiB that are left when its memory is given back.
fn translated(rig: &Rig, map: fn(usize) -> Result<Map>) -> Result<(f64, f64)> {
    let map = map(RESIDENT)?;
    touch(&map);
    let area = rig.area(Kind::Emm, map)?;
    let before = table_bytes(&area)?;
    cover(&rig.qp()?, Op::Write, &rig.source(CHUNK)?, &area)?;
    let full = table_bytes(&area)?;
    area.map
        .advise(0, RESIDENT, libc::MADV_DONTNEED)
        .context("MADV_DONTNEED")?;
    let left = table_bytes(&area)? - before;
    Ok((per_gib(full, RESIDENT), left / 1024.0))
}

fn per_gib(bytes: f64, of: usize) -> f64 {
    bytes / 1024.0 / (of as f64 / GIB)
}

/// Bytes of a region's table.
fn table_bytes(area: &Area) -> Result<f64> {
    let text = fs::read_to_string(REGIONS).with_context(|| format!("reading {REGIONS}"))?;
    parse(&text, std::process::id(), area.map.addr())
}

/// Bytes of the table of process `pid`'s region at `start`.
fn parse(text: &str, pid: u32, start: usize) -> Result<f64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let head: Vec<&str> = lines.next().context("no header line")?.collect();
    let column = |name| head.iter().position(|title| *title == name);
    let (Some(pids), Some(starts), Some(bytes)) =
        (column("pid"), column("start"), column("table_bytes"))
    else {
        bail!("{REGIONS} lacks a column");
    };
    let (pid, start) = (pid.to_string(), format!("{start:#x}"));
    for line in lines {
        let words: Vec<&str> = line.collect();
        if words.get(pids) == Some(&pid.as_str()) && words.get(starts) == Some(&start.as_str()) {
            let bytes = words.get(bytes).context("a short line")?;
            return bytes.parse().context("table_bytes is no number");
        }
    }
    bail!("{REGIONS} has no region of process {pid} at {start}")
}

/// KiB a GiB of free memory that registering resident memory takes: the least of a few, since others take some too.
fn taken(rig: &Rig, kind: Kind, map: fn(usize) -> Result<Map>) -> Result<f64> {
    let map = map(RESIDENT)?;
    touch(&map);
    kind.select(false)?;
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let before = free_kib()?;
        let mr = rig.register(kind, map.addr(), RESIDENT)?;
        least = least.min(before - free_kib()?);
        drop(mr);
    }
    Ok(per_gib(least.max(0.0) * 1024.0, RESIDENT))
}

fn free_kib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemFree:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo lacks MemFree")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_found() {
        let text = "pid start length resident_pages table_bytes page_faults\n\
                    7 0x1000 4096 1 4096 1\n8 0x1000 4096 1 8192 1\n";
        assert_eq!(parse(text, 8, 0x1000).unwrap(), 8192.0);
        assert!(parse(text, 9, 0x1000).is_err());
        assert!(parse("", 8, 0x1000).is_err());
    }
}
