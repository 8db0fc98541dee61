//! fork and copy on write: the region is the parent's alone, the child keeps what was there at fork.

use std::io;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::Map;
use crate::system::Kind;
use crate::target::{Env, Target};

const SIZE: usize = 4 << 20;

/// A pipe whose one byte says "go on".
pub struct Gate([i32; 2]);

impl Gate {
    /// A pipe with nothing in it.
    pub fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe(fds.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fds))
    }

    /// Says it.
    pub fn open(&self) {
        // SAFETY: one byte from a static buffer.
        unsafe { libc::write(self.0[1], b"x".as_ptr().cast(), 1) };
    }

    /// Waits for the byte, or for the end of all writers.
    pub fn wait(&self) {
        let mut byte = 0u8;
        // SAFETY: room for one byte.
        unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) };
    }

    fn close_writer(&self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.0[1]) };
    }
}

/// Forks; the child runs `work`, which must not allocate, and exits with its answer.
pub fn child(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child only touches memory and exits by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = work();
            // SAFETY: ends the child without handlers of the parent.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child that must answer 0.
pub fn join(pid: i32) -> Result<()> {
    let mut status = 0;
    // SAFETY: room for the status.
    if unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        bail!("waitpid: {}", io::Error::last_os_error());
    }
    if status != 0 {
        bail!("the child saw other bytes than at fork (status {status:#x})");
    }
    Ok(())
}

fn same(map: &Map, seed: u64) -> i32 {
    i32::from(!map.check(0, SIZE, seed, 0).none())
}

/// Fork, RDMA WRITE in the parent, then the child looks.
fn parent_writes(c: &Ctx<'_>, translated: bool) -> Result<String> {
    let t = c.target(SIZE)?;
    let (old, new) = (c.seed(1), c.seed(2));
    t.cpu_fill(0, SIZE, old);
    if translated {
        t.write(0, SIZE, old)?;
    }
    let gate = Gate::new()?;
    let pid = child(|| {
        gate.wait();
        same(&t.map, old)
    })?;
    let written = t.write(0, SIZE, new);
    gate.open();
    join(pid)?;
    written?;
    t.cpu_check(0, SIZE, new)?;
    t.read(0, SIZE, new)?;
    Ok(format!(
        "child keeps its {} MiB, parent has the new bytes",
        SIZE >> 20
    ))
}

/// The child writes its copy and exits; the parent's bytes and translations stay right.
fn child_writes_and_exits(c: &Ctx<'_>) -> Result<String> {
    let t = c.target(SIZE)?;
    let old = c.seed(3);
    t.write(0, SIZE, old)?;
    let pid = child(|| {
        t.map.set(0, SIZE, 0xEE);
        0
    })?;
    join(pid)?;
    t.read(0, SIZE, old)?;
    t.round(1, SIZE / 2, c.seed(4))?;
    Ok("parent's bytes unchanged, then overwritten by RDMA".into())
}

/// RDMA WRITEs go on while processes are forked.
fn under_traffic(c: &Ctx<'_>) -> Result<String> {
    let t = c.target(SIZE)?;
    let forks = 12;
    t.cpu_fill(0, SIZE, c.seed(10));
    let mut pids = Vec::new();
    let gate = Gate::new()?;
    for i in 0..forks {
        let now = c.seed(10 + i);
        pids.push(child(|| {
            gate.close_writer();
            gate.wait();
            same(&t.map, now)
        })?);
        t.write(0, SIZE, c.seed(11 + i))?;
        t.cpu_check(0, SIZE, c.seed(11 + i))?;
    }
    gate.close_writer();
    let joined: Result<Vec<()>> = pids.into_iter().map(join).collect();
    joined?;
    t.read(0, SIZE, c.seed(10 + forks))?;
    Ok(format!("{forks} children each keep their own moment"))
}

pub fn fork(c: &Ctx<'_>) -> Result<()> {
    c.case(
        "parent WRITEs by RDMA after fork, translated before",
        parent_writes(c, true),
    );
    c.case(
        "parent WRITEs by RDMA after fork, not translated",
        parent_writes(c, false),
    );
    c.case("child writes and exits first", child_writes_and_exits(c));
    c.case("forks between WRITEs", under_traffic(c));
    let exits_first = || {
        let me = std::env::current_exe()?;
        let out = Command::new(me)
            .args(&c.env.child_args)
            .args(["fork-child", "--mr", "ondemand"])
            .output()
            .context("starting the process that forks")?;
        let said = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() || !said.contains("child saw the old bytes") {
            bail!(
                "{}: {said}{}",
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok("the child's bytes are those at fork".into())
    };
    if c.kind != Kind::Pinned {
        c.case("parent exits first", exits_first());
    }
    Ok(())
}

/// Runs in a process of its own: forks, WRITEs, exits with the region registered; the child looks after that.
pub fn parent_exits_first(env: &Env, kind: Kind) -> Result<()> {
    let t = Target::new(env, kind, Map::anon(SIZE)?)?;
    t.write(0, SIZE, 1)?;
    let gate = Gate::new()?;
    child(|| {
        gate.close_writer();
        gate.wait();
        let code = same(&t.map, 1);
        if code == 0 {
            let text = b"child saw the old bytes\n";
            // SAFETY: a static buffer and its length.
            unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
        }
        code
    })?;
    t.write(0, SIZE, 2)?;
    t.cpu_check(0, SIZE, 2)?;
    // Without this, the region would go before the process.
    std::process::exit(0)
}
