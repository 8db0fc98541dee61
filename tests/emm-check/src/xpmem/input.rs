//! Wrong arguments: an errno, and the device works on.

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::mem::{PAGE, Rng};
use crate::report::Report;

const P: u64 = PAGE as u64;
const SIZE: u64 = 8 * P;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem input",
        &[
            ("wrong ranges of a segment", &make),
            ("wrong permits", &get),
            ("wrong ranges of an attachment", &attach),
            ("numbers of what is gone, or of others", &numbers),
            ("unknown calls", &unknown),
            ("each word of each call, alone and in pairs", &pairs),
            ("a descriptor that another process has opened", &foreign),
            ("no device", &closed),
        ],
    );
}

/// A pair that works, to see that it still does.
struct Scene {
    owner: Peer,
    there: u64,
    segment: u64,
    attacher: Peer,
    permit: u64,
    at: u64,
}

fn scene() -> Result<Scene> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, at) = attacher.join(segment, SIZE)?;
    Ok(Scene {
        owner,
        there,
        segment,
        attacher,
        permit,
        at,
    })
}

impl Scene {
    fn works(&mut self) -> Result<()> {
        self.attacher.must(Order::Store, &[self.at, SIZE, 5, 0])?;
        self.owner.holds(self.there, SIZE, 5, 0)?;
        self.owner.must(Order::Store, &[self.there, SIZE, 6, 0])?;
        self.attacher.holds(self.at, SIZE, 6, 0)
    }
}

/// That it was refused, with one of these.
fn refused<T: std::fmt::Debug>(
    what: &str,
    answer: Result<T, Refusal>,
    errnos: &[i32],
) -> Result<()> {
    match answer {
        Err(Refusal::Errno(errno)) if errnos.contains(&errno) => Ok(()),
        other => bail!("{what}: {other:x?}, not one of {errnos:?}"),
    }
}

fn make() -> Result<String> {
    let mut s = scene()?;
    let wrong = [
        (0, 0),
        (s.there, 0),
        (s.there, u64::MAX - P + 1),
        (u64::MAX - P + 1, P),
        (1 << 63, P),
        ((1 << 47) - P, 2 * P),
        (u64::MAX - P + 1, u64::MAX),
        (1 << 56, u64::MAX),
        (s.there, 1 << 62),
    ];
    for (at, size) in wrong {
        let made = s.owner.make(at, size, 0o600)?;
        refused(
            &format!("{size:#x} bytes at {at:#x}"),
            made,
            &[libc::EINVAL],
        )?;
    }
    // Where nothing is: that may come.
    let empty = s
        .owner
        .make(P, P, 0o600)?
        .context("where nothing is mapped")?;
    s.owner.end(abi::REMOVE, empty)?.context("removing it")?;
    s.works()?;
    Ok(format!("{} refused", wrong.len()))
}

fn get() -> Result<String> {
    let mut s = scene()?;
    for flags in [0, 3, 4, -1, i32::MIN] {
        refused(
            &format!("flags {flags}"),
            s.attacher.get(s.segment, flags)?,
            &[libc::EINVAL],
        )?;
    }
    for segment in [
        0,
        1 << 62,
        u64::MAX,
        i64::MIN as u64,
        s.permit,
        s.segment + 1000,
    ] {
        let got = s.attacher.get(segment, abi::RDWR)?;
        refused(
            &format!("segment {segment:#x}"),
            got,
            &[libc::EINVAL, libc::ENOENT],
        )?;
    }
    for (kind, value) in [(0, 0), (2, 0), (1, 0o600), (1, u64::MAX)] {
        let words = [s.segment, abi::RDWR as u64 | kind << 32, value, 0];
        let got = s.attacher.call(abi::GET, &words, 3)?;
        refused(
            &format!("type {kind}, value {value:#x}"),
            got,
            &[libc::EINVAL],
        )?;
    }
    s.works()?;
    Ok("flags, numbers, types and values".into())
}

