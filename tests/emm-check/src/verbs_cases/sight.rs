//! What can be seen of a region from outside: counters, resources, debugfs and trace events, compared with what was done.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::area::Area;
use super::{Ctx, refused};
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::Work;
use crate::private::Advise;
use crate::system;
use crate::trace::{Counter, Log, field};
use crate::verbs::{ALL_ACCESS, Mr};

const PAGES: usize = 64;
const SIZE: usize = PAGES * PAGE;

/// The cases.
pub fn sight(c: &Ctx<'_>) -> Result<()> {
    c.case("rdma resource show mr", resources(c));
    c.case("rdma statistic show mr, and debugfs", counters(c));
    c.case("trace events", events(c));
    c.case("trace event of an exit", exit(c));
    c.case("trace events as perf counts them", counted(c));
    Ok(())
}

/// What `rdma WHAT show mr` says of all regions.
fn show(what: &str) -> Result<Vec<Value>> {
    let text = system::run("rdma", &["-jdd", what, "show", "mr"])?;
    serde_json::from_str(&text).with_context(|| format!("rdma {what} says {text:?}"))
}

/// Its part about `mr`.
fn resource(mr: &Mr) -> Result<Value> {
    let key = format!("{:x}", mr.rkey());
    let found = show("resource")?
        .into_iter()
        .find(|one| one["rkey"] == key.as_str());
    found.with_context(|| format!("no region with key {key}"))
}

/// page_faults, page_invalidations, page_prefetch.
fn statistic(mr: &Mr) -> Result<[u64; 3]> {
    let number = &resource(mr)?["mrn"];
    let all = show("statistic")?;
    let mine = all.iter().find(|one| one["mrn"] == *number);
    let mine = mine.with_context(|| format!("no statistic of region {number}"))?;
    let mut counts = [0; 3];
    let names = ["page_faults", "page_invalidations", "page_prefetch"];
    for (count, name) in counts.iter_mut().zip(names) {
        *count = mine[name]
            .as_u64()
            .with_context(|| format!("no {name}: {mine}"))?;
    }
    Ok(counts)
}

/// Every field, of a region of each kind.
fn resources(c: &Ctx<'_>) -> Result<String> {
    let (unpinned, pinned) = (c.area(SIZE, ALL_ACCESS)?, c.pinned(3 * PAGE)?);
    let all = Mr::new(&c.env.pd, 0, usize::MAX, ALL_ACCESS | c.kind.flags())?;
    let asked = [
        (&unpinned.mr, SIZE as u64, c.kind.label()),
        (&pinned.mr, 3 * PAGE as u64, "pinned"),
        (&all, u64::MAX, c.kind.label()),
    ];
    let mut numbers = Vec::new();
    for (mr, length, backend) in asked {
        let seen = resource(mr)?;
        let key = format!("{:x}", mr.lkey());
        let right = seen["ifname"] == c.env.device.as_str()
            && seen["lkey"] == key.as_str()
            && seen["mrlen"] == length
            && seen["pdn"].is_u64()
            && seen["pid"] == std::process::id()
            && seen["comm"] == "emm-check"
            && seen["drv_backend"] == backend;
        if !right || numbers.contains(&seen["mrn"]) {
            bail!("a region of {length} bytes, {backend}: {seen}");
        }
        numbers.push(seen["mrn"].clone());
    }
    Ok("unpinned, pinned and implicit: keys, length, domain, owner, backend".into())
}

fn counters(c: &Ctx<'_>) -> Result<String> {
    let advice = Advise::find()?;
    let pair = c.pair()?;
    let local = c.pinned(SIZE)?;
    let area = c.area(SIZE, ALL_ACCESS)?.small_pages()?;
    let other = c.area(SIZE, ALL_ACCESS)?;
    let bare = system::region(area.addr())?;
    let expect = |what: &str, counts: [u64; 3], resident: u64| -> Result<()> {
        let (found, seen) = (statistic(&area.mr)?, system::region(area.addr())?);
        let empty = seen.table_bytes == bare.table_bytes;
        if found != counts || seen.resident != resident || empty != (resident == 0) {
            bail!("{what}: {found:?} instead of {counts:?}, and {seen:?}");
        }
        Ok(())
    };
    expect("registered", [0, 0, 0], 0)?;
    pair.near
        .run(Work::Read(area.remote(5)), &[local.sge(0, 100)])?;
    expect("one page read", [1, 0, 0], 1)?;
    let flags = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
    let which = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH;
    let list = [area.sge(40 * PAGE, 10 * PAGE)];
    advice.give(&c.env.pd, which, flags, &list)?;
    expect("ten prefetched", [1, 0, 10], 11)?;
    area.map()
        .advise(38 * PAGE, 6 * PAGE, libc::MADV_DONTNEED)?;
    expect("four of them thrown away", [1, 4, 10], 7)?;
    area.map().advise(0, SIZE, libc::MADV_DONTNEED)?;
    expect("all thrown away", [1, 11, 10], 0)?;
    if statistic(&other.mr)? != [0; 3] {
        bail!("another region counted them too");
    }
    Ok(
        "page_faults, page_invalidations, page_prefetch, resident pages and table bytes as done"
            .into(),
    )
}

