// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines on standard error or in a file, built on the stack and written at once.
//!
//! The file is opened for each line: a descriptor kept open could be closed by the program, and its
//! number used for something else.

use crate::settings::{self, PATH_MAX, Settings};
use core::{
    ffi::c_int,
    fmt::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// How much is said; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    Off,
    /// What the user should know: memory that stays pinned, values that are wrong. Default.
    Warn,
    /// What was found out about a device.
    Info,
    /// Every registration.
    Debug,
}

/// A text of at most `N` bytes; what does not fit is cut.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(N - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&bytes[..take]);
        self.len += take;
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

/// Says a line of this level, if that much is wanted.
pub(crate) fn say(level: Level, args: fmt::Arguments<'_>) {
    write(settings::get(), level, args);
}

/// A warning that is given once in the life of the process.
pub(crate) struct Warning(AtomicBool);

impl Warning {
    /// Not given yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Gives it, if it was not.
    pub(crate) fn give(&self, args: fmt::Arguments<'_>) {
        if !self.0.swap(true, Relaxed) {
            say(Level::Warn, args);
        }
    }
}

/// [`say`], while the settings are still being read.
pub(crate) fn write(settings: &Settings, level: Level, args: fmt::Arguments<'_>) {
    if level > settings.log {
        return;
    }
    let mut line = Text::<500>::new();
    // Writing to a text does not fail.
    let _ = line.write_str("verbs-shim: ").and(line.write_fmt(args));
    line.len = line.len.min(499);
    line.push(b"\n");
    put(settings, &line.bytes[..line.len]);
}

/// Writes to the file that the settings name, or to standard error.
fn put(settings: &Settings, line: &[u8]) {
    let Some(fd) = open(settings) else {
        return write_all(2, line);
    };
    if fd < 0 {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Relaxed) {
            write_all(
                2,
                b"verbs-shim: VERBS_SHIM_LOG_FILE can't be opened: writing here\n",
            );
        }
        return write_all(2, line);
    }
    write_all(fd, line);
    // SAFETY: `fd` was opened by `open` and is used by nobody else.
    unsafe { libc::close(fd) };
}

fn write_all(fd: c_int, line: &[u8]) {
    // SAFETY: the line is valid for its length. A short write loses the rest of a message.
    unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
}

/// The file, opened for one more line, or a negative number; `None` if there is none to be opened.
fn open(settings: &Settings) -> Option<c_int> {
    let name = settings.log_file.split(|b| *b == 0).next()?;
    if name.is_empty() {
        return None;
    }
    // SAFETY: takes nothing, and never fails.
    let pid = unsafe { libc::getpid() };
    let path = with_pid(name, pid);
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the path ends with a zero byte; a new file gets mode 0644.
    Some(unsafe { libc::open(path.as_ptr().cast(), flags, 0o644) })
}

/// The path with the process number for its first `%d`, and a zero byte at the end.
fn with_pid(name: &[u8], pid: libc::pid_t) -> [u8; PATH_MAX] {
    let mut path = Text::<PATH_MAX>::new();
    match name.windows(2).position(|pair| pair == b"%d") {
        Some(at) => {
            path.push(&name[..at]);
            // Writing to a text does not fail.
            let _ = write!(path, "{pid}");
            path.push(&name[at + 2..]);
        }
        None => path.push(name),
    }
    path.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_number_in_a_path() {
        assert!(with_pid(b"/tmp/a.%d.log", 42).starts_with(b"/tmp/a.42.log\0"));
        assert!(with_pid(b"/tmp/a%", 42).starts_with(b"/tmp/a%\0"));
        let longest = [b'a'; PATH_MAX - 11];
        assert_eq!(with_pid(&longest, i32::MAX)[PATH_MAX - 1], 0);
    }

    #[test]
    fn a_text_is_cut() {
        let mut text = Text::<4>::new();
        text.write_str("abc")
            .expect("writing to a text does not fail");
        text.write_str("def")
            .expect("writing to a text does not fail");
        assert_eq!(&text.bytes, b"abcd");
    }
}
