//! Children that run.

use std::io::Write;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::guard::{self, Number};
use crate::signal;

/// Time between two calls of a `tick`.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A child that is running. Dropping it kills what is left of it and of what it has started.
#[derive(Debug)]
pub struct Running {
    /// The child itself, for its pipes. Wait for it through [`Running::wait_with`].
    pub child: Child,
    number: Number,
    registered: bool,
}

impl Running {
    pub(super) fn new(child: Child, number: Number) -> Self {
        Self {
            child,
            number,
            registered: true,
        }
    }

    /// Waits for the end of the child and calls `tick` some ten times a second meanwhile.
    pub fn wait_with(&mut self, mut tick: impl FnMut()) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let child = Pid::from_child(&self.child);
        let end = pidfd_open(child, PidfdFlags::empty()).context("cannot watch a child")?;
        loop {
            match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => tick(),
                Ok(_) => {
                    if let Some(status) = self.try_wait()? {
                        return Ok(status);
                    }
                }
                Err(error) => return Err(error).context("cannot wait for a child"),
            }
        }
    }

    /// Waits for the end of the child, but not longer than `limit`.
    pub fn wait_at_most(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let child = Pid::from_child(&self.child);
        let begin = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            let end = pidfd_open(child, PidfdFlags::empty()).context("cannot watch a child")?;
            let left = Timespec::try_from(left).context("cannot wait so long")?;
            match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for a child"),
            }
        }
    }

    /// The child's status if it has ended. What it has started and left behind is killed then.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.registered {
            let child = Pid::from_child(&self.child);
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(child), look) {
                Ok(None) | Err(Errno::INTR) => return Ok(None),
                Ok(Some(_)) => self.end_group(),
                Err(error) => return Err(error).context("cannot wait for a child"),
            }
        }
        self.child.try_wait().context("cannot wait for a child")
    }

    /// Kills the child and its group, and waits for it.
    pub fn kill(&mut self) {
        self.end_group();
        let _ = self.child.wait();
    }

    /// Kills the group. The child is not reaped yet, so the group's number is still its own.
    fn end_group(&mut self) {
        if self.registered {
            let child = Pid::from_child(&self.child);
            signal::send_to(child, Signal::KILL);
            signal::forget(child);
            guard::ended(self.number);
            self.registered = false;
        }
    }

    pub(super) fn feed(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        if let (Some(bytes), Some(mut pipe)) = (bytes, self.child.stdin.take()) {
            pipe.write_all(bytes).context("cannot write to a child")?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.registered {
            self.kill();
        }
    }
}
