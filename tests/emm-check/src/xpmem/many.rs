//! Many attachers of one segment, and many attachments.

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::{Scale, report_all};
use super::peer::Peer;
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;
use crate::system::vm_kib;

const P: u64 = PAGE as u64;

/// Runs all cases.
pub fn run(report: &Report, scale: Scale) {
    report_all(
        report,
        "xpmem many",
        &[
            ("attachers of one segment", &|| crowd(scale.attachers)),
            ("attached and detached again and again", &|| {
                again(scale.attaches)
            }),
            ("threads that touch while another detaches", &|| {
                race(scale.attaches)
            }),
            ("attachments of one process", &|| {
                together(scale.attaches.min(2000))
            }),
        ],
    );
}

fn crowd(count: usize) -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let size = count as u64 * P;
    let (there, segment) = owner.share(size, 1)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let mut peer = Peer::start("attacher")?;
        let (_, at) = peer.join(segment, size)?;
        peer.holds(at, size, 1, 0)?;
        all.push((peer, at));
    }
    // Each writes its own page, and all see it.
    for (page, (peer, at)) in all.iter_mut().enumerate() {
        peer.must(
            Order::Store,
            &[*at + page as u64 * P, P, 100 + page as u64, 0],
        )?;
    }
    for page in 0..count as u64 {
        owner.holds(there + page * P, P, 100 + page, 0)?;
    }
    let (peer, at) = &mut all[count / 2];
    for page in 0..count as u64 {
        peer.holds(*at + page * P, P, 100 + page, 0)?;
    }
    // All have all pages when they go.
    for (peer, at) in &mut all {
        peer.must(Order::Digest, &[*at, size])?;
    }
    owner.must(Order::Advise, &[there, size, libc::MADV_DONTNEED as u64])?;
    owner.must(Order::Store, &[there, size, 2, 0])?;
    for (peer, at) in &mut all {
        peer.holds(*at, size, 2, 0)?;
    }
    for (peer, _) in &mut all {
        peer.kill()?;
    }
    owner.must(Order::Advise, &[there, size, libc::MADV_DONTNEED as u64])?;
    for (peer, _) in &mut all {
        peer.ended()?;
    }
    owner.same(there, &vec![0; size as usize])?;
    Ok(format!(
        "{count} see each other's bytes, and lose them with the owner"
    ))
}

fn again(times: usize) -> Result<String> {
    const SIZE: u64 = 8 * P;
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let slab = || -> Result<u64> {
        let info = std::fs::read_to_string("/proc/meminfo")?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("SUnreclaim:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse().ok())
            .context("SUnreclaim of /proc/meminfo")
    };
    // So that both have what they need.
    attacher.must(Order::Cycle, &[segment, SIZE, 100])?;
    let before = slab()?;
    let mut left = times as u64;
    while left > 0 {
        let some = left.min(500);
        attacher.must(Order::Cycle, &[segment, SIZE, some])?;
        left -= some;
    }
    let grown = slab()?.saturating_sub(before);
    // A leak of the smallest object each time.
    if grown > 2048 + times as u64 / 16 {
        bail!("the kernel's memory grew by {grown} KiB in {times} times");
    }
    owner.must(Order::Store, &[there, SIZE, 1, 0])?;
    owner.end(abi::REMOVE, segment)?.context("removing")?;
    let pin = vm_kib(&attacher.pid().to_string(), "VmPin");
    Ok(format!(
        "{times} times; the kernel's memory grew by {grown} KiB, VmPin is {pin}"
    ))
}

fn race(times: usize) -> Result<String> {
    const SIZE: u64 = 16 * P;
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let (mut left, mut found) = (times as u64 / 4 + 1, 0);
    while left > 0 {
        let some = left.min(100);
        attacher.tell(Order::Race, &[permit, SIZE, some])?;
        // And the owner takes pages away.
        owner.must(Order::Advise, &[there, SIZE, libc::MADV_DONTNEED as u64])?;
        found += attacher.answer()?.context("the race")?.0;
        left -= some;
    }
    let (_, at) = attacher.join(segment, SIZE)?;
    owner.must(Order::Store, &[there, SIZE, 3, 0])?;
    attacher.holds(at, SIZE, 3, 0)?;
    Ok(format!("{found} touches found it attached"))
}

fn together(count: usize) -> Result<String> {
    const SIZE: u64 = 4 * P;
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let mut all = Vec::new();
    for n in 0..count as u64 {
        let (offset, size) = (n % 4 * P, P);
        let at = attacher
            .attach(permit, offset, size, 0)?
            .with_context(|| format!("attachment {n}"))?;
        all.push((at, offset));
    }
    for (at, offset) in all.iter().step_by(50) {
        attacher.holds(*at, P, 1, *offset)?;
    }
    owner.must(Order::Store, &[there, SIZE, 2, 0])?;
    for (at, offset) in all.iter().step_by(50) {
        attacher.holds(*at, P, 2, *offset)?;
    }
    attacher.end(abi::RELEASE, permit)?.context("releasing")?;
    for (at, _) in all.iter().step_by(50) {
        attacher.refused(Order::Load, &[*at, 1])?;
    }
    Ok(format!("{count} at once, all gone with the permit"))
}
