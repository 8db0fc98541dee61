//! When the guest's CPUs did not run. An emulated CPU is a thread of its host, which may be busy: time that passes meanwhile is no
//! time of the guest.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::cpu;

/// How often each CPU shows that it runs.
const EVERY: Duration = Duration::from_millis(1);
/// A CPU that shows itself later than this did not run.
const LATE: Duration = Duration::from_millis(5);
/// Longer than any wait.
const FOREVER: Duration = Duration::from_secs(3600);

/// What is known of the CPUs.
pub struct Beat {
    over: AtomicBool,
    known: Mutex<Known>,
    shown: Condvar,
}

struct Known {
    /// When each CPU showed itself last.
    last: Vec<Instant>,
    gaps: Vec<(Instant, Instant)>,
}

impl Beat {
    /// Does `work` while each CPU shows that it runs, in a thread before which no other comes.
    pub fn beside<T>(work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let cpus = cpu::online();
        let beat = Self {
            over: AtomicBool::new(false),
            known: Mutex::new(Known {
                last: vec![Instant::now(); cpus],
                gaps: Vec::new(),
            }),
            shown: Condvar::new(),
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cpus)
                .map(|cpu| {
                    let beat = &beat;
                    scope.spawn(move || beat.show(cpu))
                })
                .collect();
            let result = work(&beat);
            beat.over.store(true, Relaxed);
            for thread in threads {
                let shown = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
                shown.context("watching a CPU")?;
            }
            result
        })
    }

    fn show(&self, cpu: usize) -> io::Result<()> {
        let bound = cpu::alone_on(cpu);
        while bound.is_ok() && !self.over.load(Relaxed) {
            std::thread::sleep(EVERY);
            self.seen(cpu, Instant::now());
        }
        // Nobody is to wait for this thread any more.
        self.seen(cpu, Instant::now() + FOREVER);
        bound
    }

    fn seen(&self, cpu: usize, now: Instant) {
        let mut known = self.known();
        let last = std::mem::replace(&mut known.last[cpu], now);
        if now - last > LATE {
            known.gaps.push((last, now));
        }
        self.shown.notify_all();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time between `from` and `to` in which some CPU did not run. Waits until each has shown itself after that.
    pub fn lost(&self, from: Instant, to: Instant) -> Duration {
        let mut known = self.known();
        while known.last.iter().any(|last| *last < to) {
            known = self
                .shown
                .wait(known)
                .unwrap_or_else(PoisonError::into_inner);
        }
        lost(known.gaps.clone(), from, to)
    }
}

/// What the union of `gaps` has in common with `from..to`.
fn lost(mut gaps: Vec<(Instant, Instant)>, from: Instant, to: Instant) -> Duration {
    gaps.sort();
    let (mut sum, mut at) = (Duration::ZERO, from);
    for (start, end) in gaps {
        let (start, end) = (start.max(at), end.min(to));
        if start < end {
            sum += end - start;
            at = end;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_once() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let gaps = vec![(at(50), at(70)), (at(10), at(20)), (at(15), at(30))];
        let of = |from, to| lost(gaps.clone(), at(from), at(to)).as_millis();
        assert_eq!(of(0, 100), 40);
        assert_eq!(of(12, 60), 28);
        assert_eq!(of(30, 50), 0);
        assert_eq!(lost(Vec::new(), at(0), at(9)), Duration::ZERO);
    }
}
