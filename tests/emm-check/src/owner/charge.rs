//! Memory, page tables, page cache, what is read from a disk, reserves.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result, bail};

use super::{Ctx, cpu_writes, field, touch};
use crate::mem::{Map, PAGE};
use crate::qp::OpError;
use crate::swap::{Swap, disk_folder, use_swap};
use crate::system::{Cgroup, Kind};
use crate::target::{Env, Target};

const DISK: &str = "/dev/vda";
const MIB: usize = 1 << 20;
/// What one page table maps.
const PART: usize = 2 * MIB;
/// Pages in so many parts.
const PARTS: usize = 1024;
/// Page cache that is brought in, and its limits.
const CACHE: usize = 24 * MIB;
/// Half of the memory that is written and read under pressure.
const PRESSED: usize = 6 * MIB;
const LIMIT: usize = 12 * MIB;
/// Bytes of a file whose blocks need no indirect one.
const HOLE: usize = 8 * PAGE;
/// What a limit may be exceeded by, where the VM comes back to it later.
const SLACK: usize = 2 * MIB;

/// The cases.
pub(super) fn charge(c: &Ctx<'_>) {
    if c.kind.resolve() == Kind::Pinned {
        c.skip("all", "pinned memory is brought in at registration");
        return;
    }
    c.inside("page tables", "+memory", |g| page_tables(c, g));
    if Path::new(DISK).exists() {
        of_disk(c);
    } else {
        c.skip("page cache", "there is no scratch disk (--disk adds one)");
    }
    c.inside(
        "memory that has to be made room for, under memory.max",
        "+memory",
        |g| pressure(c, g),
    );
}

fn of_disk(c: &Ctx<'_>) {
    c.inside("page cache", "+memory", |g| page_cache(c, g));
    c.inside("page cache, bounded by memory.max", "+memory", |g| {
        bounded(c, g)
    });
    c.inside(
        "page cache, a page at a time, under memory.high",
        "+memory",
        |g| high(c, g),
    );
    c.inside("read from a disk", "+memory +io", |g| disk_io(c, g));
    c.case("blocks that are kept for root", || reserve(c));
}

fn page_tables(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let map = || -> Result<Map> {
        let none = libc::MAP_NORESERVE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let map = Map::with(0, PARTS * PART, rights, none, -1)?;
        map.advise(0, map.len(), libc::MADV_NOHUGEPAGE)?;
        Ok(map)
    };
    let places = || (0..PARTS).map(|part| part * PART + part % 512 * PAGE);
    let tables = || field(group, "memory.stat", "pagetables");
    // Both stay until the end, so that no table of one is given back while those of the other are counted.
    let (t, map) = (Target::new(c.env, c.kind, map()?)?, map()?);
    let start = tables()?;
    touch(&t, true, places())?;
    let half = tables()?;
    places().for_each(|off| map.set(off, 1, 1));
    let (by_rdma, by_cpu) = (half - start, tables()? - half);
    let what = format!("{} KiB by RDMA, {} by the CPU", by_rdma >> 10, by_cpu >> 10);
    if by_cpu < (PARTS * PAGE) as u64 || by_rdma < by_cpu - by_cpu / 16 {
        bail!("{what}");
    }
    Ok(what)
}

/// Twice as much anonymous memory as may be had, by operations of many pages: each waits until others are swapped out.
fn pressure(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    use_swap(Swap::Zram)?;
    let t = Target::new(c.env, c.kind, Map::anon(2 * PRESSED)?)?;
    group.write("memory.max", &PRESSED.to_string())?;
    t.write(5, 2 * PRESSED - 9, c.seed(1))?;
    t.read(5, 2 * PRESSED - 9, c.seed(1))?;
    let times = field(group, "memory.events", "max")?;
    let what = format!(
        "{} MiB written and read, {times} times at the limit",
        2 * PRESSED / MIB
    );
    if times == 0 {
        bail!("{what}");
    }
    Ok(what)
}

