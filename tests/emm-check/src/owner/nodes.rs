//! Pages come from the nodes that the owner's cpuset and its memory policy name: where the CPU's own touch puts them.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Ctx, touch};
use crate::child::ends_within;
use crate::mem::{Map, PAGE};
use crate::system::{Kind, nameless_file};
use crate::target::{Env, Target};

/// Pages of a region.
const PAGES: usize = 64;
const SIZE: usize = PAGES * PAGE;
/// What each of two owners does at the same time.
const ROUNDS: u32 = 100;
const LIMIT: Duration = Duration::from_secs(120);
const POOL: &str = "/sys/devices/system/node/node";
const HUGE: usize = 2 << 20;

/// Memory policies (linux/mempolicy.h).
#[derive(Clone, Copy, Debug)]
enum Policy {
    Default,
    Preferred,
    Bind,
    Interleave,
    Local,
}

impl Policy {
    fn mode(self) -> libc::c_long {
        match self {
            Self::Default => 0,
            Self::Preferred => 1,
            Self::Bind => 2,
            Self::Interleave => 3,
            Self::Local => 4,
        }
    }
}

fn said(ret: libc::c_long, what: &str) -> Result<()> {
    if ret < 0 {
        return Err(io::Error::last_os_error()).context(what.to_owned());
    }
    Ok(())
}

/// `set_mempolicy(2)` of the calling thread, which is the first one.
fn set_policy(policy: Policy, nodes: u64) -> Result<()> {
    // SAFETY: the mask outlives the call, which reads 64 bits of it.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode(), &nodes, 65) };
    said(ret, "set_mempolicy")
}

/// `mbind(2)`.
fn bind(map: &Map, policy: Policy, nodes: u64) -> Result<()> {
    let (start, len, mode) = (map.addr(), map.len(), policy.mode());
    // SAFETY: a mapping of that length; the mask outlives the call, which reads 64 bits of it.
    let ret = unsafe { libc::syscall(libc::SYS_mbind, start, len, mode, &nodes, 65, 0) };
    said(ret, "mbind")
}

/// Lets this thread run on one CPU of `node` only, or on all.
fn run_on(node: Option<u32>) -> Result<()> {
    let cpus = match node {
        Some(node) => fs::read_to_string(format!("{POOL}{node}/cpulist"))?,
        None => fs::read_to_string("/sys/devices/system/cpu/online")?,
    };
    let number = |text: &str| text.trim().parse::<usize>();
    let (first, last) = cpus.trim().split_once('-').unwrap_or((&cpus, &cpus));
    // SAFETY: zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in number(first)?..=number(last)? {
        // SAFETY: the set is as large as the macro takes it to be; it checks the number.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set outlives the call.
    let ret = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    said(ret.into(), "sched_setaffinity")
}

/// The node of each page, a step apart.
fn nodes_of(map: &Map, step: usize) -> Result<Vec<i32>> {
    let places: Vec<usize> = (map.addr()..map.addr() + map.len()).step_by(step).collect();
    let mut nodes = vec![-1i32; places.len()];
    let none = std::ptr::null::<i32>();
    // SAFETY: arrays of as many elements as is said; without nodes, nothing is moved.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            places.len(),
            places.as_ptr(),
            none,
            nodes.as_mut_ptr(),
            0,
        )
    };
    said(ret, "move_pages")?;
    match nodes.iter().find(|node| **node < 0) {
        Some(error) => bail!("a page that was touched is not there: {error}"),
        None => Ok(nodes),
    }
}

/// Kinds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Anonymous,
    Shmem,
    Hugetlb,
}

impl Memory {
    const ALL: [Self; 3] = [Self::Anonymous, Self::Shmem, Self::Hugetlb];

    fn map(self) -> Result<Map> {
        let map = match self {
            Self::Anonymous => Map::anon(SIZE)?,
            Self::Shmem => {
                let file = nameless_file("/dev/shm")?;
                file.set_len(SIZE as u64)?;
                Map::of_file(SIZE, file.as_raw_fd(), 0)?
            }
            Self::Hugetlb => {
                let rights = libc::PROT_READ | libc::PROT_WRITE;
                return Map::with(0, 4 * HUGE, rights, libc::MAP_HUGETLB, -1)
                    .context("mapping huge pages");
            }
        };
        map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
        Ok(map)
    }

