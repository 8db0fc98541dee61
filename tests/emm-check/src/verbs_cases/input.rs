//! Bad input, and regions that go while work is outstanding: an errno or a completion with error.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Ctx, ends_with, refused};
use crate::ffi;
use crate::kmsg::Journal;
use crate::mem::{Map, PAGE};
use crate::pair::{Pair, Work};
use crate::qp::{OpError, Piece};
use crate::system::Kind;
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 16 * PAGE;
/// Longest time until the handler hears of a fault.
pub(super) const HEARD: Duration = Duration::from_secs(20);
/// Longest time until the kernel's log says what it holds back.
const SAID: Duration = Duration::from_secs(20);
/// Between two registrations that are to be refused with a reason.
const BEAT: Duration = Duration::from_millis(500);

/// The cases.
pub fn input(c: &Ctx<'_>) -> Result<()> {
    c.case("registration: refused", registrations(c));
    c.case("registration: nothing there", nothing(c));
    c.case("regions of 1 byte", tiny(c));
    c.case("odd lengths", odd(c));
    c.case("wrong keys", keys(c));
    c.case("zero length", zero(c));
    c.case("deregistration with receives posted", receives(c));
    if c.kind != Kind::Pinned {
        c.case("READ of 2 GiB that can't be read", two_gib(c));
        c.case("deregistration under a blocked READ", blocked(c));
    }
    Ok(())
}

/// READ and WRITE of a whole fresh region, every byte compared.
pub(super) fn works(c: &Ctx<'_>) -> Result<()> {
    let (mut area, mut local) = (c.area(SIZE, ALL_ACCESS)?, c.pinned(SIZE)?);
    local.fill(0, SIZE, c.seed(1));
    let pair = c.pair()?;
    let at = area.remote(0);
    pair.near.run(Work::Write(at), &[local.sge(0, SIZE)])?;
    area.expect(0, local.holds(0, SIZE));
    area.check("WRITE afterwards")?;
    local.fill(0, SIZE, c.seed(2));
    pair.near.run(Work::Read(at), &[local.sge(0, SIZE)])?;
    local.expect(0, area.holds(0, SIZE));
    local.check("READ afterwards")
}

fn registrations(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon(SIZE)?;
    let all = ALL_ACCESS | c.kind.flags();
    let writes = ffi::IBV_ACCESS_REMOTE_WRITE | c.kind.flags();
    let atomics = ffi::IBV_ACCESS_REMOTE_ATOMIC | c.kind.flags();
    let kernel = 0xffff_8880_0000_0000;
    let wrong = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOMEM, libc::EFAULT];
    let asked = [
        ("wraps", usize::MAX - PAGE + 1, 2 * PAGE, all),
        ("a length that wraps", map.addr(), usize::MAX - PAGE, all),
        ("ends at 2^64", usize::MAX - PAGE + 1, PAGE, all),
        ("kernel addresses", kernel, PAGE, all),
        ("into kernel addresses", map.addr(), kernel, all),
        ("non-canonical", 1 << 62, PAGE, all),
        ("behind user space", 1 << 47, PAGE, all),
        ("remote write without local", map.addr(), SIZE, writes),
        ("atomics without local write", map.addr(), SIZE, atomics),
        (
            "huge pages",
            map.addr(),
            SIZE,
            all | ffi::IBV_ACCESS_HUGETLB,
        ),
        (
            "zero based",
            map.addr(),
            SIZE,
            all | ffi::IBV_ACCESS_ZERO_BASED,
        ),
        ("unknown access", map.addr(), SIZE, all | 1 << 18),
    ];
    for (what, addr, len, access) in asked {
        refused(Mr::new(&c.env.pd, addr, len, access), &wrong, what)?;
    }
    let shifted = map.addr() as u64 + 4;
    let result = Mr::with_iova(&c.env.pd, map.addr(), SIZE, shifted, all);
    refused(result, &wrong, "an iova with another offset in the page")?;
    tagged(c, &map, all)?;
    works(c)?;
    Ok(format!(
        "{} combinations; the device works on",
        asked.len() + 2
    ))
}

/// An address with a tag in its upper bits (LAM): refused on demand, and the kernel's log says why.
fn tagged(c: &Ctx<'_>, map: &Map, access: u32) -> Result<()> {
    if c.kind.resolve() != Kind::Emm {
        return Ok(());
    }
    let mut journal = Journal::open(&c.env.device)?;
    let address = map.addr() | 5 << 57;
    refused(
        Mr::new(&c.env.pd, address, SIZE, access),
        &[libc::EINVAL],
        "a tagged address",
    )?;
    let said = format!("{address:#x}: they do not lie in user space; a tag");
    // The log holds lines back that come too often: the next registration says it, or one a little later.
    let end = Instant::now() + SAID;
    while !journal.find(BEAT, |text| text.contains(&said))? {
        if Instant::now() > end {
            bail!("the kernel's log does not say why a tagged address is refused");
        }
        refused(
            Mr::new(&c.env.pd, address, SIZE, access),
            &[libc::EINVAL],
            "a tagged address",
        )?;
    }
    Ok(())
}

