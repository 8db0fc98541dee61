//! What a thread's time went for, so that a stall says what it waited for.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The calling thread's account of its time; of its faults only, if the kernel is built without CONFIG_SCHED_INFO.
pub struct Account(Option<File>);

/// What a thread has used up until now, or between two looks.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    times: Option<Times>,
    /// Page faults of its own that waited for a disk.
    major: u64,
}

#[derive(Clone, Copy)]
struct Times {
    /// On a CPU.
    ran: Duration,
    /// Ready to run, while others did.
    queued: Duration,
}

impl Account {
    pub fn open() -> Result<Self> {
        let path = "/proc/thread-self/schedstat";
        match File::open(path) {
            Ok(file) => Ok(Self(Some(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(None)),
            Err(error) => Err(error).context(path),
        }
    }

    /// Until now. The thread that opened the account calls this.
    pub fn now(&self) -> Result<Spent> {
        let times = self.0.as_ref().map(|file| {
            let mut text = [0; 96];
            let read = file.read_at(&mut text, 0)?;
            parse(&text[..read]).context("/proc/thread-self/schedstat")
        });
        Ok(Spent {
            times: times.transpose()?,
            major: major()?,
        })
    }
}

impl Spent {
    /// In a CPU's queue; none if that is not known.
    pub fn queued(self) -> Duration {
        self.times.map_or(Duration::ZERO, |times| times.queued)
    }

    pub fn since(self, before: Self) -> Self {
        let both = self.times.zip(before.times);
        Self {
            times: both.map(|(now, before)| Times {
                ran: now.ran.saturating_sub(before.ran),
                queued: now.queued.saturating_sub(before.queued),
            }),
            major: self.major.saturating_sub(before.major),
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Times { ran, queued }) = self.times {
            let [ran, queued] = [ran, queued].map(|time| time.as_secs_f64() * 1e3);
            write!(f, "on a CPU {ran:.1} ms, ready {queued:.1} ms, ")?;
        }
        write!(f, "{} major faults", self.major)
    }
}

/// Nanoseconds on a CPU and in its queue, and how often it ran (Documentation/scheduler/sched-stats.rst).
fn parse(text: &[u8]) -> Option<Times> {
    let mut fields = std::str::from_utf8(text).ok()?.split_whitespace();
    let mut next = || Some(Duration::from_nanos(fields.next()?.parse().ok()?));
    Some(Times {
        ran: next()?,
        queued: next()?,
    })
}

fn major() -> io::Result<u64> {
    // SAFETY: every bit pattern is a usage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the usage outlives the call.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usage.ru_majflt as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_of_a_thread() {
        let times = parse(b"1500000 20300 7\n");
        assert!(times.is_some() && parse(b"1500000").is_none());
        let spent = Spent { times, major: 2 };
        assert_eq!(
            spent.to_string(),
            "on a CPU 1.5 ms, ready 0.0 ms, 2 major faults"
        );
        assert_eq!(spent.queued(), Duration::from_nanos(20300));
        let none = Spent::default();
        assert_eq!(spent.since(none).to_string(), "2 major faults");
        let account = Account::open().unwrap();
        let before = account.now().unwrap();
        let spent = account.now().unwrap().since(before);
        assert!(spent.times.is_none_or(|t| t.ran < Duration::from_secs(1)));
    }
}
