//! A look that takes no mark away: khugepaged makes a huge page of small ones only if one of them is used, and asks us too.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::{Map, PAGE};
use crate::system::smaps_kib;
use crate::target::Target;
use crate::trace::{Log, field};

const HUGE: usize = 2 << 20;
/// Pages that the device reads. About so many used ones in 2 MiB nobody else has.
const USED: u64 = 37;
/// So many more or less are still ours: a translation that goes meanwhile is no mark taken by a look.
const ABOUT: u64 = 8;
const FOLDER: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";
/// More looks than an access would last for, if each took a mark.
const LOOKS: u64 = 10;

/// A file of khugepaged's.
fn number(name: &str) -> Result<u64> {
    let path = Path::new(FOLDER).join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("{}: {text:?}", path.display()))
}

fn set(name: &str, value: u64) -> Result<()> {
    let path = Path::new(FOLDER).join(name);
    fs::write(&path, value.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// Waits until khugepaged has looked at all memory so many times.
fn looks(times: u64) -> Result<()> {
    let end = number("full_scans")? + times;
    while number("full_scans")? < end {
        std::thread::yield_now();
    }
    Ok(())
}

/// The case.
pub fn look(c: &Ctx<'_>) -> Result<String> {
    let settings = ["scan_sleep_millisecs", "pages_to_scan", "max_ptes_none"];
    let before = settings.map(number);
    set("scan_sleep_millisecs", 5)?;
    set("pages_to_scan", 65536)?;
    set("max_ptes_none", 0)?;
    let outcome = looked_at(c);
    for (name, value) in settings.into_iter().zip(before) {
        set(name, value?)?;
    }
    outcome
}

/// Makes the part idle to the page tables. `MADV_COLD` passes over pages that are on no list: a fault by the region activates
/// pages, which wait for that, up to 31 of them, with the CPU that it ran on. `drop_caches` has all CPUs do it.
fn cool(map: &Map) -> Result<()> {
    let mut used = Vec::new();
    for _ in 0..10 {
        fs::write("/proc/sys/vm/drop_caches", "1").context("writing drop_caches")?;
        map.advise(0, HUGE, libc::MADV_COLD)?;
        match smaps_kib(map.addr(), HUGE, "Referenced") {
            0 => return Ok(()),
            kib => used.push(kib),
        }
    }
    bail!("so many KiB stay used in spite of MADV_COLD: {used:?}")
}

/// To the page tables the part is idle, and has a hole, so that however often it is looked at, no huge page is made of it.
fn looked_at(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon_huge_aligned(HUGE)?;
    map.advise(0, HUGE, libc::MADV_NOHUGEPAGE)?;
    let t = Target::new(c.env, c.kind, map)?;
    t.cpu_fill(0, HUGE - PAGE, c.seed(1));
    // Translated: what is read after MADV_COLD, only the region knows.
    t.read(0, USED as usize * PAGE, c.seed(1))?;
    cool(&t.map)?;
    t.read(0, USED as usize * PAGE, c.seed(1))?;
    let log = Log::of_group("huge_memory/mm_khugepaged_scan_pmd")?;
    t.map.advise(0, HUGE, libc::MADV_HUGEPAGE)?;
    looks(LOOKS + 1)?;
    let events = log.of("mm_khugepaged_scan_pmd")?;
    let counts: Vec<u64> = events
        .iter()
        .filter_map(|fields| field(fields, "referenced"))
        .collect();
    let ours = |count: &&u64| count.abs_diff(USED) <= ABOUT;
    let found = counts.iter().filter(ours).count();
    if (found as u64) < LOOKS {
        bail!(
            "{found} of {LOOKS} looks found about the {USED} pages that the device reads used: {counts:?}"
        );
    }
    Ok(format!("{found} looks, each finds about {USED} pages used"))
}