/// Where there is no memory, and none at all: refused, or every access is.
fn nothing(c: &Ctx<'_>) -> Result<String> {
    let local = c.pinned(PAGE)?;
    let all = ALL_ACCESS | c.kind.flags();
    for (what, addr, len) in [
        ("no mapping", 0x1000, PAGE),
        ("empty", local.addr(), 0),
        ("the end of user space", (1 << 47) - 2 * PAGE, PAGE),
    ] {
        let Ok(mr) = Mr::new(&c.env.pd, addr, len, all) else {
            continue;
        };
        let at = Piece {
            addr: addr as u64,
            key: mr.rkey(),
        };
        for work in [Work::Write(at), Work::Read(at), Work::AtomicWrite(at, 1)] {
            let list = [local.sge(8, 8)];
            let list = if matches!(work, Work::AtomicWrite(..)) {
                &[]
            } else {
                &list[..]
            };
            ends_with(
                c.pair()?.near.run(work, list),
                ffi::IBV_WC_REM_ACCESS_ERR,
                what,
            )?;
        }
    }
    local.check("the other side")?;
    works(c)?;
    Ok("registered or not, nothing can be reached; the device works on".into())
}

/// One byte at each kind of place in a page, written through its own region.
fn tiny(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon(4 * PAGE)?;
    let mut local = c.pinned(PAGE)?;
    local.fill(0, PAGE, c.seed(3));
    let mut model = vec![0; 4 * PAGE];
    let mut pair = c.pair()?;
    for off in [0, 1, 2047, PAGE - 1, PAGE, 2 * PAGE - 1, 4 * PAGE - 1] {
        let addr = map.addr() + off;
        let mr = Mr::new(&c.env.pd, addr, 1, ALL_ACCESS | c.kind.flags())?;
        let at = |addr: usize| Piece {
            addr: addr as u64,
            key: mr.rkey(),
        };
        pair.near
            .run(Work::Write(at(addr)), &[local.sge(off % 99, 1)])?;
        model[off] = local.holds(off % 99, 1)[0];
        for (what, addr, len) in [
            ("two bytes", addr, 2),
            ("the byte before", addr - 1, 1),
            ("the byte behind", addr + 1, 1),
        ] {
            let result = pair.near.run(Work::Write(at(addr)), &[local.sge(500, len)]);
            ends_with(result, ffi::IBV_WC_REM_ACCESS_ERR, what)?;
            pair = c.pair()?;
        }
        map.compare(0, map.len(), |i, out| {
            out.copy_from_slice(&model[i..i + out.len()])
        })
        .ok(&format!("region of 1 byte at {off}"))?;
    }
    Ok("written; the bytes around it cannot be reached".into())
}

fn odd(c: &Ctx<'_>) -> Result<String> {
    for len in [PAGE - 1, PAGE + 1, 3 * PAGE + 77, SIZE - 1] {
        let mut local = c.pinned(SIZE)?;
        local.fill(0, SIZE, c.seed(len as u64));
        let mut area = c.area(len, ALL_ACCESS)?;
        let pair = c.pair()?;
        let at = area.remote(0);
        pair.near.run(Work::Write(at), &[local.sge(0, len)])?;
        area.expect(0, local.holds(0, len));
        area.check(&format!("{len} bytes"))?;
        // The rest of the last page is mapped, but not registered.
        for (what, off, n) in [
            ("one byte behind", len, 1),
            ("one byte too many", 0, len + 1),
        ] {
            let result = c
                .pair()?
                .near
                .run(Work::Write(area.remote(off)), &[local.sge(0, n)]);
            ends_with(result, ffi::IBV_WC_REM_ACCESS_ERR, what)?;
        }
        area.check("the region")?;
    }
    Ok("to the last byte and not beyond".into())
}

