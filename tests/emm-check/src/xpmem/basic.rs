//! Segments, permits and attachments as they should be. The first of them are what public suites of XPMEM look at.

use std::time::{Duration, Instant};

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;
use crate::system::vm_kib;

const P: u64 = PAGE as u64;
const SIZE: u64 = 64 * P;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem",
        &[
            ("one writes, the other changes it", &base),
            ("two attachments by one permit", &two_attachments),
            ("two segments of two owners", &two_segments),
            ("all of an address space", &everything),
            ("a hole in the owner's memory", &hole),
            ("the owner unmaps, and maps anew", &unmapped),
            ("a segment that begins and ends inside of pages", &odd),
            ("at an address of the attacher's choice", &chosen),
            ("an attachment is not attached", &twice),
            ("one's own segment", &oneself),
            ("a removed segment", &removed),
            (
                "nothing is pinned, nothing is charged to be locked",
                &counts,
            ),
            ("attaching costs the same at any size", &flat),
        ],
    );
}

fn both() -> Result<(Peer, Peer)> {
    Ok((Peer::start("owner")?, Peer::start("attacher")?))
}

fn base() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.holds(there, SIZE, 2, 0)?;
    owner.must(Order::Store, &[there + 100, 9000, 3, 0])?;
    attacher.holds(at + 100, 9000, 3, 0)?;
    attacher.end(abi::DETACH, at)?.context("detaching")?;
    let gone = attacher.refused(Order::Load, &[at, 1])?;
    attacher.end(abi::RELEASE, permit)?.context("releasing")?;
    owner.end(abi::REMOVE, segment)?.context("removing")?;
    owner.holds(there, 100, 2, 0)?;
    Ok(format!("{SIZE} bytes each way; behind the end: {gone}"))
}

fn two_attachments() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, one) = attacher.join(segment, SIZE)?;
    let other = attacher
        .attach(permit, 4 * P, 8 * P, 0)?
        .context("the second")?;
    attacher.holds(other, 8 * P, 1, 4 * PAGE as u64)?;
    attacher.must(Order::Store, &[one + 4 * P, 8 * P, 5, 0])?;
    attacher.holds(other, 8 * P, 5, 0)?;
    attacher
        .end(abi::DETACH, one)?
        .context("detaching the first")?;
    attacher.must(Order::Store, &[other, 8 * P, 6, 0])?;
    owner.holds(there + 4 * P, 8 * P, 6, 0)?;
    // Both permit and attachment go.
    attacher.end(abi::RELEASE, permit)?.context("releasing")?;
    let gone = attacher.refused(Order::Load, &[other, 1])?;
    Ok(format!(
        "both see the same; behind the permit's end: {gone}"
    ))
}

fn two_segments() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let mut second = Peer::start("second owner")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (there_too, segment_too) = second.share(SIZE, 2)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    let (_, at_too) = attacher.join(segment_too, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    attacher.holds(at_too, SIZE, 2, 0)?;
    // From the one owner to the other.
    attacher.must(Order::Copy, &[at_too + 77, at, 20000])?;
    second.holds(there_too + 77, 20000, 1, 0)?;
    owner.holds(there, SIZE, 1, 0)?;
    Ok("a copy from one owner's memory to the other's".into())
}

fn everything() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let segment = owner.make(0, u64::MAX, 0o666)?.context("making it")?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    // Memory that comes after the segment.
    let there = owner.memory(SIZE)?;
    owner.must(Order::Store, &[there, SIZE, 9, 0])?;
    let at = attacher
        .attach(permit, there, SIZE, 0)?
        .context("attaching")?;
    attacher.holds(at, SIZE, 9, 0)?;
    attacher.must(Order::Store, &[at + P + 1, 3 * P, 4, 0])?;
    owner.holds(there + P + 1, 3 * P, 4, 0)?;
    let again = owner.make(0, u64::MAX, 0o666)?.context("making it again")?;
    owner
        .end(abi::REMOVE, again)?
        .context("removing the second")?;
    attacher.holds(at, P, 9, 0)?;
    Ok("memory that was mapped later is in it, at its address".into())
}

