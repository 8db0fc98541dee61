//! The table's memory is charged to the memory cgroup of the region's owner, and comes back with it.

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::Map;
use crate::pair::Work;
use crate::qp::Piece;
use crate::system::{self, Cgroup, Seen};
use crate::verbs::{ALL_ACCESS, Mr};

const GIB: usize = 1 << 30;
const SIZE: usize = 8 * GIB;
/// What one leaf of the table translates.
const PART: usize = 2 << 20;
/// What per-CPU caches of the kernel's accounting, slab objects and queues may add or hide.
const SLACK: u64 = 1 << 20;

/// The case.
pub fn memcg(c: &Ctx<'_>) -> Result<()> {
    let group = Cgroup::new("emm-check-memcg")?;
    group.add(std::process::id())?;
    let outcome = charged(c, &group);
    Cgroup::leave(std::process::id())?;
    c.case("one page in each 2 MiB of 8 GiB", outcome);
    Ok(())
}

/// Kernel memory of the group beside page tables.
fn kernel(group: &Cgroup) -> Result<u64> {
    let stat = group.read("memory.stat")?;
    let field = |name: &str| -> Result<u64> {
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        let found = stat.lines().find_map(of);
        found.with_context(|| format!("memory.stat has no {name}"))
    };
    Ok(field("kernel")? - field("pagetables")?)
}

fn charged(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let none = libc::MAP_NORESERVE;
    let map = Map::with(0, SIZE, libc::PROT_READ | libc::PROT_WRITE, none, -1)?;
    map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    let pair = c.pair()?;
    let mut local = c.pinned(4096)?;
    local.fill(0, 4096, c.seed(1));
    let mr = Mr::new(&c.env.pd, map.addr(), SIZE, ALL_ACCESS | c.kind.flags())?;
    let at = |off| Piece {
        addr: (map.addr() + off) as u64,
        key: mr.rkey(),
    };
    let places = || {
        (0..SIZE)
            .step_by(PART)
            .map(|start| start + start / 512 % PART)
    };
    let before = (kernel(group)?, system::region(map.addr())?);
    for off in places() {
        pair.near.run(Work::Write(at(off)), &[local.sge(7, 8)])?;
    }
    let full = (kernel(group)?, system::region(map.addr())?);
    compare("touched", before, full)?;
    if full.1.table_bytes < (SIZE / PART * 4096) as u64 {
        bail!("the table has {} bytes", full.1.table_bytes);
    }
    for off in places() {
        let wrong = map.compare(off, 8, |_, out| out.copy_from_slice(local.holds(7, 8)));
        wrong.ok("what was written")?;
    }
    map.advise(0, SIZE, libc::MADV_DONTNEED)?;
    let empty = (kernel(group)?, system::region(map.addr())?);
    compare("given back", before, empty)?;
    if empty.1.resident != 0 || empty.1.table_bytes != before.1.table_bytes {
        bail!("after MADV_DONTNEED the table is {:?}", empty.1);
    }
    Ok(format!(
        "table {} KiB, charged {} KiB; given back: {} KiB",
        full.1.table_bytes >> 10,
        (full.0 - before.0) >> 10,
        empty.0.saturating_sub(before.0) >> 10,
    ))
}

/// That what was charged is what the table grew by.
fn compare(when: &str, before: (u64, Seen), now: (u64, Seen)) -> Result<()> {
    let charged = now.0.abs_diff(before.0);
    let table = now.1.table_bytes.abs_diff(before.1.table_bytes);
    if charged.abs_diff(table) > SLACK {
        bail!("{when}: the table changed by {table} bytes, the charge by {charged}");
    }
    Ok(())
}
