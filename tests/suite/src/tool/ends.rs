//! How the tool ends: nobody of its processes is left, its lock is free, and the status says why.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::process::{Process, descendants, left_of, readable};
use super::program::Tool;
use crate::tally::Outcome;
use soft_roce_setup::context::Context;
use soft_roce_setup::exit;
use soft_roce_setup::proc::{Cmd, Running};

/// How long what ends may take on a busy host.
const LONG: Duration = Duration::from_secs(20);

/// `status` whose reader has gone.
pub(super) fn unread_status(tool: &Tool) -> Result<Outcome> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("no pipe")?;
    drop(reader);
    let mut running =
        tool.command(&["status"])
            .spawn(Stdio::null(), writer.into(), Stdio::piped())?;
    let status = running.wait_with(|| {})?;
    let said = rest(running.child.stderr.take());
    Ok(held(
        status.code() == Some(i32::from(exit::PIPE)) && said.is_empty(),
        || format!("{status}: {said}"),
    ))
}

/// A guest whose output nobody reads any more.
pub(super) fn unread_guest(tool: &Tool) -> Result<Outcome> {
    let mut guest = Up::boot(tool, "echo up; while echo on; do :; done")?;
    drop(guest.stdout.take());
    guest.ended(exit::PIPE, "", "")
}

/// An interrupted run.
pub(super) fn ctrl_c(tool: &Tool) -> Result<Outcome> {
    let guest = Up::boot(tool, "echo up; sleep 1000")?;
    rustix::process::kill_process(guest.tool(), Signal::INT).context("cannot interrupt the run")?;
    guest.ended(exit::INTERRUPTED, "", "")
}

/// An interrupted run of two hosts.
pub(super) fn ctrl_c_of_two(tool: &Tool) -> Result<Outcome> {
    let script = "emm-host barrier up; echo up; sleep 1000";
    let guests = Up::boot_with(tool, &["--mr", "pinned", "--hosts", "2"], script)?;
    let is_qemu = |process: &&Process| process.name().starts_with("qemu");
    let count = guests.processes.iter().filter(is_qemu).count();
    ensure!(count == 2, "{count} guests, not 2");
    rustix::process::kill_process(guests.tool(), Signal::INT)
        .context("cannot interrupt the run")?;
    guests.ended(exit::INTERRUPTED, "", "")
}

/// A guest whose QEMU is killed, as the host's kernel does when memory is short.
pub(super) fn qemu_dies(tool: &Tool) -> Result<Outcome> {
    let guest = Up::boot(tool, "echo up; sleep 1000")?;
    let is_qemu = |process: &&Process| process.name().starts_with("qemu");
    let qemu = guest.processes.iter().find(is_qemu);
    let qemu = qemu.context("the guest has no QEMU")?;
    rustix::process::kill_process(qemu.pid, Signal::KILL).context("cannot kill QEMU")?;
    guest.ended(exit::SETUP, "QEMU died (signal: 9 (SIGKILL))", "qemu.log")
}

/// A build that is ended by `signal` while mmdebstrap (not the real one) works with a helper of its own.
pub(super) fn build(context: &Context, tool: &Tool, signal: Signal) -> Result<Outcome> {
    let dir = context.cache.path("tmp");
    let dir = dir.join(format!("ends-{}-{}", std::process::id(), signal.as_raw()));
    let (bin, archive) = (dir.join("bin"), dir.join("archive/dists/trixie"));
    for dir in [&bin, &archive] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let outcome = build_in(tool, &dir, &bin, signal);
    soft_roce_setup::cache::remove_tree(&dir)?;
    outcome
}

