//! Who may attach what: the mode, as of a file of the owner's user and group; and who may trace the owner.

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;

const P: u64 = PAGE as u64;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem permissions",
        &[
            ("each mode, by each user", &table),
            ("a mode that is none", &wrong_mode),
            ("root of a user namespace", &namespace),
            ("a process that is not to be looked into", &not_dumpable),
            ("a permit stays what it was", &kept),
        ],
    );
}

/// What of its mode a segment gives to this user.
fn granted(mode: u64, (uid, gid): (u32, u32)) -> u64 {
    match (uid, gid) {
        // It may trace every process.
        (0, _) => 7,
        (1000, _) => mode >> 6 & 7,
        (_, 1000) => mode >> 3 & 7,
        _ => mode & 7,
    }
}

/// An owner is the user 1000 of the group 1000.
fn table() -> Result<String> {
    let mut owner = Peer::of_user("owner", 1000, 1000)?;
    let there = owner.memory(P)?;
    let users = [
        (1000, 1000),
        (1000, 2000),
        (2000, 1000),
        (2000, 2000),
        (0, 0),
    ];
    let modes = [
        0o000, 0o400, 0o200, 0o600, 0o040, 0o060, 0o004, 0o006, 0o640, 0o644, 0o660, 0o666, 0o066,
        0o606, 0o777,
    ];
    let mut segments = Vec::new();
    for mode in modes {
        let segment = owner
            .make(there, P, mode)?
            .with_context(|| format!("{mode:03o}"))?;
        segments.push((mode, segment));
    }
    let (mut allowed, mut refused) = (0, 0);
    for user in users {
        let mut peer = Peer::of_user("attacher", user.0, user.1)?;
        for (mode, segment) in &segments {
            for (flags, wants) in [(abi::RDONLY, 4), (abi::RDWR, 6)] {
                let may = granted(*mode, user) & wants == wants;
                let got = peer.get(*segment, flags)?;
                match got {
                    Ok(permit) if may => {
                        let at = peer.attach(permit, 0, P, 0)?.context("attaching")?;
                        let order = if wants == 6 { Order::Add } else { Order::Load };
                        peer.must(order, &[at, 1])?;
                        peer.end(abi::RELEASE, permit)?.context("releasing")?;
                        allowed += 1;
                    }
                    Err(Refusal::Errno(libc::EACCES)) if !may => refused += 1,
                    other => bail!("{mode:03o}, user {user:?}, flags {flags}: {other:x?}"),
                }
            }
        }
    }
    Ok(format!("{allowed} allowed, {refused} EACCES"))
}

fn wrong_mode() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let there = owner.memory(P)?;
    for (kind, mode) in [
        (1, 0o1000),
        (1, u64::MAX),
        (0, 0o600),
        (2, 0o600),
        (u64::MAX, 0o600),
    ] {
        let made = owner.call(abi::MAKE, &[there, P, kind, mode, 0], 4)?;
        if made != Err(Refusal::Errno(libc::EINVAL)) {
            bail!("type {kind:#x}, mode {mode:#o}: {made:x?}");
        }
    }
    Ok("EINVAL".into())
}

/// Its root is the user who made it, to all outside.
fn namespace() -> Result<String> {
    let mut owner = Peer::of_user("owner", 2000, 2000)?;
    let (_, for_user) = {
        let there = owner.memory(P)?;
        (there, owner.make(there, P, 0o600)?.context("making it")?)
    };
    let mut inside = Peer::by("root of a namespace", 1000, 1000, &["unshare", "-Ur"])?;
    inside.must(Order::Open, &[])?;
    let got = inside.get(for_user, abi::RDONLY)?;
    if got != Err(Refusal::Errno(libc::EACCES)) {
        bail!("of another user's: {got:x?}");
    }
    // And the other way: what is made in there is that user's.
    let mut outside = Peer::of_user("same user outside", 1000, 1000)?;
    let there = inside.memory(P)?;
    let segment = inside.make(there, P, 0o600)?.context("making one inside")?;
    let mut other = Peer::of_user("another user", 2000, 2000)?;
    let denied = other.get(segment, abi::RDONLY)?;
    if denied != Err(Refusal::Errno(libc::EACCES)) {
        bail!("another user: {denied:x?}");
    }
    outside.get(segment, abi::RDWR)?.context("the same user")?;
    Ok("is the user that it is outside, to others".into())
}

fn not_dumpable() -> Result<String> {
    let mut owner = Peer::of_user("owner", 1000, 1000)?;
    let mut attacher = Peer::of_user("attacher", 1000, 1000)?;
    let mut root = Peer::start("root")?;
    let there = owner.memory(P)?;
    let segment = owner.make(there, P, 0o600)?.context("making it")?;
    owner.must(Order::Dumpable, &[0])?;
    let got = attacher.get(segment, abi::RDWR)?;
    if got != Err(Refusal::Errno(libc::EACCES)) {
        bail!("the same user got a permit: {got:x?}");
    }
    root.get(segment, abi::RDWR)?.context("who may trace it")?;
    owner.must(Order::Dumpable, &[1])?;
    attacher
        .get(segment, abi::RDWR)?
        .context("when it is again")?;
    Ok("EACCES for the same user, not for who may trace it".into())
}

/// As with a file that is open. Another process has no use for its number.
fn kept() -> Result<String> {
    let mut owner = Peer::of_user("owner", 1000, 1000)?;
    let mut attacher = Peer::of_user("attacher", 2000, 2000)?;
    let mut thief = Peer::of_user("thief", 3000, 3000)?;
    let there = owner.memory(P)?;
    let segment = owner.make(there, P, 0o606)?.context("making it")?;
    let permit = attacher.get(segment, abi::RDWR)?.context("a permit")?;
    let stolen = thief.attach(permit, 0, P, 0)?;
    let released = thief.end(abi::RELEASE, permit)?;
    let ended = thief.end(abi::REMOVE, segment)?;
    if stolen.is_ok() || released.is_ok() || ended != Err(Refusal::Errno(libc::EACCES)) {
        bail!("another process: attach {stolen:x?}, release {released:?}, remove {ended:?}");
    }
    let at = attacher.attach(permit, 0, P, 0)?.context("attaching")?;
    attacher.must(Order::Store, &[at, P, 4, 0])?;
    owner.holds(there, P, 4, 0)?;
    Ok("another process neither attaches by it nor ends it, nor the segment".into())
}
