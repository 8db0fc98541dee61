//! The OOM reaper takes the memory of a process with regions that can't exit.
//!
//! A process that is killed for want of memory usually exits before the reaper looks at it, after 2 s. A debugger that stops it
//! at its exit keeps it there, so that only the reaper can give its memory back.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use emm_check::kmsg::Journal;
use emm_check::qp::Op;

use crate::facts::Subject;
use crate::guest::Cgroup;
use crate::plan::Plan;
use crate::rig::{Rig, small_pages, touch};
use crate::traffic::{CHUNK, cover};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "oom";
const LIMIT: usize = 64 << 20;
/// Registered and translated.
const REGION: usize = 32 << 20;
/// How long the reaper may take; it begins after 2 s.
const PATIENCE: Duration = Duration::from_secs(20);

const LEFT: Subject<'static> = Subject::new(
    ROW,
    "victim of 64 MiB, half of it a region",
    "MiB charged after the reaper",
);

/// Has a victim of each kind reaped.
pub fn all(plan: Plan) -> Result<()> {
    for (round, who) in plan.turns(&Who::ALL) {
        LEFT.tell(who.label(), round, reaped(who));
    }
    Ok(())
}

/// The victim: waits for its cgroup, has a region translated, and takes memory until it is killed.
pub fn one(who: Who) -> Result<()> {
    let rig = Rig::open()?;
    let source = rig.source(CHUNK)?;
    let qp = rig.qp()?;
    io::stdin()
        .read_line(&mut String::new())
        .context("waiting for the word to begin")?;
    let map = small_pages(REGION)?;
    touch(&map);
    if let Some(kind) = who.kind() {
        let area = rig.area(kind, map)?;
        cover(&qp, Op::Write, &source, &area)?;
        touch(&small_pages(2 * LIMIT)?);
        drop(area);
    } else {
        touch(&small_pages(2 * LIMIT)?);
    }
    bail!("the victim was not killed");
}

/// MiB that stay charged when the reaper has been there.
fn reaped(who: Who) -> Result<f64> {
    let group = Cgroup::new(&format!("{ROW}-{}", who.label()), LIMIT)?;
    group.set("memory.swap.max", "0")?;
    let mut victim = Victim::start(who)?;
    let mut log = Journal::open("rxe0")?;
    group.take(victim.0.id())?;
    victim.stop_at_exit()?;
    let pid = victim.0.id();
    // That it was there, or has given up.
    let lines = [
        format!("oom_reaper: reaped process {pid} "),
        format!("oom_reaper: unable to reap pid:{pid} "),
    ];
    let came = |text: &str| lines.iter().any(|line| text.starts_with(line));
    if !log
        .find(PATIENCE, came)
        .context("reading the kernel's log")?
    {
        bail!("no reaper within {} s", PATIENCE.as_secs());
    }
    Ok(group.charged()? as f64 / f64::from(1 << 20))
}

/// A traced process. Dropping ends it.
struct Victim(Child);

impl Victim {
    fn start(who: Who) -> Result<Self> {
        let program = std::env::current_exe().context("finding my own program")?;
        let child = Command::new(program)
            .args([ROW, "--mr", who.label()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("starting the victim")?;
        // Its memory is what the kernel should end it for, before anything else.
        fs::write(format!("/proc/{}/oom_score_adj", child.id()), "1000")
            .context("marking the victim")?;
        Ok(Self(child))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Lets it begin, and returns when it was killed and stands still with its memory.
    fn stop_at_exit(&mut self) -> Result<()> {
        self.trace(libc::PTRACE_SEIZE, libc::PTRACE_O_TRACEEXIT as usize)?;
        drop(self.0.stdin.take());
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            if unsafe { libc::waitpid(self.pid(), &mut status, libc::__WALL) } < 0 {
                return Err(io::Error::last_os_error()).context("waiting for the victim");
            }
            if status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXIT << 8) {
                return Ok(());
            }
            if !libc::WIFSTOPPED(status) {
                bail!("the victim ended before it could be stopped");
            }
            self.trace(libc::PTRACE_CONT, libc::WSTOPSIG(status) as usize)?;
        }
    }

    fn trace(&self, request: libc::c_uint, data: usize) -> Result<()> {
        let none: *mut libc::c_void = ptr::null_mut();
        // SAFETY: neither request writes to this process's memory.
        if unsafe { libc::ptrace(request, self.pid(), none, data) } < 0 {
            return Err(io::Error::last_os_error()).context("ptrace");
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Each fails only when it has ended already.
        let _ = self.trace(libc::PTRACE_DETACH, 0);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
