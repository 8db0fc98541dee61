//! Reading only: a permit that allows no more, and memory of the owner that does not.

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
        "xpmem rights",
        &[
            ("a permit to read", &permit),
            ("a permit to read, of a mode that lets nobody write", &mode),
            ("memory that the owner may only read", &source),
            ("memory that the owner may not touch", &nothing),
            ("the zero page stays zero", &zero),
            ("a private file is not written", &private_file),
        ],
    );
}

/// Tries all ways to write.
fn no_write(attacher: &mut Peer, at: u64, signal: i32) -> Result<()> {
    let orders: [(Order, &[u64]); 4] = [
        (Order::Store, &[at, 8, 7]),
        (Order::Add, &[at + 8, 1]),
        (Order::Swap, &[at + 16, 0, 1]),
        (Order::Copy, &[at + 32, at, 16]),
    ];
    for (order, words) in orders {
        match attacher.refused(order, words)? {
            Refusal::Signal(number, _) if number == signal => {}
            other => bail!("{order:?}: {other}, not signal {signal}"),
        }
    }
    match attacher.refused(Order::KernelWrites, &[at, 8, 7])? {
        Refusal::Errno(libc::EFAULT) => Ok(()),
        other => bail!("a system call: {other}, not EFAULT"),
    }
}

fn reading(owner: &mut Peer, segment: u64, there: u64) -> Result<String> {
    let mut attacher = Peer::start("attacher")?;
    let permit = attacher.get(segment, abi::RDONLY)?.context("a permit")?;
    let at = attacher.attach(permit, 0, SIZE, 0)?.context("attaching")?;
    no_write(&mut attacher, at, libc::SIGSEGV)?;
    attacher.holds(at, SIZE, 1, 0)?;
    attacher.must(Order::KernelReads, &[at + 5, 9000])?;
    no_write(&mut attacher, at + P, libc::SIGSEGV)?;
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let opened = attacher.refused(Order::Protect, &[at, SIZE, access])?;
    no_write(&mut attacher, at, libc::SIGSEGV)?;
    owner.holds(there, SIZE, 1, 0)?;
    owner.must(Order::Store, &[there, SIZE, 2, 0])?;
    attacher.holds(at, SIZE, 2, 0)?;
    Ok(format!(
        "reads; writes get SIGSEGV or EFAULT; mprotect: {opened}"
    ))
}

fn permit() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    reading(&mut owner, segment, there)
}

fn mode() -> Result<String> {
    let mut owner = Peer::of_user("owner", 1000, 1000)?;
    let mut attacher = Peer::of_user("attacher", 1000, 1000)?;
    let there = owner.memory(SIZE)?;
    owner.must(Order::Store, &[there, SIZE, 1, 0])?;
    let segment = owner.make(there, SIZE, 0o444)?.context("making it")?;
    let refused = attacher.get(segment, abi::RDWR)?;
    if refused != Err(Refusal::Errno(libc::EACCES)) {
        bail!("a permit to write: {refused:x?}");
    }
    let said = reading(&mut owner, segment, there)?;
    Ok(format!("to write: EACCES; {said}"))
}

fn source() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    // Both what is attached already, and what is not yet.
    attacher.holds(at, SIZE / 2, 1, 0)?;
    attacher.must(Order::Store, &[at, 8, 1, 0])?;
    owner.must(Order::Protect, &[there, SIZE, libc::PROT_READ as u64])?;
    for page in [0, 1, 20, 31] {
        no_write(&mut attacher, at + page * P, libc::SIGBUS)?;
    }
    attacher.holds(at, SIZE, 1, 0)?;
    owner.holds(there, SIZE, 1, 0)?;
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    owner.must(Order::Protect, &[there, SIZE, access])?;
    attacher.must(Order::Store, &[at, SIZE, 2, 0])?;
    owner.holds(there, SIZE, 2, 0)?;
    Ok("is read; writes get SIGBUS or EFAULT, until the owner may write".into())
}

fn nothing() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (_, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE / 2, 1, 0)?;
    owner.must(Order::Protect, &[there, SIZE, libc::PROT_NONE as u64])?;
    for page in [0, 20] {
        let refusal = attacher.refused(Order::Load, &[at + page * P, 8])?;
        if !refusal.is_absence() {
            bail!("a load: {refusal}");
        }
        no_write(&mut attacher, at + page * P, libc::SIGBUS)?;
    }
    owner.must(Order::Protect, &[there, SIZE, libc::PROT_READ as u64])?;
    owner.holds(there, SIZE, 1, 0)?;
    attacher.holds(at, SIZE, 1, 0)?;
    Ok("is not touched by others either".into())
}

fn zero() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let there = owner.memory(SIZE)?;
    let other = owner.memory(SIZE)?;
    let segment = owner.make(there, SIZE, 0o600)?.context("making it")?;
    let (_, at) = attacher.join(segment, SIZE)?;
    let zeros = vec![0; SIZE as usize];
    attacher.same(at, &zeros)?;
    owner.same(other, &zeros)?;
    attacher.must(Order::Store, &[at, SIZE / 2, 3, 0])?;
    attacher.must(Order::Add, &[at + 20 * P, 9])?;
    owner.holds(there, SIZE / 2, 3, 0)?;
    owner.same(other, &zeros)?;
    owner.same(there + 21 * P, &zeros[..11 * PAGE])?;
    Ok("read first, then written: the owner has it, nobody else".into())
}

/// What is written to a private mapping of a file is the process's, not the file's; by others too.
fn private_file() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    // The program itself, which is mapped to be read and is the same for all.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", owner.pid()))?;
    let line = maps
        .lines()
        .find(|line| line.contains(" r--p ") && line.ends_with("emm-check"));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let (start, _) = range.context("the program is mapped")?;
    let start = u64::from_str_radix(start, 16)?;
    let segment = owner.make(start, P, 0o600)?.context("making it")?;
    let (_, at) = attacher.join(segment, P)?;
    let (_, before) = attacher.must(Order::Load, &[at, P])?;
    if !before.starts_with(b"\x7fELF") {
        bail!("it does not begin as a program does");
    }
    no_write(&mut attacher, at, libc::SIGBUS)?;
    // To the owner it becomes writable, and then its own.
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    owner.must(Order::Protect, &[start, P, access])?;
    attacher.must(Order::Store, &[at + 2048, 1000, 5, 0])?;
    owner.holds(start + 2048, 1000, 5, 0)?;
    let mut third = Peer::start("third")?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", third.pid()))?;
    let line = maps
        .lines()
        .find(|line| line.contains(" r--p ") && line.ends_with("emm-check"));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let (there, _) = range.context("the program is mapped")?;
    third.same(u64::from_str_radix(there, 16)?, &before)?;
    Ok("refused while the owner may not; then a copy of the owner's".into())
}