/// A region of the disk, of which nothing is in memory.
fn cold(c: &Ctx<'_>, len: usize) -> Result<(File, Target)> {
    let disk = File::options().read(true).write(true).open(DISK)?;
    // SAFETY: numbers only.
    let error = unsafe { libc::posix_fadvise(disk.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error != 0 {
        bail!("posix_fadvise: {}", io::Error::from_raw_os_error(error));
    }
    let map = Map::of_file(len, disk.as_raw_fd(), 0).with_context(|| format!("mapping {DISK}"))?;
    // Or the kernel brings in what lies around.
    map.advise(0, len, libc::MADV_RANDOM)?;
    Ok((disk, Target::new(c.env, c.kind, map)?))
}

fn pages(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(PAGE)
}

fn page_cache(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let (_disk, t) = cold(c, 2 * MIB)?;
    let cache = || field(group, "memory.stat", "file");
    let before = cache()?;
    touch(&t, false, pages(MIB))?;
    touch(&t, true, pages(2 * MIB).skip(MIB / PAGE))?;
    let charged = cache()?.saturating_sub(before);
    let what = format!("{} of 2048 KiB", charged >> 10);
    if (charged as usize) < 2 * MIB {
        bail!("{what}");
    }
    Ok(what)
}

/// Bytes of the region that are in memory.
fn resident(t: &Target) -> Result<usize> {
    let mut seen = vec![0u8; t.map.len() / PAGE];
    let start = t.map.addr() as *mut libc::c_void;
    // SAFETY: a mapping of that length, and a byte for each of its pages.
    if unsafe { libc::mincore(start, t.map.len(), seen.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("mincore");
    }
    Ok(seen.iter().filter(|s| **s & 1 != 0).count() * PAGE)
}

fn bounded(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let (_disk, t) = cold(c, CACHE)?;
    group.write("memory.max", &LIMIT.to_string())?;
    touch(&t, false, pages(CACHE))?;
    let (stays, times) = (resident(&t)?, field(group, "memory.events", "max")?);
    let what = format!(
        "{} of {} MiB read stay, {times} times at the limit of {} MiB",
        stays / MIB,
        CACHE / MIB,
        LIMIT / MIB
    );
    if stays > LIMIT || times == 0 {
        bail!("{what}");
    }
    Ok(what)
}

fn high(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let (_disk, t) = cold(c, CACHE)?;
    group.write("memory.high", &LIMIT.to_string())?;
    touch(&t, false, pages(CACHE))?;
    let (stays, times) = (resident(&t)?, field(group, "memory.events", "high")?);
    let what = format!(
        "{} of {} MiB read stay, {times} times above {} MiB",
        stays / MIB,
        CACHE / MIB,
        LIMIT / MIB
    );
    if stays > LIMIT + SLACK || times == 0 {
        bail!("{what}");
    }
    Ok(what)
}

fn disk_io(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    let read = || -> Result<u64> {
        let text = group.read("io.stat")?;
        let of = |word: &str| word.strip_prefix("rbytes=")?.parse::<u64>().ok();
        Ok(text.split_whitespace().filter_map(of).sum())
    };
    let (_disk, t) = cold(c, 2 * MIB)?;
    let before = read()?;
    touch(&t, false, pages(2 * MIB))?;
    let bytes = read()? - before;
    let what = format!("io.stat says {} KiB of 2048", bytes >> 10);
    if (bytes as usize) < 2 * MIB {
        bail!("{what}");
    }
    Ok(what)
}

/// A user without capabilities.
const NOBODY: u32 = 65534;

/// A hole of a file is not filled from what a file system keeps for root, if the region's owner is not root.
fn reserve(c: &Ctx<'_>) -> Result<String> {
    let folder = disk_folder()?;
    let path = |name: &str| format!("{folder}/emm-check-{name}");
    let work = || -> Result<String> {
        File::create_new(path("hole"))?.set_len(HOLE as u64)?;
        let rest = File::create_new(path("rest"))?;
        std::os::unix::fs::chown(path("rest"), Some(NOBODY), None)?;
        let said = Command::new(std::env::current_exe()?)
            .args(&c.env.child_args)
            .args(["owner-child", "--mr", "ondemand", "--hole", &path("hole")])
            .stdin(rest)
            .stderr(Stdio::inherit())
            .output()
            .context("starting the owner")?;
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        if !said.status.success() {
            bail!("{text} ({})", said.status);
        }
        Ok(text)
    };
    let outcome = work();
    for name in ["hole", "rest"] {
        fs::remove_file(path(name)).with_context(|| path(name))?;
    }
    outcome
}

/// The owner, who is not root any more when the file system is full and its memory is written. Another thread posts for it: who
/// opened the device alone may use it.
pub(super) fn in_hole(env: &Env, kind: Kind, path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let t = Target::new(env, kind, Map::of_file(HOLE, file.as_raw_fd(), 0)?)?;
    let (t, (go, gone)) = (&t, channel::<()>());
    let (by_cpu, by_rdma) = std::thread::scope(|s| -> Result<_> {
        let poster = s.spawn(move || {
            gone.recv().ok();
            t.write_one(2 * PAGE, 8, 1)
        });
        let work = || -> Result<i32> {
            // By the system call: libc would take the other thread along.
            // SAFETY: takes numbers.
            if unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) } != 0 {
                return Err(io::Error::last_os_error()).context("setresuid");
            }
            fill(&File::from(io::stdin().as_fd().try_clone_to_owned()?))?;
            Ok(cpu_writes(t.map.addr() + PAGE))
        };
        let by_cpu = work();
        go.send(()).ok();
        match poster.join() {
            Ok(by_rdma) => Ok((by_cpu?, by_rdma)),
            Err(_) => bail!("the posting thread panicked"),
        }
    })?;
    if by_cpu != libc::SIGBUS {
        bail!("the CPU's write ended with signal {by_cpu}, not SIGBUS");
    }
    match by_rdma {
        Err(OpError::Status(status)) => {
            println!("the CPU's write ends with SIGBUS, RDMA's with status {status}");
            Ok(())
        }
        Err(e) => bail!("RDMA WRITE: {e}"),
        Ok(()) => bail!("the CPU's write ends with SIGBUS, RDMA's is done"),
    }
}

/// Takes all blocks that may be had.
fn fill(mut file: &File) -> Result<()> {
    let zeros = vec![0; MIB];
    let mut len = MIB;
    while len >= PAGE {
        match file.write(&zeros[..len]) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => len /= 2,
            Err(e) => return Err(e).context("filling the file system"),
        }
    }
    file.sync_all().context("fsync")
}
