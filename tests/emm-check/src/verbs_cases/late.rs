//! Memory whose pages come late, one after the other: a request that waits goes on where it was. Nothing of it is done twice.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::area::Area;
use super::datagram::Ends;
use super::input::HEARD;
use super::srq::Srq;
use super::{Ctx, ends_with};
use crate::counters::counters;
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{End, Pair, Work};
use crate::uffd::Uffd;
use crate::verbs::ALL_ACCESS;

const SIZE: usize = 32 * PAGE;
/// A message of several packets.
const LEN: usize = 20_011;

/// The cases.
pub fn late(c: &Ctx<'_>) -> Result<()> {
    c.case("messages into a shared receive queue", received(c));
    c.case("datagrams: header and payload", datagrams(c));
    c.case("atomics that are sent again meanwhile", atomics(c));
    c.case("READ, both ends", both_ends(c));
    c.case("a source later than all retries", source(c));
    c.case("a peer that takes no RNR", no_rnr(c));
    c.case("a READ that a reset ends", reset(c));
    c.case("a message that an error ends", flushed(c));
    Ok(())
}

/// A region none of whose pages is there: a handler has them.
struct Late {
    area: Area,
    handler: Uffd,
    /// What the pages are when they come.
    bytes: Vec<u8>,
}

impl Late {
    fn new(c: &Ctx<'_>, seed: u64) -> Result<Self> {
        let mut area = c.area(SIZE, ALL_ACCESS)?;
        area.fill(0, SIZE, seed);
        area.map().advise(0, SIZE, libc::MADV_DONTNEED)?;
        let handler = Uffd::new().context("userfaultfd")?;
        handler
            .watch(area.map(), 0, SIZE)
            .context("UFFDIO_REGISTER")?;
        Ok(Self {
            bytes: area.holds(0, SIZE).to_vec(),
            area,
            handler,
        })
    }

    /// Does `work` while each page comes that somebody waits for. Returns how many did.
    fn come(&mut self, work: impl FnOnce(&mut Area) -> Result<()>) -> Result<usize> {
        let Self {
            area,
            handler,
            bytes,
        } = self;
        let base = area.addr();
        let answer = |address: usize| answer(handler, base, bytes, address);
        handler.serve(answer, || work(area))
    }

    /// Waits until the page at `off` is asked for.
    fn asked(&self, off: usize) -> Result<()> {
        let page = self.area.addr() + off / PAGE * PAGE;
        match self.handler.next(HEARD)? {
            Some(address) if address == page => Ok(()),
            other => bail!("the handler heard of {other:x?}, not of {page:#x}"),
        }
    }

    fn answer(&self, off: usize) -> Result<()> {
        let base = self.area.addr();
        let page = base + off / PAGE * PAGE;
        Ok(answer(&self.handler, base, &self.bytes, page)?)
    }
}

fn answer(handler: &Uffd, base: usize, bytes: &[u8], address: usize) -> std::io::Result<()> {
    let mut page = [0; PAGE];
    let at = address - base;
    page.copy_from_slice(&bytes[at..at + PAGE]);
    handler.answer(address, &page)
}

/// The elements of receive `number`, at odd places.
fn elements(number: usize) -> [(usize, usize); 3] {
    let base = number * 9 * PAGE;
    [
        (base + 17, 4999),
        (base + 2 * PAGE + 4090, 10_001),
        (base + 6 * PAGE + 9, LEN - 4999 - 10_001),
    ]
}

/// Each message takes one receive, the next one.
fn received(c: &Ctx<'_>) -> Result<String> {
    let srq = Srq::new(&c.env.pd)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, Some(srq.raw()))?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    from.fill(0, SIZE, c.seed(1));
    let mut to = Late::new(c, c.seed(2))?;
    let answers = to.come(|to| {
        for number in 0..3 {
            let mut list = elements(number).map(|(off, len)| to.sge(off, len));
            srq.post(number as u64, &mut list)?;
        }
        for (number, len) in [LEN, 5000, 15_001].into_iter().enumerate() {
            pair.near
                .run(Work::Send, &[from.sge(3 * number + 1, len)])?;
            let wc = pair.far.received.wait()?;
            if (wc.wr_id, wc.byte_len) != (number as u64, len as u32) {
                let (id, bytes) = (wc.wr_id, wc.byte_len);
                bail!("message {number}: {bytes} bytes in the receive {id}");
            }
            let mut bytes = from.holds(3 * number + 1, len);
            for (off, room) in elements(number) {
                let (piece, rest) = bytes.split_at(room.min(bytes.len()));
                to.expect(off, piece);
                bytes = rest;
            }
            to.check("the receives")?;
        }
        if pair.far.received.poll()?.is_some() {
            bail!("more messages arrived than were sent");
        }
        Ok(())
    })?;
    Ok(format!("{answers} pages came late, 0 wrong bytes"))
}

