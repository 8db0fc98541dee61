//! What everybody waits for while an operation takes too long: the kernel's stacks, taken meanwhile.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the operation's age is looked at.
const EVERY: Duration = Duration::from_millis(5);
/// Frames of a stack that are told: the innermost.
const FRAMES: usize = 8;

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
    /// Does `work` while an operation that takes longer than `limit` is looked at once.
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
        let mut last = 0;
        while !self.over.load(Relaxed) {
            std::thread::sleep(EVERY);
            let begun = self.begun.load(Relaxed);
            let late = begun + self.limit.as_nanos() as u64;
            if begun != 0 && begun != last && self.age() > late {
                last = begun;
                // Who ends the operation waits here until all was seen.
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = (begun, stacks());
            }
        }
    }
}

/// The modules whose threads are told of even while they sleep: a fault may wait for an invalidation.
const OURS: [&str; 2] = ["[ib_emm]", "[rdma_rxe]"];

/// The stacks of this process's threads, and of all others that are not just asleep.
fn stacks() -> String {
    let own = threads("/proc/self/task").filter_map(|task| stack(&task, |_, _| true));
    let busy = |state: &str, stack: &str| {
        "DR".contains(state) || OURS.iter().any(|module| stack.contains(module))
    };
    let others = threads("/proc").filter_map(|task| stack(&task, busy));
    own.chain(others).collect::<Vec<_>>().join("; ")
}

fn threads(of: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    entries
        .filter(move |entry| entry.file_name().to_str().is_some_and(is_number))
        .map(|entry| entry.path())
}

/// `NAME STATE: INNERMOST < ... < OUTERMOST`, if its state is wanted. A thread that is gone meanwhile has none.
fn stack(task: &Path, wanted: impl Fn(&str, &str) -> bool) -> Option<String> {
    let read = |name| fs::read_to_string(task.join(name)).ok();
    let stat = read("stat")?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let state = rest.split_whitespace().next()?;
    // Only root may look.
    let stack = read("stack").unwrap_or_default();
    if !wanted(state, &stack) {
        return None;
    }
    let frames = stack.lines().take(FRAMES).filter_map(frame);
    let frames = frames.collect::<Vec<_>>().join(" < ");
    Some(format!("{name} {state}: {frames}"))
}

/// The function of `[<0>] name+0x12/0x34 [module]`.
fn frame(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)?.split('+').next()
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
        assert!(seen.contains(" S: "), "{seen}");
        assert_eq!(
            frame("[<0>] hrtimer_nanosleep+0xc7/0x1b0"),
            Some("hrtimer_nanosleep")
        );
        assert_eq!(
            frame("[<0>] emm_gate_wait+0x60/0x90 [ib_emm]"),
            Some("emm_gate_wait")
        );
    }
}
