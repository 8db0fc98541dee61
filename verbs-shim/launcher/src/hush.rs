// SPDX-License-Identifier: MIT OR Apache-2.0

//! What libibverbs writes to standard error in this process, without its words about the limit on locked memory: the program says the
//! same of itself, and on-demand memory does not count against it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Standard error.
const ERRORS: i32 = 2;

/// Does `ask`, and hands on what it writes to standard error, but for those words.
pub fn hushed<T>(ask: impl FnOnce() -> T) -> T {
    let Some((mut said, before)) = redirect() else {
        return ask();
    };
    let answer = ask();
    // SAFETY: both are open.
    unsafe { libc::dup2(before.as_raw_fd(), ERRORS) };
    let mut text = Vec::new();
    if said.rewind().is_ok() && said.read_to_end(&mut text).is_ok() {
        let rest = without_limits(&String::from_utf8_lossy(&text));
        // Nobody who could be told if it fails.
        let _ = std::io::stderr().write_all(rest.as_bytes());
    }
    answer
}

/// Has standard error lead to memory: that, and where it led before.
fn redirect() -> Option<(File, OwnedFd)> {
    // SAFETY: a descriptor's number, which may be closed.
    let before = unsafe { libc::fcntl(ERRORS, libc::F_DUPFD_CLOEXEC, 3) };
    if before < 0 {
        return None;
    }
    // SAFETY: made above.
    let before = unsafe { OwnedFd::from_raw_fd(before) };
    // SAFETY: the name ends with a zero byte.
    let said = unsafe { libc::memfd_create(c"said".as_ptr(), libc::MFD_CLOEXEC) };
    if said < 0 {
        return None;
    }
    // SAFETY: made above.
    let said = unsafe { File::from_raw_fd(said) };
    // SAFETY: both are open.
    let led = unsafe { libc::dup2(said.as_raw_fd(), ERRORS) };
    (led == ERRORS).then_some((said, before))
}

/// The text without what libibverbs says of `RLIMIT_MEMLOCK`.
fn without_limits(said: &str) -> String {
    let about = |line: &&str| {
        line.contains("RLIMIT_MEMLOCK") || line.contains("severely limit memory registrations")
    };
    said.split_inclusive('\n')
        .filter(|line| !about(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_stay() {
        let said = "libibverbs: Warning: RLIMIT_MEMLOCK is 0 bytes.\n    This will severely limit memory registrations.\n\
                    libibverbs: Warning: no userspace device-specific driver found for uverbs0\n";
        let rest = "libibverbs: Warning: no userspace device-specific driver found for uverbs0\n";
        assert_eq!(without_limits(said), rest);
    }
}
