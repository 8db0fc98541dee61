//! What the kernel keeps for a region.

use std::fs;

use anyhow::{Context as _, Result, bail};
use emm_check::mem::{Map, PAGE};
use emm_check::qp::Op;

use crate::facts::{Subject, again};
use crate::plan::Plan;
use crate::rig::{Area, Rig, huge_pages, size, small_pages, touch};
use crate::traffic::{CHUNK, cover};
use crate::who::Kind;

const REGIONS: &str = "/sys/kernel/debug/ib_emm/regions";
const GIB: f64 = (1 << 30) as f64;
/// Bytes that are translated: quick, full.
const RESIDENT: (usize, usize) = (64 << 20, 256 << 20);
/// Address space without memory behind it.
const RESERVED: usize = 64 << 30;
/// Memory that nobody has touched: in-tree ODP takes no [`RESERVED`] one.
const UNTOUCHED: usize = 1 << 30;
/// Regions whose own structures are counted.
const MANY: usize = 10_000;

fn subject<'a>(case: &'a str, unit: &'a str) -> Subject<'a> {
    Subject::new("table", case, unit)
}

/// Measures untouched, resident and given back memory. Peers keep all from registration on: what they take is seen in the
/// guest's free memory.
pub fn run(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let untouched = subject("64 GiB, reserved", "KiB a GiB");
    for (round, kind) in plan.turns(&[Kind::Emm, Kind::Implicit]) {
        untouched.tell(kind.label(), round, reserved(&rig, kind));
    }
    // Pinned memory can't be untouched.
    let case = format!("{}, untouched", size(UNTOUCHED));
    for (round, kind) in plan.turns(&[Kind::Odp, Kind::Emm]) {
        let outcome = small_pages(UNTOUCHED).and_then(|map| match kind {
            Kind::Odp => taken(&rig, kind, &map),
            _ => rig
                .area(kind, map)
                .and_then(|area| Ok(per_gib(table_bytes(&area, kind)?, UNTOUCHED))),
        });
        subject(&case, "KiB a GiB").tell(kind.label(), round, outcome);
    }
    let case = format!("each of {MANY} regions of 4 KiB, touched, untranslated");
    for (round, kind) in plan.turns(&[Kind::Pinned, Kind::Odp, Kind::Emm]) {
        subject(&case, "B of slab").tell(kind.label(), round, each(&rig, kind));
    }
    let len = plan.pick(RESIDENT.0, RESIDENT.1);
    let pages = [
        ("4 KiB pages", small_pages as fn(usize) -> Result<Map>),
        ("THP", huge_pages),
    ];
    for (pages, map) in pages {
        let case = format!("{} of {pages}, translated", size(len));
        let per_gib = subject(&case, "KiB a GiB");
        for (round, kind) in plan.turns(&[Kind::Pinned, Kind::Odp]) {
            let outcome = map(len).and_then(|map| {
                touch(&map);
                taken(&rig, kind, &map)
            });
            per_gib.tell(kind.label(), round, outcome);
        }
        for (round, kind) in plan.turns(&[Kind::Emm, Kind::Implicit]) {
            let outcome = translated(&rig, kind, map(len)?);
            per_gib.tell(kind.label(), round, again(&outcome).map(|o| o.0));
            subject(&case, "KiB left after MADV_DONTNEED").tell(
                kind.label(),
                round,
                again(&outcome).map(|o| o.1),
            );
        }
    }
    Ok(())
}

/// KiB a GiB of a region that no traffic has met.
fn reserved(rig: &Rig, kind: Kind) -> Result<f64> {
    let map = Map::with(0, RESERVED, libc::PROT_NONE, libc::MAP_NORESERVE, -1)?;
    let area = rig.area(kind, map)?;
    Ok(per_gib(table_bytes(&area, kind)?, RESERVED))
}

/// KiB a GiB of a region that is translated, and KiB that are left when its memory is given back.
fn translated(rig: &Rig, kind: Kind, map: Map) -> Result<(f64, f64)> {
    touch(&map);
    let area = rig.area(kind, map)?;
    let before = table_bytes(&area, kind)?;
    cover(&rig.qp()?, Op::Write, &rig.source(CHUNK)?, &area)?;
    let full = table_bytes(&area, kind)?;
    area.map
        .advise(0, area.map.len(), libc::MADV_DONTNEED)
        .context("MADV_DONTNEED")?;
    let left = table_bytes(&area, kind)? - before;
    Ok((per_gib(full, area.map.len()), left / 1024.0))
}

fn per_gib(bytes: f64, of: usize) -> f64 {
    bytes / 1024.0 / (of as f64 / GIB)
}

/// Bytes of a region's table.
fn table_bytes(area: &Area, kind: Kind) -> Result<f64> {
    let start = match kind {
        Kind::Implicit => 0,
        _ => area.map.addr(),
    };
    let text = fs::read_to_string(REGIONS).with_context(|| format!("reading {REGIONS}"))?;
    parse(&text, std::process::id(), start)
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

/// KiB a GiB of free memory that registering `map` takes: the least of a few, since others take some too.
fn taken(rig: &Rig, kind: Kind, map: &Map) -> Result<f64> {
    kind.select()?;
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let before = meminfo_kib("MemFree:")?;
        let mr = rig.register(kind, map.addr(), map.len())?;
        least = least.min(before - meminfo_kib("MemFree:")?);
        drop(mr);
    }
    Ok(per_gib(least.max(0.0) * 1024.0, map.len()))
}

/// Bytes of slab memory, which the structures of a region are, for each of [`MANY`].
fn each(rig: &Rig, kind: Kind) -> Result<f64> {
    let field = small_pages(MANY * PAGE)?;
    touch(&field);
    kind.select()?;
    let before = meminfo_kib("Slab:")?;
    let regions = (0..MANY)
        .map(|at| rig.register(kind, field.addr() + at * PAGE, PAGE))
        .collect::<Result<Vec<_>, _>>()
        .context("registering")?;
    let more = meminfo_kib("Slab:")? - before;
    Ok(more * 1024.0 / regions.len() as f64)
}

fn meminfo_kib(field: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo lacks {field}"))
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
