//! The VM takes pages because it wants the memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::matrix::scene::{Scene, Unfit};
use crate::mem::PAGE;
use crate::swap::{Swap, use_swap};
use crate::system::{Cgroup, smaps_kib};

/// Longest time until the VM has dropped a page that it may drop.
const PATIENCE: Duration = Duration::from_secs(30);

/// MADV_FREE lets the VM drop pages until they are written again: those that the device wrote are dirty and stay.
pub fn free(s: &mut Scene<'_>) -> Result<String> {
    use_swap(Swap::Zram)?;
    let pages = s.stage.len() / PAGE;
    // What nobody writes again proves that the others were in danger.
    let idle = (pages - 8) * PAGE..pages * PAGE;
    let busy = 0..idle.start;
    let (start, mut round, mut dropped) = (Instant::now(), 0, 0);
    // Pages that came in on another CPU just now wait in its own list, out of reach.
    while round < 3 || (dropped == 0 && start.elapsed() < PATIENCE) {
        s.fill(round);
        s.traffic(6)?;
        s.advise(&s.all(), libc::MADV_FREE)?;
        match s.verb.changing_leg() {
            Some(leg) => {
                for page in (busy.start / PAGE)..(busy.end / PAGE) {
                    let len = s.verb.fixed_length().unwrap_or(PAGE / 2);
                    s.stage.must(s.verb, leg, page * PAGE + 512, len)?;
                }
            }
            // Nothing that this operation does keeps a page.
            None => s.stage.fill(busy.clone(), s.seed(round + 7)),
        }
        for _ in 0..3 {
            s.advise(&s.all(), libc::MADV_PAGEOUT)?;
        }
        s.stage
            .verify_range(busy.clone(), "pages written after MADV_FREE")?;
        let bytes = s.stage.accept(idle.clone());
        dropped += bytes
            .chunks(PAGE)
            .filter(|p| p.iter().all(|b| *b == 0))
            .count();
        s.traffic(6)?;
        s.stage.verify("the stage")?;
        round += 1;
    }
    if dropped == 0 {
        bail!("the VM dropped none of the pages that it might have");
    }
    Ok(format!(
        "{dropped} of 24 idle pages dropped, no written one"
    ))
}

/// Resident pages of the stage.
fn resident(s: &Scene<'_>) -> usize {
    smaps_kib(s.address(0), s.stage.len(), "Rss") as usize * 1024 / PAGE
}

fn page_out(s: &Scene<'_>) -> Result<()> {
    // One call can leave pages behind that were busy just then.
    for _ in 0..5 {
        s.advise(&s.all(), libc::MADV_PAGEOUT)?;
    }
    Ok(())
}

/// Cold pages are the first to go; then the VM is told to take them.
pub fn cold(s: &mut Scene<'_>) -> Result<String> {
    use_swap(Swap::Zram)?;
    s.fill(1);
    for _ in 0..4 {
        s.traffic(8)?;
        let range = s.pages(4);
        s.advise(&range, libc::MADV_COLD)?;
        s.traffic_in(range.clone(), 3)?;
        s.advise(&range, libc::MADV_PAGEOUT)?;
        s.traffic_in(range, 3)?;
        s.stage.verify("the stage")?;
    }
    Ok("4 ranges cold, then out".into())
}

pub fn swap_zram(s: &mut Scene<'_>) -> Result<String> {
    swap(s, Swap::Zram)
}

/// A disk keeps a clean page in the swap cache: what the device wrote since is lost unless it is marked dirty.
pub fn swap_disk(s: &mut Scene<'_>) -> Result<String> {
    swap(s, Swap::Disk)
}

fn swap(s: &mut Scene<'_>, which: Swap) -> Result<String> {
    if !which.is_there() {
        return Err(Unfit("there is no scratch disk (--disk adds one)".into()).into());
    }
    use_swap(which)?;
    s.fill(1);
    let mut out = 0;
    let pages = s.stage.len() / PAGE;
    for _ in 0..4 {
        s.traffic(10)?;
        page_out(s)?;
        out += pages - resident(s);
        // By the CPU, so that pages come in clean, and the device alone changes them.
        s.stage.verify("from swap")?;
        s.traffic(10)?;
    }
    page_out(s)?;
    s.stage.verify("from swap, at the end")?;
    // Pages that came in on another CPU just now wait in its own list, out of reach.
    if out < pages / 4 {
        bail!("only {out} of {} pages went out", 4 * pages);
    }
    Ok(format!("{out} pages out and in"))
}

/// The stage is bigger than what its process may have: each access of one page takes another away.
pub fn memcg(s: &mut Scene<'_>) -> Result<String> {
    use_swap(Swap::Zram)?;
    let group = Cgroup::new("emm-matrix")?;
    group.write("memory.max", "3145728")?;
    group.add(std::process::id())?;
    let work = crowd(s);
    Cgroup::leave(std::process::id())?;
    let swapped = group
        .read("memory.swap.peak")
        .or_else(|_| group.read("memory.swap.current"));
    work.context("with 3 MiB of memory for 4 MiB")?;
    let swapped: u64 = swapped?.trim().parse().unwrap_or(0);
    if swapped == 0 {
        bail!("nothing went to swap");
    }
    Ok(format!("4 MiB in 3 MiB, {} KiB in swap", swapped >> 10))
}

fn crowd(s: &mut Scene<'_>) -> Result<()> {
    s.fill(1);
    s.traffic(30)?;
    s.stage.verify("the stage")?;
    s.traffic(30)?;
    s.stage.verify("the stage, again")
}
