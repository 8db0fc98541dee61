//! The guard: a process of its own that kills what is left of the tool's children when the tool has ended, also by SIGKILL.
//!
//! A child that is told of its parent's death (`PR_SET_PDEATHSIG`) dies with the tool, but not what it has started itself: cargo's
//! compilers, a test's programs, apt's helpers. All of them are in the child's process group. The guard knows these groups through a
//! pipe whose end is the tool's.

use std::io::{Cursor, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use super::search;

const SCRIPT: &str = include_str!("guard.sh");

/// Both ends of the pipe to the guard; `None` if there could be none: then a SIGKILL of the tool is not followed up.
///
/// The reading end is kept for the case that somebody kills the guard: a child that has SIGPIPE's default action must not die of it.
static PIPE: OnceLock<Option<(OwnedFd, OwnedFd)>> = OnceLock::new();

/// A number for a child that is about to be started: process numbers are given again, these are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(u64);

impl Number {
    /// The next one.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The pipe to the guard, which is started with the first child.
pub(super) fn pipe() -> Option<BorrowedFd<'static>> {
    PIPE.get_or_init(start)
        .as_ref()
        .map(|(_, write)| write.as_fd())
}

fn start() -> Option<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok()?;
    // A pipe that nobody empties must not block the tool.
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK).ok()?;
    let input = read.try_clone().ok()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "it has to live longer than what a Cmd starts"
    )]
    Command::new("/bin/sh")
        .args(["-c", SCRIPT])
        .env_clear()
        .env("PATH", search::path())
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals to the tool's own group are not for it.
        .process_group(0)
        .spawn()
        .ok()?;
    Some((read, write))
}

/// Tells the guard of the process group `group`. It allocates nothing, so it can be called between fork and exec.
pub(super) fn began(pipe: BorrowedFd<'_>, number: Number, group: i32) {
    let mut line = [0; 64];
    let mut cursor = Cursor::new(&mut line[..]);
    if writeln!(cursor, "+ {} {group}", number.0).is_ok() {
        let length = usize::try_from(cursor.position()).unwrap_or(0);
        // A guard that somebody has killed is no reason to fail.
        let _ = rustix::io::write(pipe, &line[..length]);
    }
}

/// Tells the guard that this child has ended, or was never there. To be called before it is reaped.
pub(super) fn ended(number: Number) {
    if let Some(pipe) = pipe() {
        let _ = rustix::io::write(pipe, format!("- {}\n", number.0).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cmd;
    use super::*;
    use std::io::Read;

    /// A process group that lives until it is killed, and the pipe that its end closes.
    fn group() -> (super::super::Running, std::process::ChildStdout) {
        let sleeper = Cmd::new("sh").args(["-c", "sleep 1000 & echo $$; wait"]);
        let mut running = sleeper
            .spawn(Stdio::null(), Stdio::piped(), Stdio::null())
            .unwrap();
        let stdout = running.child.stdout.take().unwrap();
        (running, stdout)
    }

    #[test]
    fn what_is_left_is_killed_and_nothing_else() {
        let (mut left, mut left_out) = group();
        let (mut ended, _ended_out) = group();
        let script = Cmd::new("/bin/sh").args(["-c", SCRIPT]);
        let mut guard = script
            .spawn(Stdio::piped(), Stdio::null(), Stdio::null())
            .unwrap();
        let mut input = guard.child.stdin.take().unwrap();
        let lines = format!("+ 7 {}\n+ 8 {}\n- 8\n", left.child.id(), ended.child.id());
        input.write_all(lines.as_bytes()).unwrap();
        assert!(left.try_wait().unwrap().is_none(), "too early");
        drop(input);
        // Its end comes when the last one is gone that has the pipe, the grandchild too.
        left_out.read_to_end(&mut Vec::new()).unwrap();
        assert!(guard.wait_with(|| {}).is_ok());
        assert!(
            ended.try_wait().unwrap().is_none(),
            "it was told of its end"
        );
    }
}
