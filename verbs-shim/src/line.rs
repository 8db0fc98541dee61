// SPDX-License-Identifier: MIT OR Apache-2.0

//! A line on standard error or in a file, built on the stack and written at once.
//!
//! The file is opened for each line: a descriptor kept open could be closed by the program, and its
//! number used for something else.
//!
//! A line must not harm the program: see [`Unsignalled`], [`to_standard_error`] and [`open`]. What can't be written at once is lost.

use crate::{
    raw::{self, Fd, Unsignalled},
    settings::{Level, PATH_MAX, Settings},
    start, sys,
};
use core::{
    ffi::CStr,
    fmt::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

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

/// Says a line of this level, if `settings` want that much. Leaves `errno` alone.
pub(crate) fn write(settings: &Settings, level: Level, args: fmt::Arguments<'_>) {
    if level > settings.log {
        return;
    }
    let mut line = Text::<500>::new();
    // Writing to a text does not fail.
    let _ = line.write_str("verbs-shim: ").and(line.write_fmt(args));
    line.len = line.len.min(499);
    line.push(b"\n");
    let before = sys::errno();
    put(settings, &line.bytes[..line.len]);
    sys::set_errno(before);
}

/// Writes to the file that the settings name, or to standard error.
fn put(settings: &Settings, line: &[u8]) {
    let quiet = Unsignalled::begin();
    match open(settings) {
        Log::File(file) => {
            raw::write(file.number(), line);
        }
        Log::None => to_standard_error(line),
        Log::Unfit => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Relaxed) {
                to_standard_error(
                    b"verbs-shim: VERBS_SHIM_LOG_FILE can't be opened, or is a link or no ordinary file: writing here\n",
                );
            }
            to_standard_error(line);
        }
    }
    drop(quiet);
}

/// Writes to standard error, if that is still what it was and takes the line at once: the program must not wait for whoever
/// reads it. A short write loses the rest of a line.
fn to_standard_error(line: &[u8]) {
    let Some(now) = start::standard_error() else {
        return;
    };
    match now.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => raw::send_now(2, line),
        libc::S_IFREG => {
            raw::write(2, line);
        }
        libc::S_IFIFO => to_pipe(line),
        _ => to_other(line),
    }
}

/// Writes to standard error, which is a pipe. Linux before 6.5 can't be told not to wait there: a look for room comes first, and
/// a line is so short that what other threads write meanwhile leaves room for it.
fn to_pipe(line: &[u8]) {
    if !raw::write_now(2, line) {
        to_other(line);
    }
}

/// Writes to standard error if there is room for it.
fn to_other(line: &[u8]) {
    if raw::has_room(2) {
        raw::write(2, line);
    }
}

/// What the settings name.
enum Log {
    /// Nothing.
    None,
    /// A file, opened for one more line.
    File(Fd),
    /// What is not there, or would wait or do something when it is written to.
    Unfit,
}

fn open(settings: &Settings) -> Log {
    let Some(name) = settings.log_file.split(|b| *b == 0).next() else {
        return Log::None;
    };
    if name.is_empty() {
        return Log::None;
    }
    // SAFETY: takes nothing, and never fails.
    let pid = unsafe { libc::getpid() };
    let path = with_pid(name, pid);
    let Ok(path) = CStr::from_bytes_until_nul(&path) else {
        return Log::Unfit;
    };
    let flags =
        libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = raw::open(path, flags).filter(|file| {
        raw::stat(file.number()).is_some_and(|stat| {
            let null =
                stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
            null || stat.st_mode & libc::S_IFMT == libc::S_IFREG
        })
    });
    file.map_or(Log::Unfit, Log::File)
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
