//! An invalidation lets faults pass that lost too often: no longer for many regions together than for one, and not at all where
//! they can't go on before it is over.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::notifier::{Client, DEVICE};
use crate::private::Advise;
use crate::system::Kind;
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

const PAGES: usize = 16;
/// The page that faults lose.
const LOST: usize = 8 * PAGE;
/// Regions of the same memory, with a fault each.
const REGIONS: usize = 24;
/// How often they lose: 8 times and they starve, and so often again that each is worth waiting for 32 ms.
const LOSSES: usize = 8 + 32;
/// How long each invalidation holds the page off meanwhile: longer than all of them take to begin.
const DELAY: Duration = Duration::from_millis(6000);
/// Time between two of them.
const LOOK: Duration = Duration::from_millis(25);
/// What one may wait for all regions, 64 ms, and what a busy host may add.
const MOST: Duration = Duration::from_millis(150);
/// Less than one would wait for one region.
const NONE: Duration = Duration::from_millis(25);
/// How often something is timed: the shortest time counts, as a busy host only adds.
const ROUNDS: usize = 3;
/// Longest wait for a fault to ask.
const HEARD: Duration = Duration::from_secs(10);

/// The cases.
pub fn patience(c: &Ctx<'_>) -> Result<()> {
    if !Path::new(DEVICE).exists() {
        let reason = format!("there is no {DEVICE}: emm_client is not loaded");
        c.env.report.skip("patience", &reason, false);
        return Ok(());
    }
    if c.kind.resolve() != Kind::Emm {
        c.env
            .report
            .skip("patience", "needs regions of ib_emm", false);
        return Ok(());
    }
    c.case("24 regions", regions(c));
    Ok(())
}

/// Each region has a fault that has lost often, and waits for a handler now.
fn regions(c: &Ctx<'_>) -> Result<String> {
    let map = Arc::new(Map::anon_huge_aligned(PAGES * PAGE)?);
    // The rest of the page table is there: mprotect tells nobody of pages without one.
    map.set(0, 1, 1);
    let handler = Uffd::new().context("userfaultfd")?;
    handler
        .watch(&map, 0, map.len())
        .context("UFFDIO_REGISTER")?;
    let register = || {
        Mr::new(
            &c.env.pd,
            map.addr(),
            map.len(),
            ALL_ACCESS | c.kind.flags(),
        )
    };
    let regions = (0..REGIONS)
        .map(|_| register())
        .collect::<io::Result<Vec<_>>>()?;
    let client = Client::watching(&map, LOST, PAGE)?;
    client.command(&format!("delay {}", DELAY.as_millis()))?;
    let throw = || map.advise(LOST, PAGE, libc::MADV_DONTNEED);
    let advice = Advise::find()?;
    let fault = |region: &Mr| {
        let range = ffi::ibv_sge {
            addr: (map.addr() + LOST) as u64,
            length: PAGE as u32,
            lkey: region.lkey(),
        };
        let flush = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
        let prefetch = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
        advice.give(&c.env.pd, prefetch, flush, &[range])
    };
    // A thread that begins needs the mmap_lock for writing, which whoever throws pages away keeps from it.
    let turn = Turn::default();
    scope(|scope| {
        let throwers: Vec<_> = (0..=LOSSES)
            .map(|number| {
                let (turn, throw) = (&turn, &throw);
                scope.spawn(move || turn.after(number, throw))
            })
            .collect();
        let faults: Vec<_> = regions
            .iter()
            .map(|region| {
                let (turn, fault) = (&turn, &fault);
                scope.spawn(move || turn.after(1, || fault(region)))
            })
            .collect();
        turn.begun(throwers.len() + faults.len());
        let lose = || {
            for number in 0..=LOSSES {
                turn.come(number);
                client.await_starts(number + 1)?;
                // A loss is one that a fault sees: time for all of them to look.
                sleep(LOOK);
            }
            client.command("delay 0")?;
            anyhow::Ok(())
        };
        let lost = lose();
        turn.come(LOSSES);
        let lost = lost.and_then(|()| {
            for thrower in throwers {
                joined(thrower).context("MADV_DONTNEED")?;
            }
            Ok(())
        });
        // Whatever went wrong, the handler answers, or the faults would wait for ever.
        let timed = lost.and_then(|()| {
            for number in 0..REGIONS {
                if handler.next(HEARD)?.is_none() {
                    bail!("{number} of {REGIONS} faults asked the handler");
                }
            }
            let thrown = shortest(|| throw())?;
            let protected = shortest(|| {
                map.protect(LOST, PAGE, libc::PROT_READ)?;
                map.protect(LOST, PAGE, libc::PROT_READ | libc::PROT_WRITE)
            })?;
            Ok((thrown, protected))
        });
        handler.answer(map.addr() + LOST, &[7; PAGE])?;
        let (thrown, protected) = timed?;
        for fault in faults {
            joined(fault).context("a prefetch that lost often")?;
        }
        judge(thrown, protected)
    })
}

/// Lets threads go on that have begun.
#[derive(Default)]
struct Turn {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    /// Threads that wait for their turn, or had it.
    begun: usize,
    /// It is the turn of those with lower numbers.
    before: usize,
}

impl Turn {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("nobody panics with it")
    }

    /// Waits until so many threads have begun.
    fn begun(&self, threads: usize) {
        drop(
            self.changed
                .wait_while(self.now(), |now| now.begun < threads),
        );
    }

    /// From now on it is the turn of those with this number, or a lower one.
    fn come(&self, number: usize) {
        self.now().before = number + 1;
        self.changed.notify_all();
    }

    /// Does `work` when it is the turn of `number`. Memory of the thread's own is there before.
    fn after<T>(&self, number: usize, work: impl FnOnce() -> T) -> T {
        drop(black_box(vec![0; 100]));
        let mut now = self.now();
        now.begun += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(now, |now| now.before <= number));
        work()
    }
}

fn judge(thrown: Duration, protected: Duration) -> Result<String> {
    let text = format!(
        "{REGIONS} faults that lost {LOSSES} times: MADV_DONTNEED let them pass for {:.1} ms, mprotect for {:.1} ms",
        thrown.as_secs_f64() * 1e3,
        protected.as_secs_f64() * 1e3
    );
    if thrown < NONE {
        bail!("{text}: nothing was waited for, so that nothing is shown");
    }
    if thrown > MOST {
        bail!("{text}: more than {MOST:?} together");
    }
    if protected > NONE {
        bail!("{text}: they can't go on before it is over");
    }
    Ok(text)
}

/// The shortest time that `step` takes.
fn shortest(step: impl Fn() -> io::Result<()>) -> io::Result<Duration> {
    let mut shortest = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        step()?;
        shortest = shortest.min(start.elapsed());
    }
    Ok(shortest)
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    let panicked = |_| Err(io::Error::other("a thread panicked"));
    thread.join().unwrap_or_else(panicked)
}
