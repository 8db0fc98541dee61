//! How a job of a guest ended, and how that is told.

use std::path::Path;
use std::time::Duration;

use crate::proc::tail;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The command's status.
    Exited(u8),
    /// The kernel reported a problem; the guest is gone.
    Report(Vec<String>),
    /// No progress for so long; the guest is gone.
    Timeout(Duration),
    /// The guest ended without a status: it was switched off or QEMU died.
    Gone,
    /// Nobody reads the output any more; the guest is gone.
    OutputClosed,
}

impl End {
    /// Tells the user how a job ended that did not end well; `log` is the guest's.
    pub fn describe(&self, log: &Path) -> String {
        match self {
            Self::Exited(status) => format!("the command left with status {status}"),
            Self::Report(lines) => format!(
                "the guest's kernel reported a problem:\n{}\n  full log: {}",
                indent(lines),
                log.display()
            ),
            Self::Timeout(time) => format!(
                "the guest made no progress within {} s and was ended{}",
                time.as_secs(),
                last_lines(log)
            ),
            Self::Gone => format!("the guest ended before the command did{}", last_lines(log)),
            Self::OutputClosed => "nobody reads the command's output any more".to_owned(),
        }
    }
}

/// What the kernel said last, for an error's end.
pub(super) fn last_lines(log: &Path) -> String {
    let lines = tail(log, 0);
    if lines.is_empty() {
        return format!("\n  its kernel said nothing; log: {}", log.display());
    }
    format!(
        "\n  the kernel's last lines:\n{}\n  full log: {}",
        indent(&lines),
        log.display()
    )
}

fn indent(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// The guest's answer to `run` and `shell`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The command's.
    pub status: u8,
    /// Bytes of output, and of standard error, that it wrote.
    pub out: u64,
    pub err: u64,
}

impl Answer {
    /// `None` if the line is no answer.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("exit ")?.split_whitespace();
        let status = words.next()?.parse().ok()?;
        let mut bytes = || words.next()?.parse().ok();
        Some(Self {
            status,
            out: bytes()?,
            err: bytes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert_eq!(
            Answer::parse("exit 3 12 0"),
            Some(Answer {
                status: 3,
                out: 12,
                err: 0
            })
        );
        assert_eq!(Answer::parse("ready emm"), None);
        assert_eq!(Answer::parse("exit x"), None);
        assert_eq!(Answer::parse("exit 0"), None, "a count that lacks is not 0");
    }
}
