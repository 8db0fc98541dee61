//! Requests that are sent again because their answer is late: a page takes longer to come than the requester waits.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::watched::{HEARD, SIZE, THERE, watched};
use crate::counters::counters;
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{Pair, Work};
use crate::target::Target;
use crate::uffd::Uffd;

/// A page that waits for the handler.
const LATE: usize = THERE + 3 * PAGE;
/// Another one.
const LATER: usize = THERE + 9 * PAGE;
const LEN: usize = 100;

/// What `pair` reads to and writes from.
pub(super) fn bounce(t: &Target, slot: usize) -> ffi::ibv_sge {
    let local = t.bounce_piece(slot * PAGE);
    ffi::ibv_sge {
        addr: local.addr,
        length: LEN as u32,
        lkey: local.key,
    }
}

fn heard(handler: &Uffd, t: &Target, page: usize) -> Result<()> {
    match handler.next(HEARD)? {
        Some(address) if address == t.map.addr() + page => Ok(()),
        other => bail!("the handler heard of {other:x?}, not of the page {page:#x}"),
    }
}

/// Packets that the device has sent.
fn sent() -> u64 {
    counters().get("sent_pkts").copied().unwrap_or(0)
}

/// Waits until the two requests that were posted after `before` packets were sent twice each. Nothing else is on its way.
fn sent_again(c: &Ctx<'_>, before: u64) -> Result<()> {
    let deadline = Instant::now() + HEARD;
    while sent() < before + 4 {
        if Instant::now() > deadline {
            bail!("nothing was sent again within {} s", HEARD.as_secs());
        }
        // A counter tells no one that it has changed.
        std::thread::sleep(c.env.pd.device().link().timeout() / 4);
    }
    Ok(())
}

/// The duplicates of a READ come after an empty WRITE, which has no region. One more request must find the queue pair alive.
pub(super) fn after_empty_write(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    let read = |off, slot| (Work::Read(t.remote(off)), bounce(&t, slot));
    let (late, into) = read(LATE + 5, 0);
    let before = sent();
    pair.near
        .post(&[(late, &[into]), (Work::Write(t.remote(5)), &[])])?;
    heard(&handler, &t, LATE)?;
    sent_again(c, before)?;
    handler.answer(t.map.addr() + LATE, &[0x77; PAGE])?;
    for what in ["READ", "empty WRITE"] {
        pair.near.sent.wait().context(what)?;
    }
    t.bounce_map().check_byte(0, LEN, 0x77).ok("READ")?;
    let (next, into) = read(LATE + 1, 1);
    pair.near.run(next, &[into]).context("the next READ")?;
    t.bounce_map().check_byte(PAGE, LEN, 0x77).ok("next READ")?;
    Ok("its duplicates are answered; the queue pair works on".into())
}

/// The requester has its data, and the memory goes; a duplicate of the READ comes then.
pub(super) fn memory_gone(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    t.bounce_map().set(PAGE, LEN, 0x33);
    let (from, to) = (bounce(&t, 0), bounce(&t, 1));
    let before = sent();
    pair.near.post(&[
        (Work::Read(t.remote(LATE + 5)), &[from]),
        (Work::Write(t.remote(LATER + 5)), &[to]),
    ])?;
    heard(&handler, &t, LATE)?;
    sent_again(c, before)?;
    handler.answer(t.map.addr() + LATE, &[0x77; PAGE])?;
    pair.near.sent.wait().context("READ")?;
    heard(&handler, &t, LATER)?;
    t.map.protect(LATE, PAGE, libc::PROT_NONE)?;
    handler.answer(t.map.addr() + LATER, &[0x55; PAGE])?;
    pair.near.sent.wait().context("WRITE")?;
    t.map.check_byte(LATER + 5, LEN, 0x33).ok("WRITE")?;
    let read = Work::Read(t.remote(LATER + 5));
    pair.near.run(read, &[from]).context("the next READ")?;
    t.bounce_map().check_byte(0, LEN, 0x33).ok("next READ")?;
    Ok("its duplicate is dropped; the queue pair works on".into())
}

const _: () = assert!(LATER + PAGE < SIZE);
