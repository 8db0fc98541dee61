//! The same bytes on other page frames.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::matrix::scene::{Scene, Unfit};
use crate::mem::{Map, PAGE};
use crate::system::{smaps_kib, vmstat};

const HUGE: usize = 2 << 20;
const MADV_COLLAPSE: i32 = 25;
/// Longest wait for what a thread of the kernel does in its own time.
const PATIENCE: Duration = Duration::from_secs(60);

fn huge_mib(s: &Scene<'_>) -> u64 {
    smaps_kib(s.address(0), s.stage.len(), "AnonHugePages") >> 10
}

/// A page thrown out of the middle splits a huge page; a collapse makes it whole.
pub fn thp(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(8)?;
    let mut collapsed = 0;
    for round in 0..3 {
        let page = HUGE * (round % 2) + (17 + round) * PAGE;
        let range = page..page + PAGE;
        s.advise(&range, libc::MADV_DONTNEED)?;
        s.stage.zero(range.clone());
        s.traffic_in(range.start - PAGE..range.end + PAGE, 3)?;
        s.traffic(4)?;
        s.stage.verify("split")?;
        // The kernel may be busy with the pages just then.
        for _ in 0..10 {
            if s.advise(&s.all(), MADV_COLLAPSE).is_ok() {
                collapsed += 1;
                break;
            }
        }
        s.traffic(8)?;
        s.stage.verify("collapsed")?;
    }
    if collapsed == 0 {
        bail!("nothing was collapsed, {} MiB are huge", huge_mib(s));
    }
    Ok(format!("3 times split, {collapsed} times collapsed"))
}

/// Huge pages of hugetlbfs are thrown away one by one.
pub fn hugetlb(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(8)?;
    for at in [0, HUGE] {
        let range = at..at + HUGE;
        s.advise(&range, libc::MADV_DONTNEED)?;
        s.stage.zero(range.clone());
        s.traffic_in(range, 6)?;
        s.traffic(4)?;
        s.stage.verify("the stage")?;
    }
    Ok("2 huge pages thrown away read as zero".into())
}

fn ksm_file(name: &str) -> String {
    format!("/sys/kernel/mm/ksm/{name}")
}