fn hole() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    owner.must(Order::Unmap, &[there + 8 * P, 4 * P])?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, 8 * P, 1, 0)?;
    attacher.holds(at + 12 * P, SIZE - 12 * P, 1, 12 * PAGE as u64)?;
    let mut said = Vec::new();
    for (order, words) in [
        (Order::Load, [at + 8 * P, 8]),
        (Order::Load, [at + 8 * P - 4, 8]),
        (Order::Store, [at + 11 * P, 8]),
        (Order::Add, [at + 10 * P + 8, 1]),
        (Order::KernelReads, [at + 9 * P, 8]),
        (Order::KernelWrites, [at + 9 * P, 8]),
    ] {
        let refusal = attacher.refused(order, &words)?;
        if !refusal.is_absence() {
            bail!("{order:?} in the hole: {refusal}");
        }
        said.push(refusal.to_string());
    }
    attacher.holds(at, 8 * P, 1, 0)?;
    Ok(format!(
        "SIGBUS or EFAULT there, {} times; around it all is right",
        said.len()
    ))
}

fn unmapped() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    for round in 3..6 {
        owner.must(Order::Unmap, &[there, SIZE])?;
        let refusal = attacher.refused(Order::Load, &[at + P, 1])?;
        if !refusal.is_absence() {
            bail!("where nothing is: {refusal}");
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        owner.must(Order::Map, &[there, SIZE, access as u64, flags as u64])?;
        attacher.same(at, &vec![0; SIZE as usize])?;
        attacher.must(Order::Store, &[at, SIZE, round, 0])?;
        owner.holds(there, SIZE, round, 0)?;
    }
    Ok("3 times: nothing there, then the new memory; both live".into())
}

fn odd() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let there = owner.memory(SIZE)?;
    owner.must(Order::Store, &[there, SIZE, 1, 0])?;
    let (start, size) = (there + 100, 5 * P + 7);
    let segment = owner.make(start, size, 0o666)?.context("making it")?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let at = attacher.attach(permit, 0, size, 0)?.context("all of it")?;
    if at % P != 100 {
        bail!("byte 100 of a page is at {at:#x}");
    }
    attacher.holds(at, size, 1, 100)?;
    let part = attacher.attach(permit, P, 10, 0)?.context("a part")?;
    attacher.holds(part, 10, 1, 100 + P)?;
    attacher.must(Order::Store, &[part, 10, 2, 0])?;
    owner.holds(start + P, 10, 2, 0)?;
    for (offset, size) in [
        (0, size + 1),
        (5 * P, 8),
        (6 * P, 1),
        (1, 8),
        (P - 1, P),
        (0, 0),
    ] {
        let refused = attacher.attach(permit, offset, size, 0)?;
        if refused != Err(Refusal::Errno(libc::EINVAL)) {
            bail!("{size} bytes at {offset}: {refused:x?}");
        }
    }
    for at in [at, part] {
        attacher
            .end(abi::DETACH, at)?
            .context("by the address that was given")?;
        attacher.refused(Order::Load, &[at, 1])?;
    }
    Ok("bytes keep their place in the page; offsets begin at pages".into())
}

fn chosen() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let place = attacher.memory(2 * SIZE)?;
    let at = attacher
        .attach(permit, 0, SIZE, place)?
        .context("over memory")?;
    if at != place {
        bail!("at {at:#x}, not at {place:#x}");
    }
    attacher.holds(at, SIZE, 1, 0)?;
    // Over an attachment: one has to detach first.
    let over = attacher.attach(permit, 0, SIZE, place)?;
    if over != Err(Refusal::Errno(libc::EINVAL)) {
        bail!("over an attachment: {over:x?}");
    }
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.holds(there, SIZE, 2, 0)?;
    attacher.must(Order::Store, &[place + SIZE, SIZE, 8, 0])?;
    attacher.holds(place + SIZE, SIZE, 8, 0)?;
    let inside = attacher.attach(permit, 0, SIZE, place + 1)?;
    if inside.is_ok() {
        bail!("at an address inside of a page: {inside:x?}");
    }
    Ok("instead of memory, as MAP_FIXED; not over an attachment: EINVAL".into())
}

/// Whoever attaches an attachment would wait for two owners' VMs.
fn twice() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let mut third = Peer::start("third")?;
    let (_, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    let made = attacher.make(at, SIZE, 0o666)?;
    // All of an address space may have an attachment in it, which is not there for others.
    let all = attacher.make(0, u64::MAX, 0o666)?.context("all of it")?;
    let permit = third.get(all, abi::RDWR)?.context("a permit")?;
    let through = match third.attach(permit, at, P, 0)? {
        Ok(there) => third.refused(Order::Load, &[there, 1])?,
        Err(refusal) => refusal,
    };
    attacher.holds(at, SIZE, 1, 0)?;
    match made {
        Err(refusal) => Ok(format!(
            "a segment of it: {refusal}; through all of memory: {through}"
        )),
        Ok(_) => bail!("a segment of an attachment was made"),
    }
}