    fn step(self) -> usize {
        if self == Self::Hugetlb { HUGE } else { PAGE }
    }

    /// Gives all pages back.
    fn empty(self, map: &Map) -> Result<()> {
        let how = match self {
            Self::Shmem => libc::MADV_REMOVE,
            _ => libc::MADV_DONTNEED,
        };
        Ok(map.advise(0, map.len(), how)?)
    }
}

/// Where the pages of a region lie after RDMA, and after the CPU.
fn compare(t: &Target, memory: Memory, want: Option<i32>) -> Result<String> {
    let (map, step) = (&t.map, memory.step());
    memory.empty(map)?;
    touch(t, true, (0..map.len()).step_by(step))?;
    let by_rdma = nodes_of(map, step)?;
    memory.empty(map)?;
    (0..map.len())
        .step_by(step)
        .for_each(|off| map.set(off, 1, 1));
    let by_cpu = nodes_of(map, step)?;
    let wrong = by_rdma.iter().zip(&by_cpu).filter(|(a, b)| a != b).count();
    let on = |nodes: &[i32], node| nodes.iter().filter(|n| **n == node).count();
    let what = format!(
        "{memory:?}: {} on node 0, {} on node 1; {wrong} elsewhere than by the CPU",
        on(&by_rdma, 0),
        on(&by_rdma, 1)
    );
    let strays = want.map_or(0, |node| by_cpu.len() - on(&by_cpu, node));
    if wrong > 0 || strays > 0 {
        bail!("{what}; {strays} of the CPU's on another node than was asked for");
    }
    Ok(what)
}

/// The same for each kind of memory, in regions that `set` is called between registration and traffic of.
fn each(c: &Ctx<'_>, want: Option<i32>, set: impl Fn(&Map) -> Result<()>) -> Result<String> {
    let mut all = Vec::new();
    for memory in Memory::ALL {
        let t = Target::new(c.env, c.kind, memory.map()?)?;
        set(&t.map)?;
        all.push(compare(&t, memory, want)?);
    }
    Ok(all.join("; "))
}

/// The cases.
pub(super) fn nodes(c: &Ctx<'_>) {
    if !Path::new(&format!("{POOL}1")).exists() {
        c.skip(
            "all",
            "this machine has one NUMA node (--nodes 2 makes two)",
        );
        return;
    }
    if c.kind.resolve() == Kind::Pinned {
        c.skip("all", "pinned memory is brought in at registration");
        return;
    }
    let before = kernel_threads();
    let pool = |pages: &str| -> Result<()> {
        for node in 0..2 {
            let file = format!("{POOL}{node}/hugepages/hugepages-2048kB/nr_hugepages");
            fs::write(&file, pages).with_context(|| format!("writing {file}"))?;
        }
        Ok(())
    };
    if let Err(e) = pool("6") {
        c.case("huge pages of each node", || Err(e));
    }
    let policy = |name: &str, policy, nodes, want: Option<i32>| {
        c.case(name, || {
            let outcome = each(c, want, |_| set_policy(policy, nodes));
            set_policy(Policy::Default, 0)?;
            outcome
        });
    };
    for node in 0..2 {
        let name = |what: &str| format!("{what} of node {node}");
        let (mask, want) = (1 << node, Some(node));
        policy(&name("MPOL_BIND"), Policy::Bind, mask, want);
        policy(&name("MPOL_PREFERRED"), Policy::Preferred, mask, want);
        c.case(&name("mbind"), || {
            let outcome = set_policy(Policy::Bind, 3 ^ mask)
                .and_then(|()| each(c, want, |map| bind(map, Policy::Bind, mask)));
            set_policy(Policy::Default, 0)?;
            outcome
        });
        c.inside(&name("cpuset.mems"), "+cpuset", |group| {
            group.write("cpuset.mems", &node.to_string())?;
            each(c, want, |_| Ok(()))
        });
        for (what, kind) in [
            ("no policy", Policy::Default),
            ("MPOL_LOCAL", Policy::Local),
        ] {
            c.case(&name(&format!("{what}, on a CPU")), || {
                let outcome =
                    run_on(Some(node as u32)).and_then(|()| each(c, want, |_| set_policy(kind, 0)));
                set_policy(Policy::Default, 0)?;
                run_on(None)?;
                outcome
            });
        }
    }
    policy("MPOL_INTERLEAVE", Policy::Interleave, 3, None);
    c.case("a policy that is changed after registration", || changed(c));
    c.case("two owners at the same time", || two(c));
    if let Err(e) = pool("0") {
        c.case("huge pages given back", || Err(e));
    }
    c.case("kernel threads are as before", || as_before(before));
}