fn attach() -> Result<String> {
    let mut s = scene()?;
    let free = s.attacher.memory(SIZE)?;
    let wrong = [
        (0, 0, 0),
        (0, SIZE + 1, 0),
        (SIZE, P, 0),
        (P, SIZE, 0),
        (1, P, 0),
        (u64::MAX, P, 0),
        (u64::MAX - P + 1, P, 0),
        (1 << 63, P, 0),
        (0, u64::MAX, 0),
        (0, u64::MAX - P + 1, 0),
        (P, u64::MAX - P + 1, 0),
        (0, P, free + 1),
        (0, P, s.at),
        (0, SIZE, s.at + P),
        (0, P, 1 << 63),
        (0, P, u64::MAX - P + 1),
        (0, P, 1 << 47),
    ];
    let errnos = [libc::EINVAL, libc::ENOMEM, libc::EPERM, libc::EOVERFLOW];
    for (offset, size, at) in wrong {
        let attached = s.attacher.attach(s.permit, offset, size, at)?;
        refused(
            &format!("{size:#x} bytes at {offset:#x}, at {at:#x}"),
            attached,
            &errnos,
        )?;
    }
    for permit in [0, 1 << 62, u64::MAX, i64::MIN as u64, s.permit + 1000] {
        let attached = s.attacher.attach(permit, 0, P, 0)?;
        refused(
            &format!("permit {permit:#x}"),
            attached,
            &[libc::EINVAL, libc::ENOENT],
        )?;
    }
    s.works()?;
    Ok(format!("{} ranges and 5 permits refused", wrong.len()))
}

fn numbers() -> Result<String> {
    let mut s = scene()?;
    let none = [libc::EINVAL, libc::ENOENT];
    let again = s.attacher.get(s.segment, abi::RDWR)?.context("a permit")?;
    s.attacher
        .end(abi::RELEASE, again)?
        .context("releasing it")?;
    refused(
        "released twice",
        s.attacher.end(abi::RELEASE, again)?,
        &none,
    )?;
    refused(
        "attached by what was released",
        s.attacher.attach(again, 0, P, 0)?,
        &none,
    )?;
    refused(
        "the owner releases it",
        s.owner.end(abi::RELEASE, s.permit)?,
        &[libc::EINVAL, libc::ENOENT, libc::EACCES],
    )?;
    refused(
        "the attacher removes it",
        s.attacher.end(abi::REMOVE, s.segment)?,
        &[libc::EACCES],
    )?;
    refused(
        "detached where nothing is",
        s.attacher.end(abi::DETACH, 0x1000)?,
        &[libc::EINVAL],
    )?;
    s.works()?;
    // Numbers of a process that has ended.
    let mut dead = Peer::start("a process that ends")?;
    let (_, of_dead) = dead.share(P, 1)?;
    let permit_of_dead = dead.get(s.segment, abi::RDWR)?.context("a permit")?;
    dead.end_by_kill()?;
    refused(
        "a dead one's segment",
        s.attacher.get(of_dead, abi::RDWR)?,
        &none,
    )?;
    refused(
        "a dead one's permit",
        s.attacher.attach(permit_of_dead, 0, P, 0)?,
        &none,
    )?;
    // Never given out again.
    let mut seen =
        std::collections::BTreeSet::from([s.segment, s.permit, again, of_dead, permit_of_dead]);
    for _ in 0..100 {
        let segment = s.owner.make(s.there, P, 0o600)?.context("making one")?;
        if !seen.insert(segment) {
            bail!("{segment:#x} was given out twice");
        }
        s.owner.end(abi::REMOVE, segment)?.context("removing it")?;
    }
    s.works()?;
    Ok("ENOENT, EINVAL or EACCES; no number comes twice".into())
}

fn unknown() -> Result<String> {
    let mut s = scene()?;
    // Known numbers with a size in them are others.
    for request in [9, 10, 255, 0x4008_0001, 0xc028_7801] {
        let request = if request < 256 {
            abi::VERSION + request
        } else {
            request
        };
        let answer = s.attacher.call(request, &[0, 0, 0, 0, 0], 0)?;
        refused(
            &format!("{request:#x}"),
            answer,
            &[libc::ENOTTY, libc::EINVAL],
        )?;
    }
    for request in [abi::FORK_BEGIN, abi::FORK_END] {
        s.attacher
            .call(request, &[0, 0, 0, 0, 0], 0)?
            .context("nobody has to call it")?;
    }
    s.works()?;
    Ok("ENOTTY; FORK_BEGIN and FORK_END do nothing".into())
}

