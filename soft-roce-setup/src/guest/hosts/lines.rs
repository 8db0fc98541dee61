//! Output of two hosts on one: whole lines, each with its host in front.

use std::io::{Result, Write};

/// A line that grows longer than this is cut: what it belongs to is to be seen before memory is full.
const LONGEST: usize = 64 << 10;

/// Writes lines behind a prefix. What has no end of line yet is held until it has, or until this is dropped.
pub struct Lines<W: Write> {
    prefix: &'static str,
    held: Vec<u8>,
    to: W,
}

impl<W: Write> Lines<W> {
    /// Writes to `to`.
    pub fn new(prefix: &'static str, to: W) -> Self {
        Self {
            prefix,
            held: prefix.as_bytes().to_vec(),
            to,
        }
    }

    /// In one call, which other threads' lines come before or after.
    fn put(&mut self) -> Result<()> {
        self.held.push(b'\n');
        let written = self.to.write_all(&self.held);
        self.held.truncate(self.prefix.len());
        written
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, whole) = match part.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (part, false),
            };
            for piece in line.chunks(LONGEST) {
                if self.held.len() + piece.len() > LONGEST {
                    self.put()?;
                }
                self.held.extend_from_slice(piece);
            }
            if whole {
                self.put()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Lines<W> {
    fn drop(&mut self) {
        if self.held.len() > self.prefix.len() {
            // Whoever does not read any more has been seen before.
            let _ = self.put().and_then(|()| self.to.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&str]) -> String {
        let mut out = Vec::new();
        let mut lines = Lines::new("1: ", &mut out);
        for part in parts {
            lines.write_all(part.as_bytes()).unwrap();
        }
        drop(lines);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_line_has_its_host() {
        assert_eq!(lines(&["a\nb", "c\n\n", "d"]), "1: a\n1: bc\n1: \n1: d\n");
        assert_eq!(lines(&[]), "");
        assert_eq!(lines(&["", "\n"]), "1: \n");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let long = "x".repeat(3 * LONGEST);
        let out = lines(&[&long, "\nend\n"]);
        assert_eq!(out.matches('x').count(), long.len());
        assert!(
            out.lines()
                .all(|line| line.starts_with("1: ") && line.len() <= LONGEST + 3)
        );
        assert!(out.ends_with("\n1: end\n"));
    }
}