fn build_in(tool: &Tool, dir: &Path, bin: &Path, signal: Signal) -> Result<Outcome> {
    let helper = dir.join("helper");
    rustix::fs::mkfifoat(CWD, &helper, Mode::RUSR | Mode::WUSR).context("cannot make a pipe")?;
    // Both ways, so that it is open before the other side is.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let told = rustix::fs::open(&helper, flags, Mode::empty()).context("cannot open a pipe")?;
    let fake = bin.join("mmdebstrap");
    let script = format!(
        "#!/bin/sh\nsleep 1000 &\necho $! > {}\nwait\n",
        helper.display()
    );
    fs::write(&fake, script).context("cannot write a program")?;
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).context("cannot mark it")?;
    let mut path = bin.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let cache = dir.join("cache");
    let mut running = Cmd::new(&tool.program)
        .arg("--cache")
        .arg(&cache)
        .args(["build", "--mirror"])
        .arg(format!("file://{}", dir.join("archive").display()))
        .env("PATH", path)
        .spawn(Stdio::null(), Stdio::null(), Stdio::piped())?;
    let tool = Pid::from_child(&running.child);
    let end = pidfd_open(tool, PidfdFlags::empty()).context("cannot watch the build")?;
    readable(&[&told, &end], LONG)?;
    let mut line = [0; 32];
    let Ok(count) = rustix::io::read(&told, &mut line) else {
        running.kill();
        return Ok(Outcome::Failed(format!(
            "mmdebstrap was not started:\n{}",
            rest(running.child.stderr.take())
        )));
    };
    let helper = String::from_utf8_lossy(&line[..count]).trim().parse().ok();
    let helper = helper
        .and_then(Pid::from_raw)
        .context("no process number")?;
    let mut processes = descendants(tool)?;
    processes.extend(Process::of(helper)?);
    // The tool alone, as the out-of-memory killer does; not its group.
    rustix::process::kill_process(tool, signal).context("cannot end the build")?;
    // Waited for without Running, which would end the whole group.
    let left = left_of(&processes, LONG)?;
    let status = running.wait_with(|| {})?;
    let free = locks(&cache)?;
    let said = rest(running.child.stderr.take());
    Ok(held(left == 0 && free, || {
        format!("{status}: {left} processes left, the lock is free: {free}\n{said}")
    }))
}

/// Whether nobody holds a lock on a file in `dir`: the cache's is on its mark.
fn locks(dir: &Path) -> Result<bool> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut found = false;
    let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    for entry in entries.flatten().filter(is_file) {
        let file = File::open(entry.path()).context("cannot open a lock")?;
        found = true;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
    }
    ensure!(found, "no lock in {}", dir.display());
    Ok(true)
}

/// A run whose guest has said `up`, and the processes that it has then.
struct Up {
    running: Running,
    stdout: Option<ChildStdout>,
    processes: Vec<Process>,
}

impl Up {
    fn boot(tool: &Tool, script: &str) -> Result<Self> {
        Self::boot_with(tool, &["--mr", "pinned"], script)
    }

    fn boot_with(tool: &Tool, options: &[&str], script: &str) -> Result<Self> {
        let mut running =
            tool.guest(options, script)
                .spawn(Stdio::null(), Stdio::piped(), Stdio::piped())?;
        let mut stdout = running
            .child
            .stdout
            .take()
            .context("its output is a pipe")?;
        if stdout.read_exact(&mut [0; 3]).is_err() {
            anyhow::bail!("no guest came up: {}", rest(running.child.stderr.take()));
        }
        let processes = descendants(Pid::from_child(&running.child))?;
        ensure!(processes.len() > 1, "a guest without processes");
        Ok(Self {
            running,
            stdout: Some(stdout),
            processes,
        })
    }

    fn tool(&self) -> Pid {
        Pid::from_child(&self.running.child)
    }

    /// Waits for the end: the status is to be `status`, what it says is to have both texts (nothing, if these are empty).
    fn ended(mut self, status: u8, first: &str, second: &str) -> Result<Outcome> {
        let left = left_of(&self.processes, LONG)?;
        let ended: ExitStatus = self.running.wait_with(|| {})?;
        let said = rest(self.running.child.stderr.take());
        let right = ended.code() == Some(i32::from(status));
        let named = said.contains(first) && said.contains(second);
        let quiet = status != exit::PIPE || !said.contains("error");
        Ok(held(right && named && quiet && left == 0, || {
            format!("{ended}, {left} processes left\n{said}")
        }))
    }
}

fn held(right: bool, why: impl FnOnce() -> String) -> Outcome {
    if right {
        Outcome::Passed
    } else {
        Outcome::Failed(why())
    }
}

/// What is still in a pipe whose writers are gone.
fn rest(pipe: Option<ChildStderr>) -> String {
    let mut said = Vec::new();
    if let Some(mut pipe) = pipe {
        // It only explains a failure.
        let _ = pipe.read_to_end(&mut said);
    }
    String::from_utf8_lossy(&said).into_owned()
}