/// Pages that the events of `area` named `name` tell of, by the field that is their address.
fn pages(log: &Log, name: &str, address: &str, area: &Area) -> Result<u64> {
    let inside = area.addr() as u64..(area.addr() + SIZE) as u64;
    let mine = |fields: &String| field(fields, address).is_some_and(|at| inside.contains(&at));
    let events = log.of(name)?;
    Ok(events
        .iter()
        .filter(|f| mine(f))
        .filter_map(|f| field(f, "pages"))
        .sum())
}

fn events(c: &Ctx<'_>) -> Result<String> {
    let log = Log::new()?;
    let area = c.area(SIZE, ALL_ACCESS)?.small_pages()?;
    let told = |what: &str| -> Result<()> {
        let all = log.of("emm_register")?;
        if !all.iter().any(|fields| fields == what) {
            bail!("no registration {what:?} in {all:?}");
        }
        Ok(())
    };
    told(&format!("start={:#x} length={SIZE} error=0", area.addr()))?;
    let nowhere = 0xffff_8880_0000_0000;
    let all = ALL_ACCESS | c.kind.flags();
    refused(
        Mr::new(&c.env.pd, nowhere, PAGE, all),
        &[libc::EINVAL],
        "kernel addresses",
    )?;
    told(&format!(
        "start={nowhere:#x} length={PAGE} error={}",
        -libc::EINVAL
    ))?;
    let local = c.pinned(SIZE)?;
    let list = [local.sge(0, 20 * PAGE)];
    c.pair()?.near.run(Work::Write(area.remote(0)), &list)?;
    let resident = system::region(area.addr())?.resident;
    let faulted = pages(&log, "emm_fault", "address", &area)?;
    if resident < 20 || faulted != resident {
        bail!("{faulted} pages in emm_fault, {resident} in the table");
    }
    area.map().advise(0, SIZE, libc::MADV_DONTNEED)?;
    let gone = pages(&log, "emm_invalidate", "start", &area)?;
    if gone != resident {
        bail!("{gone} pages in emm_invalidate, {resident} were in the table");
    }
    Ok(format!(
        "registered, refused, {faulted} pages in, {gone} out"
    ))
}

/// A process ends with its region registered.
fn exit(c: &Ctx<'_>) -> Result<String> {
    let log = Log::new()?;
    let out = Command::new(std::env::current_exe()?)
        .args(&c.env.child_args)
        .args(["fork-child", "--mr", "ondemand"])
        .output()
        .context("starting the process that ends")?;
    if !out.status.success() {
        bail!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    let told = log.of("emm_release")?;
    match &told[..] {
        [one] if field(one, "length").is_some_and(|length| length > 0) => Ok(one.clone()),
        _ => bail!("one process ended, and the events are {told:?}"),
    }
}

fn counted(c: &Ctx<'_>) -> Result<String> {
    let names = [
        "emm_register",
        "emm_fault",
        "emm_fault_lost",
        "emm_invalidate",
        "emm_release",
    ];
    let counters = names.map(Counter::new);
    let log = Log::new()?;
    let local = c.pinned(SIZE)?;
    let list = [local.sge(0, SIZE)];
    for _ in 0..3 {
        let area = c.area(SIZE, ALL_ACCESS)?;
        c.pair()?.near.run(Work::Write(area.remote(0)), &list)?;
        area.map().advise(0, SIZE, libc::MADV_DONTNEED)?;
    }
    let mut said = Vec::new();
    for (name, counter) in names.into_iter().zip(counters) {
        let (count, lines) = (counter?.count()?, log.of(name)?.len() as u64);
        // A fault that loses is rare, and the release of a process that goes on never comes.
        let expected = match name {
            "emm_fault_lost" => true,
            "emm_release" => count == 0,
            _ => count > 0,
        };
        if count != lines || !expected {
            bail!("{name}: perf counted {count}, the trace has {lines}");
        }
        said.push(format!("{count} {name}"));
    }
    Ok(said.join(", "))
}
