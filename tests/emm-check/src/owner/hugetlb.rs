//! Pages of the hugetlb pool are charged to the owner's hugetlb cgroup.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Ctx, cpu_writes, field, touch};
use crate::mem::Map;
use crate::qp::{Op, OpError};
use crate::system::{Cgroup, Kind};
use crate::target::Target;
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

const POOL: &str = "/proc/sys/vm/nr_hugepages";
const HUGE: usize = 2 << 20;
/// Pages of the region, and of the pool.
const PAGES: usize = 4;
const HAS: usize = 2 * PAGES;
/// Longest time until a handler hears of a fault.
const HEARD: Duration = Duration::from_secs(20);
/// Longest time of what waits for nobody.
const SOON: Duration = Duration::from_secs(3);

/// The cases.
pub(super) fn hugetlb(c: &Ctx<'_>) {
    let pool = || -> Result<()> {
        fs::write(POOL, HAS.to_string())?;
        match fs::read_to_string(POOL)?.trim().parse() {
            Ok(HAS) => Ok(()),
            _ => bail!("{HAS} pages are not to be had in one piece"),
        }
    };
    if let Err(e) = pool().with_context(|| format!("writing {POOL}")) {
        c.case("the pool", || Err(e));
        return;
    }
    if c.kind.resolve() == Kind::Pinned {
        c.inside("hugetlb.2MB.max is 0", "+hugetlb", |g| pinned(c, g));
    } else {
        c.inside("hugetlb.2MB.max is 0", "+hugetlb", |g| none(c, g));
        c.inside("hugetlb.2MB.max is two pages", "+hugetlb", |g| two(c, g));
        c.inside("a userfaultfd that is silent", "+hugetlb", |_| silent(c));
        c.case("without a limit", || unlimited(c));
    }
    fs::write(POOL, "0").ok();
}

/// Pages of the pool that nobody has.
fn free() -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |line: &str| line.strip_prefix("HugePages_Free:")?.trim().parse().ok();
    text.lines().find_map(of).context("HugePages_Free")
}

fn map() -> Result<Map> {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    Map::with(0, PAGES * HUGE, rights, libc::MAP_HUGETLB, -1).context("mapping huge pages")
}

/// A region of the pool's pages.
fn region(c: &Ctx<'_>) -> Result<Target> {
    Target::new(c.env, c.kind, map()?)
}

fn limit(group: &Cgroup, bytes: usize) -> Result<()> {
    group.write("hugetlb.2MB.max", &bytes.to_string())
}

fn current(group: &Cgroup) -> Result<usize> {
    Ok(group.read("hugetlb.2MB.current")?.trim().parse()?)
}

/// That a WRITE there ends with an error.
fn refused(t: &Target, off: usize) -> Result<u32> {
    match t.write_one(off, 100, 1) {
        Err(OpError::Status(status)) => Ok(status),
        Err(e) => bail!("RDMA WRITE at {off:#x}: {e}"),
        Ok(()) => bail!(
            "RDMA WRITE at {off:#x} is done, and the pool has {} pages",
            free()?
        ),
    }
}

/// That the CPU gets SIGBUS for it.
fn cpu_is_refused(t: &Target, off: usize) -> Result<()> {
    match cpu_writes(t.map.addr() + off) {
        libc::SIGBUS => Ok(()),
        signal => bail!("the CPU's write ended with signal {signal}, not SIGBUS"),
    }
}

fn pinned(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    limit(group, 0)?;
    match region(c) {
        Ok(_) => bail!("registered"),
        Err(e) => Ok(format!("{e:#}")),
    }
}

fn none(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    limit(group, 0)?;
    let mut t = region(c)?;
    let before = free()?;
    let status = refused(&t, 3)?;
    cpu_is_refused(&t, 3)?;
    let (after, times) = (free()?, field(group, "hugetlb.2MB.events", "max")?);
    if before != after || times < 2 {
        bail!("{before} pages were free, {after} are; {times} times refused");
    }
    // The region works on: with room, the same WRITE succeeds.
    limit(group, 2 * PAGES * HUGE)?;
    t.new_qp()?;
    t.round(3, 100, c.seed(1))?;
    if cpu_writes(t.map.addr() + HUGE) != 0 {
        bail!("with room, the CPU's write is refused too");
    }
    Ok(format!(
        "RDMA WRITE ends with status {status}, the CPU's with SIGBUS; {after} pages are free as before"
    ))
}

fn two(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    limit(group, 2 * HUGE)?;
    let mut t = region(c)?;
    let mut took = Vec::new();
    for page in 0..2 {
        let start = Instant::now();
        t.write_one(page * HUGE + 5, 100, c.seed(1))?;
        took.push(format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3));
    }
    let has = current(group)?;
    if has != 2 * HUGE {
        bail!("{has} bytes are charged for two pages");
    }
    let status = refused(&t, 2 * HUGE)?;
    cpu_is_refused(&t, 2 * HUGE)?;
    t.new_qp()?;
    for page in 0..2 {
        t.read(page * HUGE + 5, 100, c.seed(1))?;
    }
    t.map.advise(0, HUGE, libc::MADV_DONTNEED)?;
    t.write_one(3 * HUGE, 100, c.seed(1))?;
    drop(t);
    let left = current(group)?;
    if left != 0 {
        bail!("{left} bytes are charged for nothing");
    }
    Ok(format!(
        "two come ({}), the third ends with status {status}; one given back makes room; nothing is charged at the end",
        took.join(", ")
    ))
}

/// What waits for a handler ends with its region.
fn silent(c: &Ctx<'_>) -> Result<String> {
    let t = region(c)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler
        .watch(&t.map, 0, t.map.len())
        .context("UFFDIO_REGISTER")?;
    let access = ALL_ACCESS | c.kind.flags();
    let mr = Mr::new(&c.env.pd, t.map.addr(), t.map.len(), access)?;
    let mut remote = t.remote(HUGE + 5);
    remote.key = mr.rkey();
    t.qp().post(Op::Write, t.bounce_piece(64), 8, remote)?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of nothing");
    }
    let start = Instant::now();
    drop(mr);
    let took = start.elapsed();
    if took > SOON {
        bail!("deregistering took {:.1} s", took.as_secs_f64());
    }
    match t.qp().wait() {
        Err(e @ OpError::Status(_)) => Ok(format!(
            "deregistered in {:.1} ms; {e}",
            took.as_secs_f64() * 1e3
        )),
        Err(e) => bail!("{e}"),
        Ok(()) => bail!("the WRITE to a page that did not come ended well"),
    }
}

fn unlimited(c: &Ctx<'_>) -> Result<String> {
    let t = region(c)?;
    let start = Instant::now();
    touch(&t, true, (0..PAGES).map(|page| page * HUGE))?;
    Ok(format!(
        "{PAGES} pages in {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    ))
}
