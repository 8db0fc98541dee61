//! Traffic on many queue pairs against a shadow copy, while the VM does random things to the same region.
//!
//! Each thread owns a part of the region (borders inside pages) with its shadow; events that change bytes (throwing away,
//! mapping anew) are done by the owner on whole pages of its part, all others by a thread of their own on the whole region.

mod burst;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child;
use crate::mem::{Map, PAGE, Rng, pattern};
use crate::qp::{Op, OpError, Piece, Qp};
use crate::swap::ensure_swap;
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr};

const BIGGEST: usize = 1 << 20;
/// One turn in so many uses a registration of its own.
const PRIVATE: usize = 48;
/// One turn in so many is an operation of any size, waited for; the others are bursts of small ones.
const SINGLE: usize = 4;

#[derive(Default, Clone, Copy)]
struct Done {
    ops: u64,
    bytes: u64,
    changes: u64,
    registrations: u64,
}

/// When it is over, for all threads.
struct Until {
    time: Instant,
    operations: u64,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Until {
    fn over(&self) -> bool {
        let enough = self.operations > 0 && self.done.load(Relaxed) >= self.operations;
        enough || self.stop.load(Relaxed) || Instant::now() >= self.time
    }

    fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// What is done, and for how long.
#[derive(Clone, Copy)]
pub struct Plan {
    /// It is over after so many seconds …
    pub seconds: u64,
    /// … or so many operations, if not 0.
    pub operations: u64,
    /// Queue pairs.
    pub qps: usize,
    /// The region's bytes.
    pub size: usize,
    /// Whether the events include compaction, which concerns all processes.
    pub compaction: bool,
}

/// Runs it.
pub fn stress(env: &Env, kind: Kind, plan: Plan) -> Result<()> {
    let Plan { qps, size, .. } = plan;
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
    let until = Until {
        time: Instant::now() + Duration::from_secs(plan.seconds),
        operations: plan.operations,
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let border = |i: usize| {
        if i == qps {
            size
        } else {
            i * (size / qps) + i * 13
        }
    };
    let outcome = std::thread::scope(|s| {
        let until = &until;
        let threads: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let rng = Rng(env.seed ^ (i as u64) << 32);
                s.spawn(move || {
                    let part = (border(i), border(i + 1));
                    let r = traffic(env, t, part, rng, until, kind);
                    if r.is_err() {
                        until.stop();
                    }
                    r.with_context(|| format!("thread {i}"))
                })
            })
            .collect();
        let vm =
            on_demand.then(|| s.spawn(|| events(&map, Rng(env.seed ^ 77), until, plan.compaction)));
        let mut sum = Done::default();
        let mut result = Ok(());
        for t in threads {
            match t.join() {
                Ok(Ok(done)) => {
                    sum.ops += done.ops;
                    sum.bytes += done.bytes;
                    sum.changes += done.changes;
                    sum.registrations += done.registrations;
                }
                Ok(Err(e)) => result = result.and(Err(e)),
                Err(_) => bail!("a thread panicked"),
            }
        }
        until.stop();
        let events = match vm.map(|t| t.join()) {
            Some(Ok(n)) => n?,
            Some(Err(_)) => bail!("the thread with the events panicked"),
            None => 0,
        };
        result?;
        if sum.ops < plan.operations {
            bail!(
                "{} of {} operations in {} s",
                sum.ops,
                plan.operations,
                plan.seconds
            );
        }
        Ok(format!(
            "{qps} queue pairs, {} operations verified, {} MiB, {} mappings changed, {} registrations, {events} VM events: 0 wrong bytes",
            sum.ops,
            sum.bytes >> 20,
            sum.changes,
            sum.registrations
        ))
    });
    env.report.case(
        kind.label(),
        "stress",
        &format!("seed {}", env.seed),
        env.report.requires(kind),
        outcome,
    );
    Ok(())
}

fn traffic(
    env: &Env,
    t: &Target,
    (from, to): (usize, usize),
    mut rng: Rng,
    until: &Until,
    kind: Kind,
) -> Result<Done> {
    let on_demand = kind != Kind::Pinned;
    let mut part = Part {
        from,
        to,
        shadow: vec![0; to - from],
    };
    let mut done = Done::default();
    while !until.over() {
        if rng.below(SINGLE) != 0 {
            let (ops, bytes) = burst::run(t, &mut part, &mut rng).context("a burst")?;
            done.ops += ops;
            done.bytes += bytes;
            until.done.fetch_add(ops, Relaxed);
            continue;
        }
        let len = rng.length(BIGGEST.min(to - from));
        let off = from + rng.below(to - from - len + 1);
        let seed = rng.bits();
        done.ops += 1;
        until.done.fetch_add(1, Relaxed);
        if rng.below(PRIVATE) == 0 {
            registered_anew(env, kind, t, (off, len), seed)?;
            pattern(seed, off, part.at(off, len));
            done.registrations += 1;
        }
        match rng.below(16) {
            0..6 => {
                t.write_one(off, len, seed)
                    .with_context(|| format!("WRITE of {len} bytes at {off:#x}"))?;
                pattern(seed, off, part.at(off, len));
                if rng.below(2) == 0 {
                    part.compare(t, off, len, "CPU view after WRITE")?;
                }
            }
            6..13 => {
                let shadow = part.at(off, len);
                let (wrong, stray) = t
                    .read_one(off, len, |map, slot| {
                        map.compare(slot, len, |i, out| copy(shadow, i, out))
                    })
                    .with_context(|| format!("READ of {len} bytes at {off:#x}"))?;
                wrong.ok(&format!("READ of {len} bytes at {off:#x}"))?;
                stray.ok("outside the target of the READ")?;
            }
            13 => {
                t.map.fill(off, len, seed, off);
                pattern(seed, off, part.at(off, len));
            }
            14 => part.compare(t, off, len, "CPU view")?,
            _ if on_demand => {
                let first = off.next_multiple_of(PAGE);
                let end = (off + len) & !(PAGE - 1);
                if end > first {
                    if rng.below(2) == 0 {
                        t.map.advise(first, end - first, libc::MADV_DONTNEED)?;
                    } else {
                        t.map.renew(first, end - first)?;
                    }
                    part.at(first, end - first).fill(0);
                    done.changes += 1;
                }
            }
            _ => {}
        }
        done.bytes += len as u64;
    }
    part.compare(t, from, to - from, "the whole part at the end")?;
    let shadow = &part.shadow;
    t.read_cmp(from, to - from, |at, out| copy(shadow, at - from, out))?;
    part.compare(t, from, to - from, "the whole part, again")?;
    Ok(done)
}

/// A thread's part of the region, and what its bytes have to be.
struct Part {
    from: usize,
    to: usize,
    shadow: Vec<u8>,
}

impl Part {
    /// The shadow of `len` bytes at `off` of the region.
    fn at(&mut self, off: usize, len: usize) -> &mut [u8] {
        &mut self.shadow[off - self.from..][..len]
    }