/// Header and payload lie in pages of their own.
fn datagrams(c: &Ctx<'_>) -> Result<String> {
    const HEADER: usize = 40;
    let ends = Ends::new(c)?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    from.fill(0, SIZE, c.seed(1));
    let mut to = Late::new(c, c.seed(2))?;
    let answers = to.come(|to| {
        for (number, len) in [1, 1000, 4096].into_iter().enumerate() {
            let off = (4 * number + 1) * PAGE - 20;
            ends.send(&from, 11, len, &[to.sge(off, HEADER + len)])?;
            ends.check_header(to.accept(off, HEADER), len)?;
            to.expect(off + HEADER, from.holds(11, len));
            to.check("the receive")?;
            let list = [
                to.sge(16 * PAGE + 77 + number * 100, HEADER),
                to.sge((18 + 4 * number) * PAGE - 5, len),
            ];
            ends.send(&from, 11, len, &list)?;
            ends.check_header(to.accept(16 * PAGE + 77 + number * 100, HEADER), len)?;
            to.expect((18 + 4 * number) * PAGE - 5, from.holds(11, len));
            to.check("the receive of two elements")?;
        }
        Ok(())
    })?;
    Ok(format!("{answers} pages came late, 0 wrong bytes"))
}

/// Packets that came.
fn packets() -> u64 {
    counters().get("rcvd_pkts").copied().unwrap_or(0)
}

/// Waits until `more` packets came.
fn come_again(c: &Ctx<'_>, before: u64, more: u64) -> Result<()> {
    let deadline = Instant::now() + HEARD;
    while packets() < before + more {
        if Instant::now() > deadline {
            bail!("nothing was sent again within {} s", HEARD.as_secs());
        }
        // A counter tells no one that it has changed.
        std::thread::sleep(c.env.pd.device().link().timeout() / 4);
    }
    Ok(())
}

/// Each is executed once, however often it is sent.
fn atomics(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut local = c.pinned(PAGE)?;
    let mut to = Late::new(c, c.seed(2))?;
    let word = |area: &Area, at: usize| {
        let bytes = area.holds(at, 8).try_into().unwrap_or([0; 8]);
        u64::from_ne_bytes(bytes)
    };
    for number in 0..3 {
        let at = (5 * number + 1) * PAGE + 8 * number;
        let old = word(&to.area, at);
        let (work, new) = match number {
            0 => (Work::FetchAdd(to.area.remote(at), 3), old.wrapping_add(3)),
            1 => (Work::CmpSwp(to.area.remote(at), old, 5), 5),
            _ => (Work::AtomicWrite(to.area.remote(at), 7), 7),
        };
        let list = [local.sge(8, 8)];
        let list = if number < 2 { &list[..] } else { &[] };
        let before = packets();
        pair.near.post(&[(work, list)])?;
        to.asked(at)?;
        come_again(c, before, 4)?;
        to.answer(at)?;
        pair.near.sent.wait()?;
        if number < 2 {
            local.expect(8, &old.to_ne_bytes());
            local.check("the old value")?;
        }
        to.area.expect(at, &new.to_ne_bytes());
        // Those that came again are answered before this.
        let more = Work::FetchAdd(to.area.remote(at), 0);
        pair.near.run(more, &[local.sge(8, 8)])?;
        local.expect(8, &new.to_ne_bytes());
        local.check("the new value")?;
    }
    to.come(|to| to.check("the target"))?;
    Ok("each was sent four times and more, and executed once".into())
}

/// The responder waits for pages of what is read, and the requester for those that it goes to.
fn both_ends(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut from = Late::new(c, c.seed(1))?;
    let mut to = Late::new(c, c.seed(2))?;
    let pieces = [(17, 4999), (3 * PAGE + 4090, 5002), (9 * PAGE + 1, 10_010)];
    let mut far = 0;
    let near = to.come(|to| {
        far = from.come(|from| {
            let list = pieces.map(|(off, len)| to.sge(off, len));
            pair.near.run_list(Work::Read(from.remote(4093)), &list)?;
            let mut at = 4093;
            for (off, len) in pieces {
                to.expect(off, from.holds(at, len));
                at += len;
            }
            from.check("what was read")
        })?;
        to.check("what was read to")
    })?;
    Ok(format!(
        "{far} pages there and {near} here came late, 0 wrong bytes"
    ))
}

/// How a requester sends again: `retries` times after 4.096 µs times 2 to the power of `timeout`, and not at all if the peer is
/// not ready.
fn impatient(end: &End, timeout: u8, retries: u8) -> Result<()> {
    let mut attr = ffi::ibv_qp_attr {
        timeout,
        retry_cnt: retries,
        rnr_retry: 0,
        ..ffi::zeroed()
    };
    let mask = ffi::IBV_QP_TIMEOUT | ffi::IBV_QP_RETRY_CNT | ffi::IBV_QP_RNR_RETRY;
    end.qp.modify(&mut attr, mask, "few retries")
}

