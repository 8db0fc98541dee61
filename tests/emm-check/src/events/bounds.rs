//! Wrong keys, lengths and ranges: an errno or a completion with error, never a hang, and the device works on.

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::mapping::{LOCAL, REMOTE, expect};
use crate::mem::{Map, PAGE};
use crate::qp::{Op, Piece};
use crate::system::Kind;
use crate::target::Target;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 1 << 20;

pub fn bounds(c: &Ctx<'_>) -> Result<()> {
    let mut t = c.target(SIZE)?;
    t.round(0, SIZE, c.seed(1))?;
    let bad_key = |p: Piece| Piece {
        key: p.key ^ 0x0001_0055,
        ..p
    };

    let good = t.bounce_piece(100);
    let r = t.qp().run(Op::Write, good, 100, bad_key(t.remote(0)));
    c.case("wrong remote key", expect(r, &REMOTE, "WRITE"));
    t.new_qp()?;
    let r = t.qp().run(Op::Write, bad_key(t.local(0)), 100, t.remote(0));
    c.case("wrong local key", expect(r, &LOCAL, "WRITE"));
    t.new_qp()?;
    let remote = t.remote(0);
    for (name, addr, len) in [
        ("one byte past the end", remote.addr + SIZE as u64 - 99, 100),
        ("one byte before the start", remote.addr - 1, 100),
        ("far behind the end", remote.addr + (SIZE as u64) * 9, 1),
        ("address range that wraps", u64::MAX - 50, 100),
        ("longer than the region", remote.addr, SIZE as u32 + 1),
    ] {
        let r = t.qp().run(
            Op::Read,
            good,
            len.min(SIZE as u32 + 1),
            Piece {
                addr,
                key: remote.key,
            },
        );
        c.case(&format!("RDMA READ: {name}"), expect(r, &REMOTE, "READ"));
        t.new_qp()?;
        let r = t.qp().run(
            Op::Write,
            good,
            len,
            Piece {
                addr,
                key: remote.key,
            },
        );
        c.case(&format!("RDMA WRITE: {name}"), expect(r, &REMOTE, "WRITE"));
        t.new_qp()?;
    }
    let local = t.local(SIZE - 50);
    let r = t.qp().run(Op::Write, local, 100, t.remote(0));
    c.case("local range past the end", expect(r, &LOCAL, "WRITE"));
    t.new_qp()?;
    let r = t
        .qp()
        .run(Op::Write, good, 0, t.remote(0))
        .map(|()| "completes".to_owned())
        .map_err(Into::into);
    c.case("zero length", r);
    c.case(
        "nothing was written",
        t.cpu_check(0, SIZE, c.seed(1))
            .map(|()| "0 wrong bytes".into()),
    );

    let old = {
        let map = Map::anon(SIZE)?;
        let mr = Mr::new(&c.env.pd, map.addr(), SIZE, ALL_ACCESS | c.kind.flags())?;
        Piece {
            addr: map.addr() as u64,
            key: mr.rkey(),
        }
    };
    let r = t.qp().run(Op::Write, good, 100, old);
    c.case("key of a region that is gone", expect(r, &REMOTE, "WRITE"));
    t.new_qp()?;

    // On-demand registration touches no page, so some of these may succeed; none may hang or harm. A range that wraps must fail.
    let map = Map::anon(4 * PAGE)?;
    for (name, addr, len, must_fail) in [
        ("wraps around", usize::MAX - PAGE + 1, 2 * PAGE, true),
        ("length that wraps", map.addr(), usize::MAX - PAGE, true),
        ("kernel addresses", 0xffff_8000_0000_0000, PAGE, false),
        ("non-canonical addresses", 1 << 63, PAGE, false),
        ("empty", map.addr(), 0, false),
        ("nothing mapped", 0x1000, PAGE, false),
    ] {
        let outcome = match Mr::new(&c.env.pd, addr, len, ALL_ACCESS | c.kind.flags()) {
            Err(e) => Ok(format!("refused: {e}")),
            Ok(_) if must_fail => Err(anyhow::anyhow!("a registration that wraps was accepted")),
            Ok(mr) => {
                let r = t.qp().run(
                    Op::Write,
                    good,
                    1,
                    Piece {
                        addr: addr as u64,
                        key: mr.rkey(),
                    },
                );
                t.new_qp()?;
                expect(r, &REMOTE, "WRITE").map(|s| format!("accepted; a WRITE there: {s}"))
            }
        };
        c.case(&format!("registration: {name}"), outcome);
    }
    let write_only = Mr::new(
        &c.env.pd,
        map.addr(),
        PAGE,
        crate::ffi::IBV_ACCESS_REMOTE_WRITE | c.kind.flags(),
    );
    let outcome = match write_only {
        Err(e) => Ok(format!("refused: {e}")),
        Ok(_) => bail!("remote write without local write was accepted"),
    };
    c.case("registration: remote write without local write", outcome);
    // Pinned memory has to be there.
    if c.kind != Kind::Pinned {
        c.case("regions of 2 to 64 GiB", wide(c));
    }
    let work = || {
        t.round(1, SIZE - 1, c.seed(2))
            .context("after all these errors")?;
        Ok("the device works on, 0 wrong bytes".into())
    };
    c.case("afterwards", work());
    Ok(())
}

/// Lengths that 31 and 32 bits don't hold, or hold another one of.
fn wide(c: &Ctx<'_>) -> Result<String> {
    const PIECE: usize = 10_000;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let all = [2_usize, 3, 4, 5, 64];
    for gib in all {
        let size = gib << 30;
        let map = Map::with(0, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        let t = Target::new(c.env, c.kind, map).with_context(|| format!("{gib} GiB"))?;
        for (i, off) in [1, size / 2 - 5000, size - PIECE].into_iter().enumerate() {
            t.round(off, PIECE, c.seed((gib * 8 + i) as u64))
                .with_context(|| format!("{gib} GiB, at {off:#x}"))?;
        }
    }
    Ok(format!(
        "{all:?} GiB, written and read at both ends and in the middle: 0 wrong bytes"
    ))
}
