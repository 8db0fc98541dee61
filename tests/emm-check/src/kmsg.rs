//! The kernel's log since a moment.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::readable;

/// Priorities below this one are warnings or worse (`KERN_NOTICE` is 5).
const NOTICE: u32 = 5;

/// Reads what is logged after it was opened.
pub struct Journal {
    file: File,
    /// How rxe begins its lines.
    device: String,
}

impl Journal {
    /// From now on. `device` is the verbs device.
    pub fn open(device: &str) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            device: format!("{device}: "),
        })
    }

    /// Fails if the kernel logged a warning or worse. In-tree rxe says each refused verb and each completion with an error as an
    /// error of the device, for pinned regions too, until its rate limit: those lines are only counted.
    pub fn quiet(&mut self) -> Result<String> {
        let mut refusals = 0;
        while let Some(record) = self.next()? {
            let (level, text) = parse(&record)?;
            if level >= NOTICE {
                continue;
            }
            if !text.starts_with(&self.device) && !text.ends_with("callbacks suppressed") {
                bail!("level {level}: {text}");
            }
            refusals += 1;
        }
        Ok(format!(
            "no warning ({refusals} lines of rxe about what was refused)"
        ))
    }

    /// Waits for a record whose text `wanted` takes, for at most `limit`. Returns whether it came.
    pub fn find(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            while let Some(record) = self.next()? {
                if wanted(parse(&record)?.1) {
                    return Ok(true);
                }
            }
            if !readable(&self.file, end)? {
                return Ok(false);
            }
        }
    }

    /// The next record, if there is one.
    fn next(&mut self) -> Result<Option<String>> {
        let mut record = [0; 8192];
        match self.file.read(&mut record) {
            Ok(n) => Ok(Some(String::from_utf8_lossy(&record[..n]).into_owned())),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("reading /dev/kmsg (EPIPE: records were overwritten)"),
        }
    }
}

/// Level and text of `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT`. The priority's upper bits are the facility.
fn parse(record: &str) -> Result<(u32, &str)> {
    let parts = record.split_once(';').and_then(|(head, text)| {
        let priority: u32 = head.split(',').next()?.parse().ok()?;
        Some((priority & 7, text.lines().next()?))
    });
    parts.with_context(|| format!("a record without priority: {record:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let record = "4,1211,61,-;WARNING: text; more\n SUBSYSTEM=x\n";
        assert_eq!(parse(record).unwrap(), (4, "WARNING: text; more"));
        assert_eq!(parse("30,1,2,-;user\n").unwrap(), (6, "user"));
        assert!(parse("nothing").is_err());
    }
}