/// Of words that are right, one or two are others. What goes well may do so; nothing else does anything.
fn pairs() -> Result<String> {
    let mut s = scene()?;
    let mut victim = Peer::start("victim")?;
    let victims = victim.memory(SIZE)?;
    let (permit, at) = victim.join(s.segment, SIZE)?;
    let own = victim.make(victims, SIZE, 0o600)?.context("making one")?;
    let right: [(u64, Vec<u64>); 6] = [
        (abi::MAKE, vec![victims, SIZE, 1, 0o600, 0]),
        (abi::REMOVE, vec![own]),
        (abi::GET, vec![s.segment, 2 | 1 << 32, 0, 0]),
        (abi::RELEASE, vec![permit]),
        (abi::ATTACH, vec![permit, 0, SIZE, 0, 0]),
        (abi::DETACH, vec![at]),
    ];
    let odd = |rng: &mut Rng| match rng.below(8) {
        0 => 0,
        1 => u64::MAX - rng.below(3) as u64,
        2 => 1 << rng.below(64),
        3 => (1 << 63) + rng.below(3) as u64,
        4 => rng.bits(),
        5 => s.segment ^ 1 << rng.below(20),
        6 => P * rng.below(32) as u64,
        _ => (1 << 47) - P * rng.below(4) as u64,
    };
    let mut rng = Rng(1);
    let (mut refused, mut done) = (0, 0);
    for (request, words) in &right {
        for first in 0..words.len() {
            for second in 0..words.len() {
                for _ in 0..6 {
                    let mut words = words.clone();
                    words[first] = odd(&mut rng);
                    words[second] = odd(&mut rng);
                    // Over the victim's own program an attachment is its end, as with mmap.
                    if *request == abi::ATTACH && words[3] != 0 {
                        words[3] |= 1;
                    }
                    match victim.call(*request, &words, 0)? {
                        Ok(_) => done += 1,
                        Err(Refusal::Errno(errno)) if errno > 0 => refused += 1,
                        Err(other) => bail!("{request:#x} {words:x?}: {other}"),
                    }
                }
            }
        }
    }
    drop(victim);
    s.works()?;
    Ok(format!("{refused} refused, {done} done"))
}

/// As after a fork, and as if somebody passed it on: libxpmem opens the device again then.
fn foreign() -> Result<String> {
    let mut s = scene()?;
    let mut other = Peer::without_device("other", 0, 0)?;
    let (fd, _) = s.owner.must(Order::Open, &[])?;
    let (there, segment) = s.owner.share(SIZE, 1)?;
    other.must(Order::Steal, &[s.owner.pid().into(), fd])?;
    let own = other.memory(P)?;
    let answers = [
        ("make", other.make(own, P, 0o600)?.map(drop)),
        ("get", other.get(segment, abi::RDWR)?.map(drop)),
        ("attach", other.attach(s.permit, 0, P, 0)?.map(drop)),
        ("remove", other.end(abi::REMOVE, segment)?),
        ("release", other.end(abi::RELEASE, s.permit)?),
        ("detach", other.end(abi::DETACH, own)?),
    ];
    for (what, answer) in answers {
        refused(what, answer, &[abi::NOPROC])?;
    }
    // It does not end with the process that has it, nor with the other's.
    drop(other);
    let mut attacher = Peer::start("attacher")?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    s.owner.holds(there, SIZE, 1, 0)?;
    let mut heir = Peer::without_device("heir", 0, 0)?;
    heir.must(Order::Steal, &[s.owner.pid().into(), fd])?;
    s.owner.end_by_kill()?;
    let refusal = attacher.refused(Order::Load, &[at + P, 1])?;
    if !refusal.is_absence() {
        bail!("the owner is dead, another process has its descriptor: {refusal}");
    }
    Ok("errno 2004; the owner's end is its end, whoever has the descriptor".into())
}

fn closed() -> Result<String> {
    let mut s = scene()?;
    s.attacher.must(Order::Close, &[])?;
    let touch = s.attacher.refused(Order::Load, &[s.at, 1]);
    // The permit went with the last descriptor.
    let touch = touch.context("an attachment without a descriptor")?;
    refused("get", s.attacher.get(s.segment, abi::RDWR)?, &[libc::EBADF])?;
    s.attacher.must(Order::Open, &[])?;
    let (permit, at) = s.attacher.join(s.segment, SIZE)?;
    (s.permit, s.at) = (permit, at);
    s.works()?;
    s.owner.must(Order::Close, &[])?;
    let gone = s.attacher.refused(Order::Load, &[s.at, 1])?;
    if !gone.is_absence() {
        bail!("the owner has closed its last descriptor: {gone}");
    }
    Ok(format!(
        "closed by the attacher: {touch}; by the owner: {gone}"
    ))
}
