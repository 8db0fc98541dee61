//! ATOMIC_WRITE and FLUSH, and atomics at addresses that are not aligned.

use anyhow::{Context as _, Result, bail};

use super::area::Area;
use super::{Ctx, ends_with};
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::pair::Work;
use crate::qp::{OpError, Piece};
use crate::system::Kind;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 16 * PAGE;
const FLUSHED: u32 = ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_GLOBAL;

/// The cases.
pub fn extended(c: &Ctx<'_>) -> Result<()> {
    c.case("ATOMIC_WRITE", atomic_write(c));
    c.case("addresses that are not aligned", misaligned(c));
    c.case("FLUSH after WRITE, one list", flush(c));
    c.case("FLUSH that must fail", bad_flush(c));
    c.case("FLUSH to persistence of ordinary memory", persistent(c));
    Ok(())
}

fn atomic_write(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    let mut value = c.seed(1).wrapping_mul(0x0123_4567_89AB_CDEF);
    let mut count = 0;
    for state in ["untouched", "translated", "not translated"] {
        for off in [0, 8, 504, 2048, 4088, PAGE, 5 * PAGE + 4000, SIZE - 8] {
            if state == "not translated" {
                area.cool()?;
            }
            value = value.rotate_left(7) ^ off as u64;
            let work = Work::AtomicWrite(area.remote(off), value);
            let wc = pair.near.run(work, &[])?;
            if wc.opcode != ffi::IBV_WC_ATOMIC_WRITE {
                bail!("it completed as operation {}", wc.opcode);
            }
            area.expect(off, &value.to_ne_bytes());
            area.check(&format!("{state} page, offset {off:#x}"))?;
            count += 1;
        }
    }
    Ok(format!("{count} times, 0 wrong bytes"))
}

fn misaligned(c: &Ctx<'_>) -> Result<String> {
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    let mut back = c.pinned(PAGE)?;
    area.fill(0, SIZE, c.seed(2));
    back.fill(0, PAGE, c.seed(3));
    for off in [1, 4, 7, PAGE - 4, PAGE + 2] {
        for cool in [false, true] {
            let at = area.remote(off);
            for (name, work, list) in [
                ("ATOMIC_WRITE", Work::AtomicWrite(at, 1), vec![]),
                ("CMP_SWP", Work::CmpSwp(at, 1, 2), vec![back.sge(8, 8)]),
                ("FETCH_ADD", Work::FetchAdd(at, 1), vec![back.sge(8, 8)]),
            ] {
                if cool {
                    area.cool()?;
                }
                let result = c.pair()?.near.run(work, &list);
                ends_with(result, ffi::IBV_WC_REM_INV_REQ_ERR, name)
                    .with_context(|| format!("offset {off:#x}"))?;
            }
        }
    }
    area.check("the region")?;
    back.check("the old values' place")?;
    Ok("remote invalid request error, nothing written".into())
}

fn flush(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut area = c.area(SIZE, FLUSHED)?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    from.fill(0, SIZE, c.seed(4));
    for (off, len) in [(1, 5), (4090, 100), (5000, 20_011), (0, SIZE)] {
        for level in [ffi::IBV_FLUSH_RANGE, ffi::IBV_FLUSH_MR] {
            area.cool()?;
            let to = area.remote(off);
            let source = [from.sge(0, len)];
            pair.near.post(&[
                (Work::Write(to), &source[..]),
                (Work::Flush(to, len, ffi::IBV_FLUSH_GLOBAL, level), &[]),
            ])?;
            for opcode in [ffi::IBV_WC_RDMA_WRITE, ffi::IBV_WC_FLUSH] {
                let wc = pair.near.sent.wait()?;
                if wc.opcode != opcode {
                    bail!("operation {} completed, not {opcode}", wc.opcode);
                }
            }
            area.expect(off, from.holds(0, len));
            area.check(&format!("{len} bytes at {off}, level {level}"))?;
        }
    }
    Ok("range and region, both completed in order, 0 wrong bytes".into())
}

fn bad_flush(c: &Ctx<'_>) -> Result<String> {
    let area = c.area(SIZE, FLUSHED)?;
    let deaf = c.area(SIZE, ALL_ACCESS)?;
    let (kind, level) = (ffi::IBV_FLUSH_GLOBAL, ffi::IBV_FLUSH_RANGE);
    for (name, at, len) in [
        ("past the end", area.remote(SIZE - 4), 5),
        ("a region that does not allow it", deaf.remote(0), 8),
    ] {
        let result = c.pair()?.near.run(Work::Flush(at, len, kind, level), &[]);
        ends_with(result, ffi::IBV_WC_REM_ACCESS_ERR, name)?;
    }
    area.check("the region")?;
    let at = area.remote(SIZE - 5);
    c.pair()?.near.run(Work::Flush(at, 5, kind, level), &[])?;
    Ok("remote access error; the device works on".into())
}

/// Nothing makes ordinary memory persistent: either the registration or each flush must say so.
fn persistent(c: &Ctx<'_>) -> Result<String> {
    let access = ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_PERSISTENT;
    if c.kind == Kind::Pinned {
        let map = Map::anon(SIZE)?;
        return match Mr::new(&c.env.pd, map.addr(), SIZE, access) {
            Ok(_) => bail!("the registration was accepted"),
            Err(e) => Ok(format!("registration refused: {e}")),
        };
    }
    let mut area: Area = c.area(SIZE, access)?;
    area.fill(0, SIZE, c.seed(5));
    for level in [ffi::IBV_FLUSH_RANGE, ffi::IBV_FLUSH_MR] {
        let work = Work::Flush(area.remote(3), 5000, ffi::IBV_FLUSH_PERSISTENT, level);
        match c.pair()?.near.run(work, &[]) {
            Err(OpError::Status(ffi::IBV_WC_REM_ACCESS_ERR)) => {}
            Err(e) => bail!("level {level}: {e}"),
            Ok(_) => bail!("level {level}: completed with success"),
        }
    }
    area.check("the region")?;
    // All of a region: its length doesn't fit in 32 bits, and what is left of it there is 0.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let map = Map::with(0, 1 << 32, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
    let big = Mr::new(&c.env.pd, map.addr(), map.len(), access | c.kind.flags())?;
    let at = Piece {
        addr: map.addr() as u64,
        key: big.rkey(),
    };
    let work = Work::Flush(at, 8, ffi::IBV_FLUSH_PERSISTENT, ffi::IBV_FLUSH_MR);
    match c.pair()?.near.run(work, &[]) {
        Err(OpError::Status(ffi::IBV_WC_REM_ACCESS_ERR)) => {}
        Err(e) => bail!("4 GiB: {e}"),
        Ok(_) => bail!("4 GiB: completed with success"),
    }
    Ok("remote access error, also of a region of 4 GiB".into())
}
