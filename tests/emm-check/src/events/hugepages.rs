//! The same bytes on other pages: huge pages made and split, compaction.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::system::{Kind, region, smaps_kib, vmstat};
use crate::target::Target;
use crate::trace::Counter;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 8 << 20;
const HUGE: usize = 2 << 20;
const MADV_COLLAPSE: i32 = 25;

pub fn thp(c: &Ctx<'_>) -> Result<()> {
    let map = Map::anon_huge_aligned(SIZE)?;
    map.advise(0, SIZE, libc::MADV_HUGEPAGE)
        .context("MADV_HUGEPAGE (is THP configured?)")?;
    let t = Target::new(c.env, c.kind, map)?;
    let huge = || smaps_kib(t.map.addr(), SIZE, "AnonHugePages") >> 10;
    let work = || {
        t.round(1, SIZE - 1, c.seed(1))?;
        Ok(format!("{} MiB of huge pages under the region", huge()))
    };
    c.case("first touch by RDMA", work());
    if c.kind.resolve() == Kind::Emm {
        c.case("one entry for a huge page", one_entry(&t));
    }
    let work = || {
        let before = huge();
        // A page thrown out of the middle, and one with another protection, split their huge pages.
        t.map.advise(HUGE + 17 * PAGE, PAGE, libc::MADV_DONTNEED)?;
        t.map.protect(2 * HUGE + 5 * PAGE, PAGE, libc::PROT_READ)?;
        t.read(2 * HUGE, HUGE, c.seed(1))?;
        t.map.protect(
            2 * HUGE + 5 * PAGE,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
        )?;
        t.read_cmp(HUGE + 17 * PAGE, PAGE, |_, out| out.fill(0))?;
        t.read(HUGE, 17 * PAGE, c.seed(1))?;
        t.read(HUGE + 18 * PAGE, HUGE - 18 * PAGE, c.seed(1))?;
        t.round(1, SIZE - 1, c.seed(2))?;
        Ok(format!(
            "{before} -> {} MiB of huge pages, 0 wrong bytes",
            huge()
        ))
    };
    c.case("split", work());
    let work = || {
        let before = huge();
        t.map
            .advise(0, SIZE, MADV_COLLAPSE)
            .context("MADV_COLLAPSE")?;
        let after = huge();
        t.read(1, SIZE - 1, c.seed(2))?;
        t.round(1, SIZE - 1, c.seed(3))?;
        if after << 20 < SIZE as u64 {
            bail!("only {after} MiB were collapsed (0 wrong bytes)");
        }
        Ok(format!(
            "{before} -> {after} MiB of huge pages, 0 wrong bytes"
        ))
    };
    c.case("collapse", work());
    if c.kind.resolve() == Kind::Emm {
        c.case("a region in part of a huge page", part_of_one(c, &t));
    }
    Ok(())
}

/// Cold messages to a region that no entry for a huge page fits in: it is entered page by page, at once, and nobody waits for long.
fn part_of_one(c: &Ctx<'_>, t: &Target) -> Result<String> {
    const AT: usize = 2 * HUGE + 100 * PAGE;
    const LEN: usize = 200 * PAGE;
    const ROUNDS: u64 = 20;
    if t.map.advise(0, SIZE, MADV_COLLAPSE).is_err() {
        bail!("no huge page to lie in");
    }
    let faults = Counter::new("emm_fault")?;
    for round in 0..ROUNDS {
        let access = ALL_ACCESS | c.kind.flags();
        let mr = Mr::new(&c.env.pd, t.map.addr() + AT, LEN, access).context("ibv_reg_mr")?;
        let part = Target::sharing(c.env, t.map.clone(), Arc::new(mr))?;
        t.map.set(AT - 1, 1, 1);
        t.map.set(AT + LEN, 1, 1);
        part.write_one(AT + 3, LEN - 4, c.seed(round))?;
        part.cpu_check(AT + 3, LEN - 4, c.seed(round))?;
        let around = t.map.check_byte(AT - 1, 1, 1);
        around.ok("the byte in front of the region")?;
        t.map
            .check_byte(AT + LEN, 1, 1)
            .ok("the byte behind the region")?;
    }
    let calls = faults.count()?;
    if calls > 2 * ROUNDS {
        bail!("{calls} fault calls for {ROUNDS} messages");
    }
    Ok(format!(
        "{ROUNDS} cold messages, {calls} fault calls, 0 wrong bytes"
    ))
}

