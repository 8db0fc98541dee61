//! All processes that a program starts, found from ours down, and what they pin.

use std::fs;

use anyhow::{Context as _, Result};

use crate::system::vm_kib;

/// The most that any process had at any moment that was looked at, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pinned {
    /// `VmPin`: memory regions.
    pub pin: u64,
    /// `VmLck`: mlock.
    pub locked: u64,
    /// How often it was looked.
    pub samples: u32,
    /// The most processes seen at once.
    pub processes: usize,
}

impl Pinned {
    /// Looks once more.
    pub fn look(&mut self) {
        let all = descendants();
        for pid in &all {
            let pid = pid.to_string();
            self.pin = self.pin.max(vm_kib(&pid, "VmPin"));
            self.locked = self.locked.max(vm_kib(&pid, "VmLck"));
        }
        self.samples += 1;
        self.processes = self.processes.max(all.len());
    }
}

/// Makes orphans below us our children, so that [`descendants`] misses nobody.
pub fn adopt_orphans() -> Result<()> {
    // SAFETY: this option takes one number and touches no memory.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("becoming the reaper of orphans");
    }
    Ok(())
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Everybody below this process.
pub fn descendants() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut all = children(own);
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// Ends everybody below this process, and waits for their end.
pub fn end_all() {
    loop {
        let all = descendants();
        if all.is_empty() {
            return;
        }
        for &pid in &all {
            // SAFETY: takes numbers only. The process is below us, so its number is not used for another.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        // SAFETY: no status is asked for. Each call takes one child away that was ended, ours or an orphan.
        unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grandchild_is_seen_and_ended() {
        adopt_orphans().unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "sleep 600 & echo up; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        assert!(descendants().len() >= 2);
        end_all();
        assert!(descendants().is_empty());
        // It was waited for already.
        assert!(child.wait().is_err());
    }
}
