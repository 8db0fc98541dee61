//! `ibv_advise_mr`: what is prefetched causes no fault later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::area::Area;
use super::{Ctx, killed, refused};
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::Work;
use crate::private::Advise;
use crate::system::{self, Kind};
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Pd};

const PAGES: usize = 700;
const SIZE: usize = PAGES * PAGE;
const READ: u32 = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH;
const WRITE: u32 = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
const NO_FAULT: u32 = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT;
const FLUSH: u32 = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
/// Longest time of a prefetch in the background.
const SOON: Duration = Duration::from_secs(10);

/// The cases.
pub fn advise(c: &Ctx<'_>) -> Result<()> {
    let advice = Advise::find()?;
    if c.kind.resolve() == Kind::Emm {
        c.case("prefetch, then READ", prefetch(c, &advice, READ, FLUSH));
        c.case(
            "prefetch to write, then WRITE",
            prefetch(c, &advice, WRITE, FLUSH),
        );
        c.case("prefetch in the background", prefetch(c, &advice, READ, 0));
        c.case(
            "to write, in the background",
            prefetch(c, &advice, WRITE, 0),
        );
        c.case("what is there already", no_fault(c, &advice));
        c.case("a hole in the range", hole(c, &advice));
        c.case("kill -9 in the middle", killed::in_advice(c));
    }
    c.case("refused", refusals(c, &advice));
    Ok(())
}

/// Counters of all regions of the device, as `rdma` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    faults: u64,
    prefetched: u64,
}

fn counters() -> Result<Counters> {
    let text = system::run("rdma", &["-j", "statistic", "show", "mr"])?;
    let regions: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("rdma statistic says {text:?}"))?;
    let sum = |name: &str| regions.iter().filter_map(|r| r[name].as_u64()).sum();
    Ok(Counters {
        faults: sum("page_faults"),
        prefetched: sum("page_prefetch"),
    })
}

/// Waits until `pages` more were prefetched. There is no event for it.
fn wait_for(before: Counters, pages: u64) -> Result<Counters> {
    let start = Instant::now();
    loop {
        let now = counters()?;
        let came = now.prefetched - before.prefetched;
        if came >= pages {
            return Ok(now);
        }
        if start.elapsed() > SOON {
            bail!("{came} of {pages} pages after {} s", SOON.as_secs());
        }
        std::thread::yield_now();
    }
}

fn prefetch(c: &Ctx<'_>, advice: &Advise, which: u32, flags: u32) -> Result<String> {
    let pair = c.pair()?;
    let mut local = c.pinned(SIZE)?;
    let mut area = c.area(SIZE, ALL_ACCESS)?.small_pages()?;
    local.fill(0, SIZE, c.seed(u64::from(which)));
    // Two elements at odd places, the second one over a boundary of the table's parts.
    let ranges = [(PAGE + 77, 3 * PAGE), (100 * PAGE + 1, 590 * PAGE)];
    let before = counters()?;
    let list = ranges.map(|(off, len)| area.sge(off, len));
    advice.give(&c.env.pd, which, flags, &list)?;
    let pages = 4 + 591;
    let after = if flags == FLUSH {
        counters()?
    } else {
        wait_for(before, pages)?
    };
    let came = after.prefetched - before.prefetched;
    if came != pages || after.faults != before.faults {
        bail!("{before:?}, then {after:?}: expected {pages} pages and no fault");
    }
    for (off, len) in ranges {
        if which == WRITE {
            pair.near
                .run(Work::Write(area.remote(off)), &[local.sge(5, len)])?;
            area.expect(off, local.holds(5, len));
        } else {
            pair.near
                .run(Work::Read(area.remote(off)), &[local.sge(5, len)])?;
            local.expect(5, area.holds(off, len));
        }
    }
    let faults = counters()?.faults - after.faults;
    if faults != 0 {
        bail!("{faults} pages were faulted in by what had been prefetched");
    }
    area.check("the region")?;
    local.check("the other side")?;
    Ok(format!(
        "page_prefetch +{came}, then no fault, 0 wrong bytes"
    ))
}

/// The advice to prefetch without faults brings in what is there and nothing else, and waits for nobody: the second half's pages
/// would have to come from a userfaultfd handler.
fn no_fault(c: &Ctx<'_>, advice: &Advise) -> Result<String> {
    const THERE: usize = PAGES / 2 * PAGE;
    let mut said = Vec::new();
    for (name, flags) in [("synchronous", FLUSH), ("in the background", 0)] {
        let pair = c.pair()?;
        let mut local = c.pinned(SIZE)?;
        let mut area = c.area(SIZE, ALL_ACCESS)?.small_pages()?;
        let handler = Uffd::new().context("userfaultfd")?;
        handler.watch(area.map(), THERE, SIZE - THERE)?;
        area.fill(0, THERE, c.seed(9));
        // One that is not there among those that are.
        area.map().advise(10 * PAGE, PAGE, libc::MADV_DONTNEED)?;
        area.expect(10 * PAGE, &[0; PAGE]);
        let before = counters()?;
        let list = [area.sge(PAGE + 1, SIZE - PAGE - 1)];
        advice.give(&c.env.pd, NO_FAULT, flags, &list)?;
        let pages = PAGES as u64 / 2 - 2;
        let after = wait_for(before, pages)?;
        let resident = system::region(area.addr())?.resident;
        let came = after.prefetched - before.prefetched;
        if came != pages || resident != pages || after.faults != before.faults {
            bail!("{name}: {before:?}, then {after:?}, {resident} pages in the table: not {pages}");
        }
        let len = THERE - 11 * PAGE;
        pair.near
            .run(Work::Read(area.remote(11 * PAGE)), &[local.sge(5, len)])?;
        local.expect(5, area.holds(11 * PAGE, len));
        local.check("what was READ")?;
        if counters()?.faults != before.faults {
            bail!("{name}: a READ of what had been prefetched faulted");
        }
        if handler.next(Duration::ZERO)?.is_some() {
            bail!("{name}: the handler was asked");
        }
        said.push(format!("{name} +{came}"));
    }
    Ok(format!("{}; no fault, 0 wrong bytes", said.join(", ")))
}

