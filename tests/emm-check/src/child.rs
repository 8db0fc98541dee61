//! Other processes by descriptor, so that their end is an event.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// `pidfd_open`.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until `fd` can be read, at most until `end`. Returns whether it can.
pub fn readable(fd: &impl std::os::fd::AsFd, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: fd.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Rounded up: to wait a little too long does no harm.
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        // SAFETY: one descriptor, which outlives the call.
        match unsafe { libc::poll(&mut poll, 1, millis) } {
            1.. => return Ok(true),
            0 if end <= Instant::now() => return Ok(false),
            0 => {}
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// How a child ended, if it does within `limit`.
pub fn ends_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    // One that was waited for already has no descriptor.
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    readable(&pidfd(child.id() as i32)?, end)?;
    child.try_wait()
}

/// A child that exits at once, waited for. What comes of it is no fact about a region: a fork may fail for want of memory.
pub fn short() {
    // SAFETY: the child calls nothing but `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child without handlers of the parent.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_end_is_seen_and_a_limit_kept() {
        let mut long = Command::new("sleep").arg("1000").spawn().unwrap();
        let limit = Duration::from_millis(20);
        assert!(ends_within(&mut long, limit).unwrap().is_none());
        long.kill().unwrap();
        let long_enough = Duration::from_secs(100);
        assert!(ends_within(&mut long, long_enough).unwrap().is_some());
        assert!(ends_within(&mut long, limit).unwrap().is_some());
    }
}
