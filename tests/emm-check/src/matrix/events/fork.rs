//! Copy on write: the region is the parent's alone, and the child keeps what was there at fork.

use std::io;

use anyhow::{Result, bail};

use crate::matrix::scene::Scene;

/// Forks. The child, which must not allocate, runs `work` and exits with its answer.
fn fork(work: impl FnOnce() -> bool) -> io::Result<i32> {
    // SAFETY: the child only reads and writes memory, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = i32::from(!work());
            // SAFETY: ends the child without handlers of the parent.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

fn join(pid: i32) -> Result<()> {
    let mut status = 0;
    // SAFETY: room for the status.
    if unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        bail!("waitpid: {}", io::Error::last_os_error());
    }
    if status != 0 {
        bail!("the child saw other bytes than those at fork (status {status:#x})");
    }
    Ok(())
}

/// The child writes all of its copy and exits while operations go on.
pub fn child_first(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(8)?;
    for round in 0..4u64 {
        let stage = &s.stage;
        let (map, at, len) = (stage.map(), stage.at(0), stage.len());
        let byte = 0x11 * (round as u8 + 1);
        let pid = fork(|| {
            let same = stage.verify("as at fork").is_ok();
            map.set(at, len, byte);
            same && map.check_byte(at, len, byte).none()
        })?;
        s.traffic(8)?;
        join(pid)?;
        s.traffic(4)?;
        s.stage.verify("the parent")?;
    }
    Ok("4 children wrote their copies; the parent's bytes are its own".into())
}

/// A pipe by which the child is told to look.
struct Signal([i32; 2]);

impl Signal {
    fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe(fds.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fds))
    }

    fn give(&self) {
        // SAFETY: one byte from a static buffer.
        unsafe { libc::write(self.0[1], b"x".as_ptr().cast(), 1) };
    }

    fn wait(&self) {
        let mut byte = 0u8;
        // SAFETY: room for one byte.
        unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) };
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        for fd in self.0 {
            // SAFETY: the descriptor is ours.
            unsafe { libc::close(fd) };
        }
    }
}

/// The child lives while operations change the parent's bytes, then looks at its own.
pub fn cow(s: &mut Scene<'_>) -> Result<String> {
    s.fill(2);
    s.traffic(8)?;
    for _ in 0..4 {
        let go = Signal::new()?;
        let stage = &s.stage;
        let pid = fork(|| {
            go.wait();
            stage.verify("as at fork").is_ok()
        })?;
        let worked = s.traffic(12);
        go.give();
        join(pid)?;
        worked?;
        s.stage.verify("the parent")?;
    }
    Ok("4 children kept the bytes of their fork".into())
}
