//! A forked process has no segments and no attachments, and harms none.

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;

const P: u64 = PAGE as u64;
const SIZE: u64 = 32 * P;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem fork",
        &[
            ("the attacher forks", &attacher_forks),
            ("the owner forks", &owner_forks),
            ("the owner forks between make and attach", &between),
            ("the owner ends, its forked child goes on", &owner_first),
            (
                "the attacher ends, its forked child goes on",
                &attacher_first,
            ),
        ],
    );
}

fn noproc(what: &str, answer: Result<(), Refusal>) -> Result<()> {
    match answer {
        Err(Refusal::Errno(abi::NOPROC)) => Ok(()),
        other => bail!("{what}: {other:?}, not errno 2004"),
    }
}

fn no_memory(peer: &mut Peer, at: u64) -> Result<()> {
    match peer.refused(Order::Load, &[at, 1])? {
        Refusal::Signal(libc::SIGSEGV, _) => Ok(()),
        other => bail!("the forked process: {other}, not SIGSEGV"),
    }
}

fn attacher_forks() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    let mut child = attacher.fork("attacher's child")?;
    no_memory(&mut child, at)?;
    noproc("its detach", child.end(abi::DETACH, at)?)?;
    noproc("its release", child.end(abi::RELEASE, permit)?)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.holds(there, SIZE, 2, 0)?;
    child.must(Order::Open, &[])?;
    let (_, of_child) = child.join(segment, SIZE)?;
    child.holds(of_child, SIZE, 2, 0)?;
    child.must(Order::Store, &[of_child, SIZE, 3, 0])?;
    attacher.holds(at, SIZE, 3, 0)?;
    child.end_by_kill()?;
    attacher.must(Order::Store, &[at, SIZE, 4, 0])?;
    owner.holds(there, SIZE, 4, 0)?;
    Ok("SIGSEGV and errno 2004 there, until it opens the device itself; the parent goes on".into())
}

fn owner_forks() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.must(Order::Store, &[at, SIZE / 2, 2, 0])?;
    let mut child = owner.fork("owner's child")?;
    // The attacher writes to the owner's pages, which the child does not see …
    attacher.must(Order::Store, &[at, SIZE, 3, 0])?;
    child.holds(there, SIZE / 2, 2, 0)?;
    child.holds(there + SIZE / 2, SIZE / 2, 1, SIZE / 2)?;
    // … nor do the others see the child's.
    child.must(Order::Store, &[there, SIZE, 4, 0])?;
    attacher.holds(at, SIZE, 3, 0)?;
    owner.holds(there, SIZE, 3, 0)?;
    noproc("its remove", child.end(abi::REMOVE, segment)?)?;
    child.must(Order::Open, &[])?;
    let removed = child.end(abi::REMOVE, segment)?;
    if removed != Err(Refusal::Errno(libc::EACCES)) {
        bail!("it removed its parent's segment: {removed:?}");
    }
    child.end_by_kill()?;
    owner.must(Order::Store, &[there, SIZE, 5, 0])?;
    attacher.holds(at, SIZE, 5, 0)?;
    Ok("each has its own bytes; the segment stays the parent's".into())
}

fn between() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let mut child = owner.fork("owner's child")?;
    child.must(Order::Store, &[there, SIZE, 7, 0])?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.holds(there, SIZE, 2, 0)?;
    child.holds(there, SIZE, 7, 0)?;
    Ok("what is attached is the parent's".into())
}

fn owner_first() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    let mut child = owner.fork("owner's child")?;
    owner.end_by_kill()?;
    // The child has the descriptor still.
    let refusal = attacher.refused(Order::Load, &[at, 1])?;
    if !refusal.is_absence() {
        bail!("the owner is dead: {refusal}");
    }
    let got = attacher.get(segment, abi::RDWR)?;
    if got.is_ok() {
        bail!("a permit for a dead process's segment: {got:x?}");
    }
    child.holds(there, SIZE, 1, 0)?;
    child.must(Order::Open, &[])?;
    let own = child.make(there, SIZE, 0o600)?.context("its own segment")?;
    let (_, anew) = attacher.join(own, SIZE)?;
    attacher.must(Order::Store, &[anew, SIZE, 8, 0])?;
    child.holds(there, SIZE, 8, 0)?;
    Ok(format!("{refusal}; the child shares its own copy"))
}

fn attacher_first() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    let mut child = attacher.fork("attacher's child")?;
    attacher.end_by_kill()?;
    no_memory(&mut child, at)?;
    owner.must(Order::Advise, &[there, SIZE, libc::MADV_DONTNEED as u64])?;
    owner.must(Order::Store, &[there, SIZE, 3, 0])?;
    owner.end(abi::REMOVE, segment)?.context("removing")?;
    owner.holds(there, SIZE, 3, 0)?;
    Ok("nothing holds the owner".into())
}
