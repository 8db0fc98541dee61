//! Traffic on many queue pairs against a shadow copy, while the VM does random things to the same region.
//!
//! Each thread owns a part of the region (borders inside pages) with its shadow; events that change bytes (throwing away,
//! mapping anew) are done by the owner on whole pages of its part, all others by a thread of their own on the whole region.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::mem::{Map, PAGE, Rng, Wrong, pattern};
use crate::system::{Kind, ensure_swap};
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr};

const BIGGEST: usize = 256 << 10;

#[derive(Default, Clone, Copy)]
struct Done {
    ops: u64,
    bytes: u64,
    changes: u64,
}

/// Runs for `seconds`.
pub fn stress(env: &Env, kind: Kind, seconds: u64, qps: usize, size: usize) -> Result<()> {
    if qps == 0 || size / qps < 4 * PAGE {
        bail!("{qps} queue pairs on {size} bytes: at least four pages each are needed");
    }
    let on_demand = kind != Kind::Pinned;
    if on_demand {
        ensure_swap()?;
    }
    let map = Arc::new(Map::anon(size)?);
    let mr = Arc::new(
        Mr::new(&env.pd, map.addr(), size, ALL_ACCESS | kind.flags())
            .context("registering the region")?,
    );
    let mut targets = Vec::new();
    for _ in 0..qps {
        targets.push(Target::sharing(env, map.clone(), mr.clone())?);
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let stop = AtomicBool::new(false);
    let border = |i: usize| {
        if i == qps {
            size
        } else {
            i * (size / qps) + i * 13
        }
    };
    let outcome = std::thread::scope(|s| {
        let stop = &stop;
        let threads: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let rng = Rng(env.seed ^ (i as u64) << 32);
                s.spawn(move || {
                    let r = traffic(t, border(i), border(i + 1), rng, until, stop, on_demand);
                    if r.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    r.with_context(|| format!("thread {i}"))
                })
            })
            .collect();
        let vm = on_demand.then(|| s.spawn(|| events(&map, Rng(env.seed ^ 77), until, stop)));
        let mut sum = Done::default();
        let mut result = Ok(());
        for t in threads {
            match t.join() {
                Ok(Ok(done)) => {
                    sum.ops += done.ops;
                    sum.bytes += done.bytes;
                    sum.changes += done.changes;
                }
                Ok(Err(e)) => result = result.and(Err(e)),
                Err(_) => bail!("a thread panicked"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        let events = match vm.map(|t| t.join()) {
            Some(Ok(n)) => n?,
            Some(Err(_)) => bail!("the thread with the events panicked"),
            None => 0,
        };
        result?;
        Ok(format!(
            "{qps} queue pairs, {} operations verified, {} MiB, {} mappings changed, {events} VM events: 0 wrong bytes",
            sum.ops,
            sum.bytes >> 20,
            sum.changes
        ))
    });
    env.report.case(
        kind.label(),
        "stress",
        &format!("{seconds} s, seed {}", env.seed),
        kind.resolve() != Kind::Odp,
        outcome,
    );
    Ok(())
}

fn traffic(
    t: &Target,
    from: usize,
    to: usize,
    mut rng: Rng,
    until: Instant,
    stop: &AtomicBool,
    on_demand: bool,
) -> Result<Done> {
    let mut shadow = vec![0u8; to - from];
    let mut done = Done::default();
    let compare = |off: usize, len: usize, shadow: &[u8], what: &str| -> Result<()> {
        t.map
            .compare(off, len, |i, out| copy(shadow, off - from + i, out))
            .ok(what)
    };
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let len = rng.length(BIGGEST.min(to - from));
        let off = from + rng.below(to - from - len + 1);
        let seed = rng.next();
        done.ops += 1;
        match rng.below(16) {
            0..6 => {
                t.write_one(off, len, seed)
                    .with_context(|| format!("WRITE of {len} bytes at {off:#x}"))?;
                pattern(seed, off, &mut shadow[off - from..off - from + len]);
                if rng.below(2) == 0 {
                    compare(off, len, &shadow, "CPU view after WRITE")?;
                }
            }
            6..13 => {
                let shadow = &shadow;
                let (wrong, stray) = t
                    .read_one(off, len, |map, slot| {
                        map.compare(slot, len, |i, out| copy(shadow, off - from + i, out))
                    })
                    .with_context(|| format!("READ of {len} bytes at {off:#x}"))?;
                wrong.ok(&format!("READ of {len} bytes at {off:#x}"))?;
                stray.ok("outside the target of the READ")?;
            }
            13 => {
                t.map.fill(off, len, seed, off);
                pattern(seed, off, &mut shadow[off - from..off - from + len]);
            }
            14 => compare(off, len, &shadow, "CPU view")?,
            _ if on_demand => {
                let first = off.next_multiple_of(PAGE);
                let end = (off + len) & !(PAGE - 1);
                if end > first {
                    if rng.below(2) == 0 {
                        t.map.advise(first, end - first, libc::MADV_DONTNEED)?;
                    } else {
                        t.map.renew(first, end - first)?;
                    }
                    shadow[first - from..end - from].fill(0);
                    done.changes += 1;
                }
            }
            _ => {}
        }
        done.bytes += len as u64;
    }
    compare(from, to - from, &shadow, "the whole part at the end")?;
    let mut wrong = Wrong::default();
    wrong.add(
        t.map
            .compare(from, to - from, |i, out| copy(&shadow, i, out)),
    );
    t.read_cmp(from, to - from, |at, out| copy(&shadow, at - from, out))?;
    wrong.ok("the whole part, again")?;
    Ok(done)
}

fn copy(shadow: &[u8], at: usize, out: &mut [u8]) {
    out.copy_from_slice(&shadow[at..at + out.len()]);
}

/// Events that move pages but change no byte.
fn events(map: &Map, mut rng: Rng, until: Instant, stop: &AtomicBool) -> Result<u64> {
    let mut n = 0;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let pages = map.len() / PAGE;
        let first = rng.below(pages);
        let len = rng.length(pages - first) * PAGE;
        let off = first * PAGE;
        match rng.below(6) {
            // These may meet a part that its owner is mapping anew: the errno is no fact about the region.
            0 | 1 => _ = map.advise(off, len, libc::MADV_PAGEOUT),
            2 => _ = map.advise(off, len, libc::MADV_COLD),
            3 => {
                _ = map.advise(off, len, libc::MADV_HUGEPAGE);
                _ = map.advise(off, len, 25 /* MADV_COLLAPSE */);
            }
            4 => {
                // SAFETY: the child exits at once.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    // SAFETY: ends the child without handlers of the parent.
                    unsafe { libc::_exit(0) };
                }
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            }
            _ => _ = fs::write("/proc/sys/vm/compact_memory", "1"),
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(rng.below(8) as u64));
    }
    Ok(n)
}