fn changed(c: &Ctx<'_>) -> Result<String> {
    let t = Target::new(c.env, c.kind, Memory::Anonymous.map()?)?;
    let mut all = Vec::new();
    for node in [1, 0, 1] {
        let outcome = set_policy(Policy::Bind, 1 << node)
            .and_then(|()| compare(&t, Memory::Anonymous, Some(node)));
        set_policy(Policy::Default, 0)?;
        all.push(outcome?);
    }
    Ok(all.join("; "))
}

/// A process whose memory is all of `node`.
pub(super) fn child(env: &Env, kind: Kind, node: u32) -> Result<()> {
    set_policy(Policy::Bind, 1 << node)?;
    let memory = Memory::Anonymous;
    let t = Target::new(env, kind, memory.map()?)?;
    for round in 0..ROUNDS {
        memory.empty(&t.map)?;
        touch(&t, true, (0..SIZE).step_by(PAGE))?;
        let nodes = nodes_of(&t.map, PAGE)?;
        let wrong = nodes.iter().filter(|n| **n != node as i32).count();
        if wrong > 0 {
            bail!("round {round}: {wrong} of {PAGES} pages are not on node {node}");
        }
    }
    Ok(())
}

fn two(c: &Ctx<'_>) -> Result<String> {
    let start = |node: u32| -> Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(&c.env.child_args)
            .args([
                "owner-child",
                "--mr",
                "ondemand",
                "--node",
                &node.to_string(),
            ])
            .spawn()
            .context("starting a process")
    };
    let mut both = [start(0)?, start(1)?];
    let mut ends = Vec::new();
    for child in &mut both {
        ends.push(ends_within(child, LIMIT)?);
        // It has ended, or is to.
        child.kill().ok();
        child.wait()?;
    }
    if ends.iter().any(|end| !end.is_some_and(|e| e.success())) {
        bail!("the processes ended with {ends:?}");
    }
    Ok(format!(
        "{ROUNDS} rounds of {PAGES} pages each, all where they belong"
    ))
}

/// Nodes and cgroup of each kernel thread, by its number.
fn kernel_threads() -> Vec<(u32, String)> {
    let of = |entry: io::Result<fs::DirEntry>| -> Option<(u32, String)> {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // Those of the kernel have no memory of their own.
        if status.contains("VmSize:") {
            return None;
        }
        let nodes = status
            .lines()
            .find(|l| l.starts_with("Mems_allowed_list"))?;
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some((pid, format!("{nodes} {group}")))
    };
    fs::read_dir("/proc").map_or(Vec::new(), |all| all.filter_map(of).collect())
}

fn as_before(before: Vec<(u32, String)>) -> Result<String> {
    let after = kernel_threads();
    let mut same = 0;
    for (pid, was) in &before {
        match after.iter().find(|(other, _)| other == pid) {
            Some((_, is)) if is != was => bail!("{pid} was {was:?} and is {is:?}"),
            Some(_) => same += 1,
            None => {}
        }
    }
    // New ones have what all of them have.
    let usual = before.first().context("no kernel thread")?.1.clone();
    if let Some((pid, is)) = after.iter().find(|(_, is)| *is != usual) {
        bail!("{pid} has {is:?}, others {usual:?}");
    }
    Ok(format!(
        "{same} of {} are still there, with all nodes",
        before.len()
    ))
}
