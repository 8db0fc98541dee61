// SPDX-License-Identifier: MIT OR Apache-2.0

//! SIGPIPE as this program found it. Rust's runtime ignores it before `main`, and what it starts gets the default: a daemon that
//! systemd starts with the signal ignored would die of it.

use std::{
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What `sigaction` said before the runtime.
static FOUND: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

extern "C" fn look() {
    let found = disposition();
    FOUND.store(found, Relaxed);
}

/// Called by the loader, before the runtime.
#[used]
// SAFETY: a function without arguments that needs nothing of the runtime.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

fn disposition() -> usize {
    // SAFETY: all zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; `action` is valid for writing.
    unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut action) };
    action.sa_sigaction
}

/// What `command` becomes gets SIGPIPE as this program got it.
pub fn restore(command: &mut Command) {
    if FOUND.load(Relaxed) != libc::SIG_IGN {
        return;
    }
    let ignore = || {
        // SAFETY: takes numbers only.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: `ignore` calls what is safe in a signal handler, and so after fork, and nothing else.
    unsafe { command.pre_exec(ignore) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the child: what `ps` would say of it. The signal's bit is the thirteenth.
    fn ignored(command: &mut Command) -> bool {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("SigIgn:"));
        let mask = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
        mask >> (libc::SIGPIPE - 1) & 1 == 1
    }

    #[test]
    fn it_stays_as_it_was_found() {
        let status = || {
            let mut command = Command::new("cat");
            command.arg("/proc/self/status");
            command
        };
        assert_eq!(disposition(), libc::SIG_IGN, "the runtime's doing");
        let found = FOUND.load(Relaxed);
        for (before, wanted) in [(libc::SIG_IGN, true), (libc::SIG_DFL, false)] {
            FOUND.store(before, Relaxed);
            let mut command = status();
            restore(&mut command);
            assert_eq!(ignored(&mut command), wanted);
        }
        FOUND.store(found, Relaxed);
    }
}
