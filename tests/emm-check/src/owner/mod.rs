//! `owner`: what RDMA brings in belongs to the owner of the region: it is charged to its cgroups, lies on the nodes that its cpuset
//! and its memory policy name, and gets no more of a reserve than the owner does. The CPU's own touch of the same memory says
//! what is right.

mod charge;
mod hugetlb;
mod nodes;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::system::{Cgroup, Kind};
use crate::target::{Env, Target};

/// Longest time until nobody is in the cgroup of a process that has left it.
const SOON: Duration = Duration::from_secs(10);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Memory, page tables, page cache, what is read from a disk, reserves
    Charge,
    /// Pages of the hugetlb pool
    Hugetlb,
    /// NUMA nodes
    Nodes,
}

const ALL: [Part; 3] = [Part::Charge, Part::Hugetlb, Part::Nodes];

/// What a case works with.
pub struct Ctx<'a> {
    env: &'a Env,
    kind: Kind,
    part: &'static str,
}

impl Ctx<'_> {
    /// Runs and reports one case.
    fn case(&self, name: &str, work: impl FnOnce() -> Result<String>) {
        let required = self.env.report.requires(self.kind);
        self.env
            .report
            .case(self.kind.label(), self.part, name, required, work());
    }

    /// A case with this process in a cgroup of these controllers. Nobody may stay in it behind the process.
    fn inside(&self, name: &str, controllers: &str, work: impl FnOnce(&Cgroup) -> Result<String>) {
        self.case(name, || {
            let group = Cgroup::with("emm-check-owner", controllers)?;
            group.add(std::process::id())?;
            let outcome = work(&group);
            Cgroup::leave(std::process::id())?;
            let left = empty(&group);
            let said = outcome?;
            let millis = left?;
            Ok(format!("{said}; the cgroup was empty after {millis} ms"))
        });
    }

    fn skip(&self, name: &str, why: &str) {
        let what = format!("{}: {name}", self.part);
        self.env.report.skip(&what, why, false);
    }

    /// Another seed for every `n`.
    fn seed(&self, n: u64) -> u64 {
        self.env.seed.wrapping_mul(1_000_003).wrapping_add(n)
    }
}

/// Runs the named parts, or all.
pub fn run(env: &Env, kind: Kind, names: &[Part]) {
    let names = if names.is_empty() { &ALL[..] } else { names };
    for &part in names {
        let (name, f): (_, fn(&Ctx<'_>)) = match part {
            Part::Charge => ("charge", charge::charge),
            Part::Hugetlb => ("hugetlb", hugetlb::hugetlb),
            Part::Nodes => ("nodes", nodes::nodes),
        };
        f(&Ctx {
            env,
            kind,
            part: name,
        });
    }
}

/// A process of its own: one whose memory is all of a node, or one that writes into a hole of a file.
pub fn child(env: &Env, kind: Kind, node: Option<u32>, hole: Option<&Path>) -> Result<()> {
    if let Some(node) = node {
        nodes::child(env, kind, node)?;
    }
    if let Some(hole) = hole {
        charge::in_hole(env, kind, hole)?;
    }
    Ok(())
}

/// Waits until nobody is in the cgroup. Returns after how many milliseconds.
fn empty(group: &Cgroup) -> Result<u128> {
    let start = Instant::now();
    loop {
        let text = group.read("cgroup.procs")?;
        if text.trim().is_empty() {
            return Ok(start.elapsed().as_millis());
        }
        if start.elapsed() > SOON {
            bail!("still in the cgroup: {}", text.trim().replace('\n', " "));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A field of a file of lines `name value`.
fn field(group: &Cgroup, file: &str, name: &str) -> Result<u64> {
    let text = group.read(file)?;
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    let found = text.lines().find_map(of);
    found.with_context(|| format!("{file} has no {name}"))
}

/// Writes or reads a byte of each of these places by RDMA.
fn touch(t: &Target, write: bool, places: impl Iterator<Item = usize>) -> Result<()> {
    use crate::qp::Op;
    let op = if write { Op::Write } else { Op::Read };
    for off in places {
        t.qp()
            .run(op, t.bounce_piece(64), 1, t.remote(off))
            .with_context(|| format!("RDMA {op:?} of a byte at {off:#x}"))?;
    }
    Ok(())
}

/// How a forked child ends that writes a byte at `address`: the signal, or 0.
fn cpu_writes(address: usize) -> i32 {
    // SAFETY: the child writes one byte, of memory that is its copy or that only bytes live in, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: mapped; what comes instead of the page is a signal, which ends the child.
        unsafe { std::ptr::write_volatile(address as *mut u8, 1) };
        // SAFETY: ends the child without handlers of the parent.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    if libc::WIFSIGNALED(status) {
        libc::WTERMSIG(status)
    } else {
        0
    }
}
