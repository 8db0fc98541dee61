//! Logs of commands: appending to them, following them, and their last lines.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};

/// Lines of a log that an error repeats.
const TAIL_LINES: usize = 20;
/// Bytes of a log that are searched for them.
const TAIL_BYTES: u64 = 16 * 1024;

/// Opens a log for appending.
pub fn open_log(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| cannot_write(log))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| cannot_write(log))
}

pub(super) fn cannot_write(log: &Path) -> String {
    format!("cannot write the log {}", log.display())
}

/// The last lines of `log` after byte `from`.
pub fn tail(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(visible)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// What a terminal would show of a line that returns to its start (progress bars).
fn visible(line: &str) -> &str {
    line.trim_end_matches('\r')
        .rsplit('\r')
        .next()
        .unwrap_or(line)
}

/// Reads the lines that are added to a file.
pub(super) struct Follow {
    file: Option<File>,
    rest: Vec<u8>,
}

impl Follow {
    pub(super) fn new(path: &Path, from: u64) -> Self {
        let file = File::open(path).ok().and_then(|mut file| {
            file.seek(SeekFrom::Start(from)).ok()?;
            Some(file)
        });
        Self {
            file,
            rest: Vec::new(),
        }
    }

    pub(super) fn lines(&mut self) -> Vec<String> {
        let Some(file) = &mut self.file else {
            return Vec::new();
        };
        if file.read_to_end(&mut self.rest).is_err() {
            return Vec::new();
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole)
            .lines()
            .map(|line| visible(line).to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_bars_show_their_last_state() {
        assert_eq!(visible("10%\r20%\r30%\r"), "30%");
        assert_eq!(visible("plain"), "plain");
    }
}
