//! What a thread's time went for, so that a stall says what it waited for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The calling thread's account of its time.
pub struct Account(File);

/// What a thread has used up until now, or between two looks.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// On a CPU.
    pub ran: Duration,
    /// Ready to run, while others did.
    pub queued: Duration,
    /// Page faults of its own that waited for a disk.
    pub major: u64,
}

impl Account {
    pub fn open() -> Result<Self> {
        let path = "/proc/thread-self/schedstat";
        Ok(Self(File::open(path).context(path)?))
    }

    /// Until now. The thread that opened the account calls this.
    pub fn now(&self) -> Result<Spent> {
        let mut text = [0; 96];
        let read = self.0.read_at(&mut text, 0)?;
        let (ran, queued) = parse(&text[..read]).context("/proc/thread-self/schedstat")?;
        Ok(Spent {
            ran,
            queued,
            major: major()?,
        })
    }
}

impl Spent {
    pub fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            queued: self.queued.saturating_sub(before.queued),
            major: self.major.saturating_sub(before.major),
        }
    }
}

/// Nanoseconds on a CPU and in its queue, and how often it ran (Documentation/scheduler/sched-stats.rst).
fn parse(text: &[u8]) -> Option<(Duration, Duration)> {
    let mut fields = std::str::from_utf8(text).ok()?.split_whitespace();
    let mut next = || Some(Duration::from_nanos(fields.next()?.parse().ok()?));
    Some((next()?, next()?))
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
        let (ran, queued) = parse(b"1500000 20 7\n").unwrap();
        assert_eq!(ran, Duration::from_micros(1500));
        assert_eq!(queued, Duration::from_nanos(20));
        assert!(parse(b"1500000").is_none());
        let account = Account::open().unwrap();
        let before = account.now().unwrap();
        let spent = account.now().unwrap().since(before);
        assert!(spent.ran < Duration::from_secs(1));
    }
}