    /// Compares what the CPU sees with the shadow.
    fn compare(&self, t: &Target, off: usize, len: usize, what: &str) -> Result<()> {
        let shadow = &self.shadow[off - self.from..];
        t.map
            .compare(off, len, |i, out| copy(shadow, i, out))
            .ok(what)
    }
}

/// Writes through a registration of just these bytes, which begins and ends among the VM's events. A second one ends while a READ
/// through it is in flight: that may fail, and nothing else may come of it.
fn registered_anew(
    env: &Env,
    kind: Kind,
    t: &Target,
    (off, len): (usize, usize),
    seed: u64,
) -> Result<()> {
    let new = || {
        Mr::new(&env.pd, t.map.addr() + off, len, ALL_ACCESS | kind.flags())
            .with_context(|| format!("registering {len} bytes at {off:#x}"))
    };
    let mr = new()?;
    t.write_by(mr.rkey(), off, len, seed)
        .with_context(|| format!("WRITE of {len} bytes at {off:#x}, just registered"))?;
    drop(mr);
    if seed % 4 == 0 {
        let mr = new()?;
        let qp = Qp::new(&env.pd, env.mtu)?;
        let mut from = t.remote(off);
        from.key = mr.rkey();
        let sink = Map::anon(len + PAGE)?;
        let sink_mr = Mr::new(&env.pd, sink.addr(), sink.len(), ALL_ACCESS)?;
        let to = Piece {
            addr: sink.addr() as u64,
            key: sink_mr.lkey(),
        };
        qp.post(Op::Read, to, len as u32, from)?;
        drop(mr);
        match qp.wait() {
            Ok(()) | Err(OpError::Status(_)) => {}
            Err(e) => bail!("READ in flight at deregistration: {e}"),
        }
    }
    Ok(())
}

fn copy(shadow: &[u8], at: usize, out: &mut [u8]) {
    out.copy_from_slice(&shadow[at..at + out.len()]);
}

/// Events that move pages but change no byte.
fn events(map: &Map, mut rng: Rng, until: &Until, compaction: bool) -> Result<u64> {
    let mut n = 0;
    while !until.over() {
        let pages = map.len() / PAGE;
        let first = rng.below(pages);
        let len = rng.length(pages - first) * PAGE;
        let off = first * PAGE;
        match rng.below(if compaction { 6 } else { 5 }) {
            // These may meet a part that its owner is mapping anew: the errno is no fact about the region.
            0 | 1 => _ = map.advise(off, len, libc::MADV_PAGEOUT),
            2 => _ = map.advise(off, len, libc::MADV_COLD),
            3 => {
                _ = map.advise(off, len, libc::MADV_HUGEPAGE);
                _ = map.advise(off, len, 25 /* MADV_COLLAPSE */);
            }
            4 => child::short(),
            _ => _ = fs::write("/proc/sys/vm/compact_memory", "1"),
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(rng.below(8) as u64));
    }
    Ok(n)
}
