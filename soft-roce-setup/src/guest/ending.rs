//! How a job of a guest ended, and how that is told.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::proc::tail;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The command's status.
    Exited(u8),
    /// The kernel reported a problem; the guest is gone.
    Report(Vec<String>),
    /// No progress for so long; the guest is gone. Each of its tasks: number, name, state, and where in the kernel it waits.
    Timeout(Duration, Vec<String>),
    /// The guest ended without a status: it was switched off or QEMU died, in these words.
    Gone(String),
    /// Nobody reads the output any more; the guest is gone.
    OutputClosed,
    /// The other host has ended both; the guest is gone.
    WithTheOther,
    /// A command wanted its power to be cut (`emm-host power off`); the guest is gone.
    SwitchedOff,
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
            Self::Timeout(time, tasks) => {
                let waiting = match &tasks[..] {
                    [] => "\n  it did not say what its tasks wait for".to_owned(),
                    tasks => format!("\n  its tasks, and what they wait for:\n{}", indent(tasks)),
                };
                format!(
                    "the guest made no progress within {} s and was ended{waiting}{}",
                    time.as_secs(),
                    last_lines(log)
                )
            }
            Self::Gone(how) => format!(
                "the guest ended before the command did: {how}{}",
                last_lines(log)
            ),
            Self::OutputClosed => "nobody reads the command's output any more".to_owned(),
            Self::WithTheOther => "the guest was ended, as the other host was".to_owned(),
            Self::SwitchedOff => "the guest was switched off, as a command wanted".to_owned(),
        }
    }
}

/// How often the host's kernel ended a process as there was no memory left, on the whole host or in a cgroup.
pub(super) fn ended_for_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

/// How QEMU ended that nobody asked to: its status, what it said (to `complaints`), and whether the host ran out of memory.
pub(super) fn death(status: Option<ExitStatus>, out_of_memory: bool, complaints: &Path) -> String {
    // A signal comes through a shell.
    let signal = |status: ExitStatus| match status.code() {
        Some(code @ 129..=192) => ExitStatus::from_raw(code - 128),
        _ => status,
    };
    let mut how = match status.map(signal) {
        Some(status) if status.success() => return "it was switched off".to_owned(),
        Some(status) => format!("QEMU died ({status})"),
        None => "QEMU closed its channels and hangs".to_owned(),
    };
    if out_of_memory {
        how.push_str(
            ", and this host's kernel ended processes for lack of memory meanwhile\n  what to do: choose less with --mem, run fewer \
             guests at once (--jobs), or give the cgroup more",
        );
    }
    let words = tail(complaints, 0);
    if words.is_empty() {
        how.push_str("\n  QEMU said nothing");
    } else {
        how.push_str(&format!("\n  QEMU's last lines:\n{}", indent(&words)));
    }
    format!("{how}\n  QEMU's log: {}", complaints.display())
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
    fn a_death_says_how_why_and_where() {
        let log = std::env::temp_dir().join(format!("emm-death-{}", std::process::id()));
        std::fs::write(&log, "qemu: no\n").unwrap();
        let of = |raw, memory| death(Some(ExitStatus::from_raw(raw)), memory, &log);
        let killed = of(9, true);
        for part in [
            "QEMU died",
            "SIGKILL",
            "lack of memory",
            "--mem",
            "qemu: no",
            "emm-death",
        ] {
            assert!(killed.contains(part), "{part} in {killed}");
        }
        assert!(!of(9, false).contains("memory"));
        assert!(
            of(137 << 8, false).contains("SIGKILL"),
            "as a shell says it"
        );
        assert!(of(256, false).contains("exit status: 1"));
        assert_eq!(of(0, false), "it was switched off");
        std::fs::remove_file(&log).unwrap();
    }

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
