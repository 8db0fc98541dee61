//! The mapping under a region is removed, replaced or moved.

use anyhow::{Result, bail};

use super::Ctx;
use crate::ffi;
use crate::mem::{self, Map, PAGE};
use crate::qp::{Op, OpError};
use crate::target::Target;

const SIZE: usize = 4 << 20;

/// A new mapping at the same address is reached through the old registration.
pub fn remap(c: &Ctx<'_>) -> Result<()> {
    let t = c.target(SIZE)?;
    t.round(0, SIZE, c.seed(1))?;
    t.map.renew(0, SIZE)?;
    let work = || {
        t.read_cmp(0, SIZE, |_, out| out.fill(0))?;
        t.round(1, SIZE - 1, c.seed(2))?;
        Ok("new mapping reads as zero, then holds what RDMA wrote".into())
    };
    c.case("all of it replaced in one step", work());
    let work = || {
        for i in 0..20u64 {
            let off = (i as usize * 37 % 900) * PAGE;
            let len = 100 * PAGE;
            t.round(off, len, c.seed(3 + i))?;
            t.map.punch(off, len)?;
            t.map.renew(off, len)?;
            t.cpu_fill(off, len, c.seed(100 + i));
            t.read(off, len, c.seed(100 + i))?;
        }
        Ok("20 times munmap, mmap, CPU writes, RDMA READs: 0 wrong bytes".into())
    };
    c.case("munmap and new mapping", work());
    Ok(())
}

/// That `result` is a completion with one of `statuses`.
pub fn expect(result: Result<(), OpError>, statuses: &[u32], what: &str) -> Result<String> {
    match result {
        Err(e @ OpError::Status(s)) if statuses.contains(&s) => Ok(e.to_string()),
        Err(e) => bail!("{what}: {e}"),
        Ok(()) => bail!("{what}: completed with success"),
    }
}

/// What a remote access that can't be served may complete with.
pub const REMOTE: [u32; 2] = [ffi::IBV_WC_REM_ACCESS_ERR, ffi::IBV_WC_REM_OP_ERR];
/// What a local access that can't be served may complete with; rxe (pinned regions too) flushes the request and the reason is lost.
pub const LOCAL: [u32; 3] = [
    ffi::IBV_WC_LOC_PROT_ERR,
    ffi::IBV_WC_LOC_QP_OP_ERR,
    ffi::IBV_WC_WR_FLUSH_ERR,
];

/// A hole ends operations in an error; the device, the region and new queue pairs go on.
pub fn hole(c: &Ctx<'_>) -> Result<()> {
    let mut t = c.target(SIZE)?;
    let (start, len) = (SIZE / 2, 16 * PAGE);
    t.round(0, SIZE, c.seed(1))?;
    t.spare_qps(4)?;
    t.map.punch(start, len)?;
    let inside = start + 5000;
    c.case(
        "RDMA WRITE into the hole",
        expect(t.write_one(inside, 3000, 1), &REMOTE, "WRITE"),
    );
    t.new_qp()?;
    let read = t
        .read_one(inside, 3000, |_, _| mem::Wrong::default())
        .map(|_| ());
    c.case("RDMA READ from the hole", expect(read, &REMOTE, "READ"));
    t.new_qp()?;
    c.case(
        "RDMA WRITE that runs into the hole",
        expect(t.write_one(start - 100, 9000, 1), &REMOTE, "WRITE"),
    );
    t.new_qp()?;
    let own = t.qp().run(Op::Write, t.local(inside), 100, t.remote(0));
    c.case("local data in the hole", expect(own, &LOCAL, "WRITE"));
    t.new_qp()?;
    let work = || {
        // Bytes just before the hole may hold the start of the WRITE that ran into it.
        t.read(0, start - PAGE, c.seed(1))?;
        t.read(start + len, SIZE - start - len, c.seed(1))?;
        t.round(1, start - 1, c.seed(2))?;
        Ok("a new queue pair reads and writes the rest".into())
    };
    c.case("the rest of the region works on", work());
    let work = || {
        t.map.renew(start, len)?;
        t.round(start - 77, len + 177, c.seed(3))?;
        Ok("mapped again: works through the same registration".into())
    };
    c.case("the hole is filled", work());
    Ok(())
}

/// Pages move away and come back, and others take their place.
pub fn mremap(c: &Ctx<'_>) -> Result<()> {
    let mut t = c.target(SIZE)?;
    let spare = Map::anon(SIZE)?;
    let (off, len) = (SIZE / 4 + PAGE, SIZE / 2);
    t.spare_qps(1)?;
    t.round(0, SIZE, c.seed(1))?;
    t.map.move_to(off, len, spare.addr())?;
    c.case(
        "RDMA WRITE where pages moved away",
        expect(t.write_one(off + 9, 500, 1), &REMOTE, "WRITE"),
    );
    t.new_qp()?;
    let moved = spare
        .check(0, len, c.seed(1), off)
        .ok("moved pages")
        .map(|()| "moved pages hold their bytes".into());
    c.case("moved pages are not written", moved);
    let back = |t: &Target| {
        spare.fill(0, len, c.seed(2), off);
        mem::remap(spare.addr(), len, t.map.addr() + off)?;
        t.read(off, len, c.seed(2))?;
        t.read(0, off, c.seed(1))?;
        t.round(3, SIZE - 3, c.seed(3))?;
        Ok("back with new bytes: READ and WRITE verified".into())
    };
    c.case("back again", back(&t));
    Ok(())
}
