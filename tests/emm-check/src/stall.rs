//! What everybody waits for while an operation takes too long: the kernel's stacks, taken meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::stacks::{self, Stack};

/// How often the operation's age is looked at.
const EVERY: Duration = Duration::from_millis(5);

/// Looks at operations that go on for long.
pub struct Watch {
    zero: Instant,
    limit: Duration,
    /// When the operation under way began, in nanoseconds after `zero`; 0 if none is.
    begun: AtomicU64,
    over: AtomicBool,
    /// The stacks of the latest that took too long, with its beginning.
    seen: Mutex<(u64, String)>,
}

impl Watch {
    /// Does `work` while an operation that takes longer than `limit` is looked at once. On a slow machine many do, and looking
    /// takes its time as well: each look doubles the limit.
    pub fn beside<T>(limit: Duration, work: impl FnOnce(&Self) -> T) -> T {
        let watch = Self {
            zero: Instant::now(),
            limit,
            begun: AtomicU64::new(0),
            over: AtomicBool::new(false),
            seen: Mutex::default(),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| watch.look());
            let result = work(&watch);
            watch.over.store(true, Relaxed);
            result
        })
    }

    /// An operation begins.
    pub fn begin(&self) {
        self.begun.store(self.age().max(1), Relaxed);
    }

    /// The operation is over. Returns what was seen meanwhile, if it took too long.
    pub fn end(&self) -> Option<String> {
        let begun = self.begun.swap(0, Relaxed);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.0 == begun).then(|| seen.1.clone())
    }

    fn age(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }

    fn look(&self) {
        let (mut last, mut limit) = (0, self.limit);
        while !self.over.load(Relaxed) {
            std::thread::sleep(EVERY);
            let begun = self.begun.load(Relaxed);
            let late = begun + limit.as_nanos() as u64;
            if begun != 0 && begun != last && self.age() > late {
                last = begun;
                // Who ends the operation waits here until all was seen.
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let lines: Vec<String> = stacks::all().iter().map(Stack::line).collect();
                let text = format!("after {} ms: {}", limit.as_millis(), lines.join("; "));
                *seen = (begun, text);
                limit *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_operations_are_looked_at() {
        let watch = |limit, time| {
            Watch::beside(limit, |watch| {
                watch.begin();
                std::thread::sleep(time);
                watch.end()
            })
        };
        let second = Duration::from_secs(1);
        assert!(watch(second, Duration::from_millis(1)).is_none());
        let seen = watch(Duration::from_millis(10), second).unwrap();
        assert!(
            seen.contains("after 10 ms: ") && seen.contains(" S: "),
            "{seen}"
        );
    }
}
