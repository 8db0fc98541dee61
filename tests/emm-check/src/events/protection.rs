//! Protections: what the CPU may not write, RDMA may not write either.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::mapping::{REMOTE, expect};
use crate::ffi;
use crate::mem::{Map, PAGE, pattern};
use crate::system::Kind;
use crate::target::Target;
use crate::verbs::Mr;

const SIZE: usize = 1 << 20;
const HUGE: usize = 2 << 20;

pub fn mprotect(c: &Ctx<'_>) -> Result<()> {
    let mut t = c.target(SIZE)?;
    let all = |t: &Target, prot| t.map.protect(0, SIZE, prot);
    t.round(0, SIZE, c.seed(1))?;
    all(&t, libc::PROT_READ)?;
    c.case(
        "RDMA WRITE to read-only pages",
        expect(t.write_one(5001, 3000, 7), &REMOTE, "WRITE"),
    );
    t.new_qp()?;
    c.case(
        "RDMA READ of read-only pages",
        t.read(0, SIZE, c.seed(1)).map(|()| "0 wrong bytes".into()),
    );
    all(&t, libc::PROT_NONE)?;
    let read = t
        .read_one(5001, 3000, |_, _| crate::mem::Wrong::default())
        .map(|_| ());
    c.case(
        "RDMA READ of PROT_NONE pages",
        expect(read, &REMOTE, "READ"),
    );
    t.new_qp()?;
    all(&t, libc::PROT_READ | libc::PROT_WRITE)?;
    let work = || {
        t.read(0, SIZE, c.seed(1))?;
        t.round(1, SIZE - 1, c.seed(2))?;
        Ok("bytes as before, then overwritten by RDMA".into())
    };
    c.case("writable again", work());
    Ok(())
}

/// Memory that is mapped read-only and registered for reading only; and the zero page, which must never be written.
pub fn readonly(c: &Ctx<'_>) -> Result<()> {
    let path = format!("/tmp/emm-check-{}", std::process::id());
    let mut bytes = vec![0; SIZE];
    pattern(c.seed(1), 0, &mut bytes);
    let work = || {
        let mut file = File::create(&path).with_context(|| format!("creating {path}"))?;
        file.write_all(&bytes)
            .with_context(|| format!("writing {path}"))?;
        let file = File::open(&path)?;
        let map = Map::with(0, SIZE, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())?;
        let mr = Mr::new(
            &c.env.pd,
            map.addr(),
            SIZE,
            ffi::IBV_ACCESS_REMOTE_READ | c.kind.flags(),
        )
        .context("registering read-only memory for reading")?;
        let mut t = Target::sharing(c.env, map.into(), mr.into())?;
        t.read(0, SIZE, c.seed(1))?;
        let said = expect(t.write_one(77, 1000, 7), &REMOTE, "WRITE")?;
        t.new_qp()?;
        t.read(0, SIZE, c.seed(1))?;
        Ok(format!("READ of a file mapping verified; WRITE: {said}"))
    };
    let outcome = work();
    fs::remove_file(&path).ok();
    c.case("file mapping registered for reading", outcome);

    if c.kind != Kind::Pinned {
        c.case("read, then write of untouched memory", zero_page(c, false));
        c.case(
            "read, then write of untouched huge pages",
            zero_page(c, true),
        );
    }
    Ok(())
}

/// Reading by RDMA maps a zero page, small or huge: the writes that follow must get pages of their own.
///
/// What is written to the small zero page shows in every other page. What is written to the huge one shows at the same place of
/// other huge pages only, so that both mappings must have some, whole.
fn zero_page(c: &Ctx<'_>, huge: bool) -> Result<String> {
    let map = || {
        let (map, advice) = if huge {
            (Map::anon_huge_aligned(2 * HUGE)?, libc::MADV_HUGEPAGE)
        } else {
            (Map::anon(SIZE)?, libc::MADV_NOHUGEPAGE)
        };
        map.advise(0, map.len(), advice)?;
        io::Result::Ok(map)
    };
    let other = map()?;
    let t = Target::new(c.env, c.kind, map()?)?;
    let len = t.map.len();
    t.read_cmp(0, len, |_, out| out.fill(0))?;
    let frames = t.map.entries()?;
    let (next, huge_next) = (
        frames[1] == frames[0],
        frames.get(HUGE / PAGE) == frames.first(),
    );
    if (next, huge_next) != (!huge, huge) {
        bail!(
            "a READ mapped no zero page: {:#x}, {:#x}",
            frames[0],
            frames[1]
        );
    }
    t.write(1, len / 2, c.seed(2))?;
    t.cpu_check(1, len / 2, c.seed(2))?;
    let rest = 1 + len / 2;
    t.map.check_byte(rest, len - rest, 0).ok("untouched half")?;
    other
        .check_byte(0, len, 0)
        .ok("another untouched mapping")?;
    t.cpu_fill(rest, len - rest, c.seed(2));
    t.read(1, len - 1, c.seed(2))?;
    Ok(
        "READ of untouched memory, then RDMA and CPU writes: 0 wrong bytes, zero page intact"
            .into(),
    )
}