fn hole(c: &Ctx<'_>, advice: &Advise) -> Result<String> {
    let area = c.area(SIZE, ALL_ACCESS)?;
    area.map().punch(SIZE / 2, PAGE)?;
    let list = [area.sge(0, SIZE)];
    let give = |flags| advice.give(&c.env.pd, READ, flags, &list);
    refused(give(FLUSH), &[libc::EFAULT], "synchronous")?;
    give(0).context("in the background, as best effort")?;
    area.map().renew(SIZE / 2, PAGE)?;
    give(FLUSH).context("with the hole filled")?;
    area.check("the region")?;
    Ok("EFAULT; accepted once there is memory".into())
}

fn refusals(c: &Ctx<'_>, advice: &Advise) -> Result<String> {
    let other: Arc<Pd> = Pd::new(c.env.pd.device())?;
    let foreign = Area::new(&other, SIZE, ALL_ACCESS | c.kind.flags())?;
    let area = c.area(SIZE, ALL_ACCESS)?;
    let constant = c.area(SIZE, ffi::IBV_ACCESS_REMOTE_READ)?;
    let pinned = c.pinned(SIZE)?;
    let good = area.sge(0, PAGE);
    let changed = |change: fn(&mut ffi::ibv_sge)| {
        let mut sge = good;
        change(&mut sge);
        sge
    };
    let unknown = changed(|s| s.lkey ^= 0x55);
    let nowhere = changed(|s| s.lkey = 0xffff_ff00);
    let before_it = changed(|s| s.addr -= 1);
    let beyond = changed(|s| s.length = (SIZE + 1) as u32);
    let behind = changed(|s| s.addr += SIZE as u64);
    let wraps = changed(|s| s.addr = u64::MAX - 50);
    let (inval, perm) = (&[libc::EINVAL, libc::EOPNOTSUPP][..], &[libc::EPERM][..]);
    // The man page has the second one.
    let range = &[libc::EINVAL, libc::EFAULT][..];
    let none = counters()?;
    let mut count = 0;
    let mut refuse = |what, which, flags, list: &[ffi::ibv_sge], errnos| {
        count += 1;
        let result = advice.give(&c.env.pd, which, flags, list);
        refused(
            result,
            errnos,
            &format!("{what}, advice {which}, flags {flags}"),
        )
    };
    for flags in [FLUSH, 0] {
        for (what, sge) in [
            ("another key", unknown),
            ("a key of nothing", nowhere),
            ("a region of another domain", foreign.sge(0, PAGE)),
            ("a pinned region", pinned.sge(0, PAGE)),
        ] {
            for which in [READ, WRITE, NO_FAULT] {
                refuse(what, which, flags, &[sge], inval)?;
                refuse(what, which, flags, &[good, sge], inval)?;
            }
        }
        for (what, sge) in [
            ("from before the region", before_it),
            ("beyond its end", beyond),
            ("behind its end", behind),
            ("a range that wraps", wraps),
        ] {
            refuse(what, READ, flags, &[sge], range)?;
            refuse(what, WRITE, flags, &[sge], range)?;
            refuse(what, READ, flags, &[sge, good], range)?;
        }
        refuse("no such advice", 3, flags, &[good], inval)?;
        refuse("no such advice", 77, flags, &[good], inval)?;
        if c.kind != Kind::Pinned {
            let list = [constant.sge(0, PAGE)];
            refuse("writing, read-only region", WRITE, flags, &list, perm)?;
        }
    }
    refuse("unknown flags", READ, 2, &[good], inval)?;
    refuse("unknown flags", READ, 0x8000_0001, &[good], inval)?;
    refuse("an empty list", READ, FLUSH, &[], inval)?;
    let now = counters()?;
    if now != none {
        bail!("something was brought in: {none:?}, then {now:?}");
    }
    afterwards(c, area)?;
    Ok(format!(
        "{count} combinations, nothing brought in; the device works on"
    ))
}

fn afterwards(c: &Ctx<'_>, mut area: Area) -> Result<()> {
    let mut local = c.pinned(SIZE)?;
    local.fill(0, SIZE, c.seed(3));
    let pair = c.pair()?;
    pair.near
        .run(Work::Write(area.remote(1)), &[local.sge(0, SIZE - 1)])?;
    area.expect(1, local.holds(0, SIZE - 1));
    area.check("afterwards")
}
