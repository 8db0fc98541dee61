//! Processes of the host that a test waits for, though they are no children of its own.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process of the host.
pub(super) struct Process {
    pub(super) pid: Pid,
    /// Can be read when it has ended, whether somebody has reaped it or not.
    end: OwnedFd,
}

impl Process {
    /// The process with this number, if it is still there.
    pub(super) fn of(pid: Pid) -> Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(end) => Ok(Some(Self { pid, end })),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error).context("cannot watch a process"),
        }
    }

    /// The name of its program.
    pub(super) fn name(&self) -> String {
        let place = format!("/proc/{}/comm", self.pid.as_raw_pid());
        fs::read_to_string(place).unwrap_or_default()
    }
}

/// The processes below `parent`.
pub(super) fn descendants(parent: Pid) -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let parents: Vec<(i32, i32)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // PID (NAME) STATE PARENT …; a name may hold spaces and brackets.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let mut found = vec![parent.as_raw_pid()];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|p| p.1 == parent).map(|p| p.0));
        next += 1;
    }
    let below = found[1..].iter().copied().filter_map(Pid::from_raw);
    let watched = below.map(Process::of).collect::<Result<Vec<_>>>()?;
    Ok(watched.into_iter().flatten().collect())
}

/// How many of these processes are left when all have ended, or after `limit`.
pub(super) fn left_of(processes: &[Process], limit: Duration) -> Result<usize> {
    let begin = Instant::now();
    let mut left = 0;
    for process in processes {
        if !readable(&[&process.end], limit.saturating_sub(begin.elapsed()))? {
            left += 1;
        }
    }
    Ok(left)
}

/// Waits until one of these can be read, but not longer than `limit`. Returns whether one can.
pub(super) fn readable(fds: &[&OwnedFd], limit: Duration) -> Result<bool> {
    let begin = Instant::now();
    loop {
        let left = Timespec::try_from(limit.saturating_sub(begin.elapsed()))
            .context("cannot wait so long")?;
        let mut fds: Vec<_> = fds
            .iter()
            .map(|fd| PollFd::new(*fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for an event"),
        }
    }
}