fn oneself() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let permit = owner.get(segment, abi::RDWR)?.context("a permit")?;
    match owner.attach(permit, 0, SIZE, 0)? {
        Ok(at) => {
            owner.holds(at, SIZE, 1, 0)?;
            owner.must(Order::Store, &[at, SIZE, 2, 0])?;
            owner.holds(there, SIZE, 2, 0)?;
            owner.must(Order::Advise, &[there, SIZE, libc::MADV_DONTNEED as u64])?;
            owner.same(at, &vec![0; SIZE as usize])?;
            let over = owner.attach(permit, 0, SIZE, there)?;
            if over.is_ok() {
                bail!("attached over itself");
            }
            Ok("is seen at both addresses; not over itself".into())
        }
        Err(refusal) => Ok(format!("is refused: {refusal}")),
    }
}

fn removed() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, at) = attacher.join(segment, SIZE)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.end(abi::REMOVE, segment)?.context("removing")?;
    let touch = attacher.refused(Order::Store, &[at, 1])?;
    let call = attacher.refused(Order::KernelReads, &[at + P, 1])?;
    if !touch.is_absence() || !call.is_absence() {
        bail!("a touch: {touch}; a call: {call}");
    }
    let more = attacher.attach(permit, 0, P, 0)?;
    let get = attacher.get(segment, abi::RDWR)?;
    let again = owner.end(abi::REMOVE, segment)?;
    if more.is_ok() || get.is_ok() || again.is_ok() {
        bail!("attach: {more:x?}, get: {get:x?}, remove: {again:?}");
    }
    attacher.end(abi::DETACH, at)?.context("detaching")?;
    attacher.end(abi::RELEASE, permit)?.context("releasing")?;
    owner.holds(there, SIZE, 2, 0)?;
    Ok(format!("{touch}; what was written stays the owner's"))
}

fn counts() -> Result<String> {
    let (mut owner, mut attacher) = both()?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    let pids = [owner.pid().to_string(), attacher.pid().to_string()];
    for pid in &pids {
        for field in ["VmPin", "VmLck"] {
            let kib = vm_kib(pid, field);
            if kib != 0 {
                bail!("{field} of process {pid} is {kib} KiB");
            }
        }
    }
    // What somebody kept a reference on would stay.
    let before = vm_kib(&pids[0], "RssAnon");
    owner.must(Order::Advise, &[there, SIZE, libc::MADV_DONTNEED as u64])?;
    let after = vm_kib(&pids[0], "RssAnon");
    if before < after + SIZE / 1024 / 2 {
        bail!(
            "{before} KiB of the owner's before it gave {} KiB away, {after} after",
            SIZE / 1024
        );
    }
    attacher.same(at, &vec![0; SIZE as usize])?;
    Ok("VmPin and VmLck are 0 on both sides".into())
}

fn flat() -> Result<String> {
    const HUGE: u64 = 1 << 36;
    let (mut owner, mut attacher) = both()?;
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let (there, _) = owner.must(Order::Map, &[0, HUGE, access, flags as u64])?;
    let segment = owner.make(there, HUGE, 0o600)?.context("making it")?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let mut once = |size: u64| -> Result<Duration> {
        let start = Instant::now();
        let at = attacher.attach(permit, 0, size, 0)?.context("attaching")?;
        let took = start.elapsed();
        attacher.end(abi::DETACH, at)?.context("detaching")?;
        Ok(took)
    };
    // The messages take most of it. The host may be busy: what costs more each time is never as fast as this.
    let (mut small, mut big) = (Duration::MAX, Duration::MAX);
    for turn in 0.. {
        (small, big) = (small.min(once(P)?), big.min(once(HUGE)?));
        if turn >= 10 && big <= 3 * small + Duration::from_millis(1) {
            break;
        }
        if turn == 1000 {
            bail!("a page in {small:?}, 64 GiB in {big:?}");
        }
    }
    let rss = vm_kib(&owner.pid().to_string(), "VmRSS");
    if rss > 1 << 17 {
        bail!("{rss} KiB of the owner's are resident");
    }
    Ok(format!(
        "a page in {} µs, 64 GiB in {} µs",
        small.as_micros(),
        big.as_micros()
    ))
}