/// Compaction moves pages while WRITEs run.
pub fn migrate(c: &Ctx<'_>) -> Result<()> {
    let t = c.target(SIZE)?;
    // Every second page of much memory in use: compaction has something to do.
    let ballast = Map::anon(128 << 20)?;
    for off in (0..ballast.len()).step_by(PAGE) {
        ballast.set(off, 1, 1);
    }
    for off in (0..ballast.len()).step_by(2 * PAGE) {
        ballast.advise(off, PAGE, libc::MADV_DONTNEED)?;
    }
    t.round(0, SIZE, c.seed(1))?;
    let before = vmstat("pgmigrate_success");
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|s| {
        let compactor = s.spawn(|| -> Result<u32> {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) || times == 0 {
                fs::write("/proc/sys/vm/compact_memory", "1")
                    .context("/proc/sys/vm/compact_memory")?;
                times += 1;
            }
            Ok(times)
        });
        let traffic = || {
            for i in 0..4 {
                t.round(i, SIZE - i, c.seed(2 + i as u64))?;
            }
            Ok(())
        };
        let result: Result<()> = traffic();
        stop.store(true, Ordering::Relaxed);
        let times = match compactor.join() {
            Ok(times) => times?,
            Err(_) => bail!("the compacting thread panicked"),
        };
        result?;
        t.read(3, SIZE - 3, c.seed(5))?;
        let moved = vmstat("pgmigrate_success") - before;
        Ok(format!(
            "{times} times compacted, {moved} pages moved, 0 wrong bytes"
        ))
    });
    c.case("compaction under traffic", outcome);
    Ok(())
}

/// That a fully translated region of huge pages has directories only: a page of table for each of its
/// levels above the leaves.
fn one_entry(t: &Target) -> Result<String> {
    let seen = region(t.map.addr())?;
    let pages = (t.map.len() / PAGE) as u64;
    if seen.resident != pages || seen.table_bytes > 2 * PAGE as u64 {
        bail!(
            "{} of {pages} pages translated by {} bytes of table",
            seen.resident,
            seen.table_bytes
        );
    }
    Ok(format!(
        "{pages} pages translated by {} bytes of table",
        seen.table_bytes
    ))
}

/// With the flag that says so, which has to be true of the memory.
fn as_huge_pages(c: &Ctx<'_>, t: &Target) -> Result<String> {
    let access = ALL_ACCESS | c.kind.flags() | ffi::IBV_ACCESS_HUGETLB;
    let mr = Mr::new(&c.env.pd, t.map.addr() + HUGE, HUGE, access).context("ibv_reg_mr")?;
    let huge = Target::sharing(c.env, t.map.clone(), Arc::new(mr))?;
    huge.round(HUGE + 3, HUGE - 4, c.seed(3))?;
    t.round(1, SIZE - 1, c.seed(1))?;
    let small = Map::anon(HUGE)?;
    match Mr::new(&c.env.pd, small.addr(), HUGE, access) {
        Ok(_) => bail!("small pages were registered as huge ones"),
        Err(e) => Ok(format!("0 wrong bytes; small pages are refused ({e})")),
    }
}

/// Explicit huge pages.
pub fn hugetlb(c: &Ctx<'_>) -> Result<()> {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let want = SIZE / HUGE;
    fs::write(POOL, (want + 1).to_string()).with_context(|| format!("writing {POOL}"))?;
    let flags = libc::MAP_HUGETLB;
    let map = Map::with(0, SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
        .context("mapping huge pages (is there memory in one piece?)")?;
    let t = Target::new(c.env, c.kind, map)?;
    let work = || {
        t.round(1, SIZE - 1, c.seed(1))?;
        Ok("0 wrong bytes".into())
    };
    c.case("first touch by RDMA", work());
    if c.kind.resolve() == Kind::Emm {
        c.case("registered as huge pages", as_huge_pages(c, &t));
        c.case("one entry for a huge page", one_entry(&t));
    }
    let work = || {
        t.map.advise(HUGE, HUGE, libc::MADV_DONTNEED)?;
        t.read_cmp(HUGE, HUGE, |_, out| out.fill(0))?;
        t.read(1, HUGE - 1, c.seed(1))?;
        t.round(77, SIZE - 77, c.seed(2))?;
        Ok("one thrown away reads as zero, the others keep their bytes".into())
    };
    c.case("MADV_DONTNEED of one", work());
    drop(t);
    fs::write(POOL, "0").with_context(|| format!("writing {POOL}"))
}