fn keys(c: &Ctx<'_>) -> Result<String> {
    let area = c.area(SIZE, ALL_ACCESS)?;
    let local = c.pinned(SIZE)?;
    for flip in [1, 0x80, 0x100, 0xffff_ff00, 0x8000_0000] {
        let mut at = area.remote(0);
        at.key ^= flip;
        for work in [Work::Write(at), Work::Read(at), Work::FetchAdd(at, 1)] {
            let result = c.pair()?.near.run(work, &[local.sge(8, 8)]);
            ends_with(result, ffi::IBV_WC_REM_ACCESS_ERR, "remote key")?;
        }
        let mut sge = area.sge(0, 100);
        sge.lkey ^= flip;
        match c.pair()?.near.run(Work::Write(local.remote(0)), &[sge]) {
            Err(OpError::Status(_)) => {}
            Err(e) => bail!("local key: {e}"),
            Ok(_) => bail!("local key: completed with success"),
        }
        let pair = c.pair()?;
        pair.far.post_recv(0, &[sge])?;
        if pair.near.run(Work::Send, &[local.sge(0, 100)]).is_ok() {
            bail!("a receive with a wrong local key took a message");
        }
    }
    area.check("the region")?;
    local.check("the other side")?;
    works(c)?;
    Ok("each completes with an error, nothing written; the device works on".into())
}

/// Operations without data need neither address nor key.
fn zero(c: &Ctx<'_>) -> Result<String> {
    let area = c.area(SIZE, ALL_ACCESS)?;
    let pair = c.pair()?;
    let nowhere = Piece {
        addr: u64::MAX,
        key: 0x55,
    };
    for at in [area.remote(1), nowhere] {
        for list in [vec![], vec![area.sge(5, 0)]] {
            pair.near.run(Work::Write(at), &list)?;
            pair.near.run(Work::Read(at), &list)?;
            pair.far.post_recv(0, &[area.sge(7, 100)])?;
            pair.near.run(Work::Send, &list)?;
            if pair.far.received.wait()?.byte_len != 0 {
                bail!("an empty message arrived with bytes");
            }
        }
    }
    area.check("the region")?;
    Ok("complete; nothing written".into())
}

/// A message that meets a receive whose region is gone ends with an error on both sides.
/// The longest message that there can be: the answer's first packet finds no memory that can be read.
fn two_gib(c: &Ctx<'_>) -> Result<String> {
    const LEN: usize = 1 << 31;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_NORESERVE);
    let map = Map::with(0, LEN, prot, flags, -1)?;
    let mr = Mr::new(&c.env.pd, map.addr(), LEN, ALL_ACCESS | c.kind.flags())?;
    // Not a hole: the queue pair's own queues could be mapped there.
    map.protect(0, PAGE, libc::PROT_NONE)?;
    let addr = map.addr() as u64;
    let into = ffi::ibv_sge {
        addr,
        length: LEN as u32,
        lkey: mr.lkey(),
    };
    let from = Piece {
        addr,
        key: mr.rkey(),
    };
    let ended = c.pair()?.near.run(Work::Read(from), &[into]);
    ends_with(ended, ffi::IBV_WC_REM_ACCESS_ERR, "READ")?;
    works(c)?;
    Ok("refused".into())
}

fn receives(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let local = c.pinned(SIZE)?;
    let (area, stays) = (c.area(SIZE, ALL_ACCESS)?, c.area(SIZE, ALL_ACCESS)?);
    for number in 0..3 {
        pair.far
            .post_recv(number, &[stays.sge(0, 50), area.sge(100, 5000)])?;
    }
    if area.deregister().is_err() {
        bail!("the deregistration was refused");
    }
    let result = pair.near.run(Work::Send, &[local.sge(0, 5000)]);
    match (result, pair.far.received.wait()) {
        (Err(OpError::Status(near)), Err(OpError::Status(far))) => {
            works(c)?;
            Ok(format!(
                "send status {near}, receive status {far}; the device works on"
            ))
        }
        (near, far) => bail!(
            "send: {:?}, receive: {:?}",
            near.map(|wc| wc.status),
            far.map(|wc| wc.status)
        ),
    }
}

/// A READ waits for a page that a userfaultfd handler never brings.
fn blocked(c: &Ctx<'_>) -> Result<String> {
    let area = c.area(SIZE, ALL_ACCESS)?;
    let local = c.pinned(PAGE)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler.watch(area.map(), 0, SIZE)?;
    let pair: Pair = c.pair()?;
    let list = [local.sge(1, 100)];
    pair.near
        .post(&[(Work::Read(area.remote(5000)), &list[..])])?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    if area.deregister().is_err() {
        bail!("the deregistration was refused");
    }
    ends_with(
        pair.near.sent.wait(),
        ffi::IBV_WC_REM_ACCESS_ERR,
        "the READ",
    )?;
    local.check("the READ's target")?;
    works(c)?;
    Ok("deregistered at once; the READ ends in an error, the device works on".into())
}
