// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines on standard error, built on the stack and written at once.

use core::fmt::{self, Write as _};

struct Line {
    bytes: [u8; 400],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // One byte stays for the end of the line; what does not fit is cut.
        let room = self.bytes.len() - 1 - self.len;
        let take = s.len().min(room);
        self.bytes[self.len..self.len + take].copy_from_slice(&s.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// Writes one line to standard error.
pub(crate) fn say(args: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 400],
        len: 0,
    };
    let _cut = line.write_str("verbs-shim: ").and(line.write_fmt(args));
    line.bytes[line.len] = b'\n';
    // SAFETY: the buffer is valid for the length given. A short write loses the rest of a message.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len + 1) };
}