/// The first packets are sent, and the rest waits for longer than the peer's answer would be waited for.
fn source(c: &Ctx<'_>) -> Result<String> {
    const TIMEOUT: u8 = 13;
    let pair = c.pair()?;
    impatient(&pair.near, TIMEOUT, 1)?;
    let mut from = Late::new(c, c.seed(1))?;
    let mut to = c.area(SIZE, ALL_ACCESS)?;
    // What was asked for by nobody yet.
    for page in 0..3 {
        from.answer(page * PAGE)?;
    }
    let write = Work::Write(to.remote(99));
    pair.near.post(&[(write, &[from.area.sge(5, LEN)])])?;
    from.asked(3 * PAGE)?;
    let wait = std::time::Duration::from_nanos(4096 << TIMEOUT);
    // It is the time itself that is tried.
    std::thread::sleep(20 * wait);
    if let Some(wc) = pair.near.sent.poll()? {
        bail!(
            "it ended with status {} before its memory was there",
            wc.status
        );
    }
    from.answer(3 * PAGE)?;
    from.come(|from| {
        pair.near.sent.wait().context("the WRITE")?;
        to.expect(99, from.holds(5, LEN));
        to.check("the target")
    })?;
    Ok(format!(
        "waited for {} ms, one retry of {} ms allowed; 0 wrong bytes",
        (20 * wait).as_millis(),
        wait.as_millis()
    ))
}

/// No request that waits for memory is answered with "not ready".
fn no_rnr(c: &Ctx<'_>) -> Result<String> {
    let rnr = || {
        let counted = counters();
        let of = |name: &str| counted.get(name).copied().unwrap_or(0);
        of("send_rnr_err") + of("rcvd_rnr_err")
    };
    let pair = c.pair()?;
    impatient(&pair.near, c.env.pd.device().link().ack_timeout, 7)?;
    let mut from = c.pinned(SIZE)?;
    from.fill(0, SIZE, c.seed(1));
    let mut to = Late::new(c, c.seed(2))?;
    let before = rnr();
    to.come(|to| {
        pair.far.post_recv(1, &[to.sge(3, LEN)])?;
        pair.near.run(Work::Send, &[from.sge(1, LEN)])?;
        pair.far.received.wait()?;
        to.expect(3, from.holds(1, LEN));
        pair.far.post_recv(2, &[])?;
        let write = Work::WriteImm(to.remote(6 * PAGE + 3), 7);
        pair.near.run(write, &[from.sge(2, LEN)])?;
        to.expect(6 * PAGE + 3, from.holds(2, LEN));
        let read = Work::Read(to.remote(12 * PAGE + 3));
        pair.near.run(read, &[from.sge(7 * PAGE, LEN)])?;
        from.expect(7 * PAGE, to.holds(12 * PAGE + 3, LEN));
        let atomic = Work::FetchAdd(to.remote(20 * PAGE), 0);
        pair.near.run(atomic, &[from.sge(0, 8)])?;
        from.expect(0, to.holds(20 * PAGE, 8));
        from.check("the peer's memory")?;
        to.check("the late memory")
    })?;
    if rnr() != before {
        bail!("{} answers were \"not ready\"", rnr() - before);
    }
    Ok("SEND, WRITE, READ and an atomic waited; nobody was told to come later".into())
}

/// The READ that the responder was at is forgotten with it.
fn reset(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut local = c.pinned(SIZE)?;
    let from = Late::new(c, c.seed(1))?;
    let mut there = c.area(SIZE, ALL_ACCESS)?;
    local.fill(0, PAGE, c.seed(3));
    from.answer(0)?;
    // Before the first of its answers, and behind it.
    for (at, start, missing) in [(0, 9 * PAGE, 9 * PAGE), (4101, 0, PAGE)] {
        let read = Work::Read(from.area.remote(start));
        pair.near.post(&[(read, &[local.sge(PAGE, LEN)])])?;
        from.asked(missing)?;
        for end in [&pair.far, &pair.near] {
            end.qp.reset()?;
        }
        pair.connect(c.env.mtu)?;
        let write = Work::Write(there.remote(at));
        pair.near.run(write, &[local.sge(3, 100)])?;
        there.expect(at, local.holds(3, 100));
        there.check("the first WRITE after the reset")?;
    }
    Ok("the first request after it is executed".into())
}

/// A message has taken a shared receive when its queue pair fails: the receive is completed, with an error.
fn flushed(c: &Ctx<'_>) -> Result<String> {
    let srq = Srq::new(&c.env.pd)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, Some(srq.raw()))?;
    let mut from = c.pinned(SIZE)?;
    from.fill(0, SIZE, c.seed(1));
    let to = Late::new(c, c.seed(2))?;
    srq.post(5, &mut [to.area.sge(3, LEN)])?;
    to.answer(0)?;
    pair.near.post(&[(Work::Send, &[from.sge(1, LEN)])])?;
    to.asked(PAGE)?;
    pair.far.qp.fail()?;
    let wc = pair.far.received.wait();
    ends_with(wc, ffi::IBV_WC_WR_FLUSH_ERR, "the receive")?;
    Ok("flushed".into())
}