fn ksm_set(name: &str, value: &str) -> Result<()> {
    let path = ksm_file(name);
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

/// Equal pages become one, read-only; a write to either parts them.
pub fn ksm(s: &mut Scene<'_>) -> Result<String> {
    for (name, value) in [
        ("pages_to_scan", "20000"),
        ("sleep_millisecs", "5"),
        ("run", "1"),
    ] {
        ksm_set(name, value)?;
    }
    let result = merge(s);
    ksm_set("run", "2")?;
    result
}

fn merge(s: &mut Scene<'_>) -> Result<String> {
    let pages = s.stage.len() / PAGE;
    s.advise(&s.all(), libc::MADV_MERGEABLE)
        .context("MADV_MERGEABLE")?;
    let mut merged = 0;
    for round in 0..2u64 {
        // Every page the same.
        for page in 0..pages {
            let mut one = vec![0; PAGE];
            crate::mem::pattern(s.seed(round), 0, &mut one);
            s.stage.write(page * PAGE, &one);
        }
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(ksm_file("pages_sharing"))?;
            merged = text.trim().parse::<usize>().unwrap_or(0);
            if merged >= pages / 2 {
                break;
            }
            if start.elapsed() > PATIENCE {
                bail!("only {merged} of {pages} pages were merged");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Operations write to some: the others of the same frame must not change.
        s.traffic(12)?;
        s.stage.verify("merged pages")?;
    }
    Ok(format!("{merged} pages merged, each write parted one"))
}

/// `move_pages(2)`: all pages of a range to `node`. Returns how many are there.
fn to_node(address: usize, len: usize, node: i32) -> io::Result<usize> {
    const MPOL_MF_MOVE: i32 = 2;
    let addresses: Vec<usize> = (address..address + len).step_by(PAGE).collect();
    let nodes = vec![node; addresses.len()];
    let mut status = vec![-1i32; addresses.len()];
    // SAFETY: the three arrays have as many elements as is said.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.iter().filter(|s| **s == node).count())
}

fn two_nodes() -> Result<()> {
    if std::path::Path::new("/sys/devices/system/node/node1").exists() {
        return Ok(());
    }
    Err(Unfit("this machine has one NUMA node (numa=fake=2 makes two)".into()).into())
}

pub fn move_pages(s: &mut Scene<'_>) -> Result<String> {
    two_nodes()?;
    s.fill(1);
    let mut moved = 0;
    for round in 0..6 {
        s.traffic(6)?;
        let len = s.stage.len();
        moved += to_node(s.address(0), len, round % 2).context("move_pages")?;
        s.traffic(6)?;
        s.stage.verify("the stage")?;
    }
    let pages = s.stage.len() / PAGE;
    // Pages that an access holds just then stay; most must move.
    if moved < 3 * pages {
        bail!("{moved} of {} pages moved", 6 * pages);
    }
    Ok(format!("{moved} of {} pages moved", 6 * pages))
}

pub fn compaction(s: &mut Scene<'_>) -> Result<String> {
    let ballast = Map::anon(32 << 20)?;
    s.fill(1);
    let before = vmstat("pgmigrate_success");
    let (start, mut times, mut moved) = (Instant::now(), 0, 0);
    while times < 3 || moved == 0 {
        scatter(&ballast, times % 2)?;
        s.traffic(6)?;
        fs::write("/proc/sys/vm/compact_memory", "1").context("compacting")?;
        s.traffic(6)?;
        s.stage.verify("the stage")?;
        times += 1;
        moved = vmstat("pgmigrate_success") - before;
        if start.elapsed() > PATIENCE {
            bail!("no page was moved by {times} compactions");
        }
    }
    Ok(format!("{times} compactions moved {moved} pages"))
}

/// Every second page in use, the others not: compaction has something to do.
fn scatter(ballast: &Map, first: usize) -> io::Result<()> {
    let every = |from: usize| (from * PAGE..ballast.len()).step_by(2 * PAGE);
    every(first).for_each(|off| ballast.set(off, 1, 1));
    every(1 - first).try_for_each(|off| ballast.advise(off, PAGE, libc::MADV_DONTNEED))
}

/// The kernel unmaps pages to learn which node uses them, and moves them there.
pub fn numa_balancing(s: &mut Scene<'_>) -> Result<String> {
    const SWITCH: &str = "/proc/sys/kernel/numa_balancing";
    const FOLDER: &str = "/sys/kernel/debug/sched/numa_balancing";
    const FAST: [(&str, &str); 4] = [
        ("scan_delay_ms", "1"),
        ("scan_period_min_ms", "10"),
        ("scan_period_max_ms", "20"),
        ("scan_size_mb", "256"),
    ];
    two_nodes()?;
    crate::system::debugfs()?;
    let mut settings = vec![(SWITCH.to_owned(), "1")];
    settings.extend(FAST.map(|(name, value)| (format!("{FOLDER}/{name}"), value)));
    let mut before = Vec::new();
    for (path, value) in settings {
        before.push((fs::read_to_string(&path)?, path.clone()));
        fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    let outcome = balanced(s);
    for (value, path) in before {
        fs::write(&path, value.trim()).with_context(|| format!("restoring {path}"))?;
    }
    outcome
}

fn balanced(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    let before = vmstat("numa_pte_updates");
    let start = Instant::now();
    let mut updates = 0;
    // A task is scanned while it runs on a CPU.
    while updates < 200 {
        s.traffic(4)?;
        s.stage.verify("the stage")?;
        updates = vmstat("numa_pte_updates") - before;
        if start.elapsed() > PATIENCE {
            let secs = PATIENCE.as_secs();
            bail!("{updates} page table entries were changed in {secs} s");
        }
    }
    Ok(format!("{updates} page table entries changed"))
}
