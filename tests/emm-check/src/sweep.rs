//! `sweep`: RDMA WRITE and RDMA READ over all of a big region in a random partition of odd offsets and lengths.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::mem::{Map, Rng, Wrong};
use crate::reg::round1;
use crate::system::Kind;
use crate::target::{Env, MAX_OP, Target};

/// Queue pairs that share the region.
const LANES: usize = 2;

/// A random partition of `0..size` in random order; most pieces are big, as nothing else fits in reasonable time.
pub fn partition(size: usize, rng: &mut Rng) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let n = if rng.below(4) == 0 {
            rng.length(MAX_OP)
        } else {
            MAX_OP / 2 + rng.below(MAX_OP / 2)
        };
        let n = (n | 1).min(MAX_OP - 1).min(size - at);
        pieces.push((at, n));
        at += n;
    }
    for i in (1..pieces.len()).rev() {
        pieces.swap(i, rng.below(i + 1));
    }
    pieces
}

/// Writes all of `size` fresh bytes by RDMA and compares them by the CPU; then fills them by the CPU and compares by RDMA READ.
pub fn sweep(env: &Env, kind: Kind, size: usize) -> Result<()> {
    let t = Target::new(env, kind, Map::anon(size)?)?;
    let mut targets = Vec::new();
    for _ in 0..LANES {
        targets.push(Target::sharing(env, t.map.clone(), t.mr.clone())?);
    }
    let pieces = partition(size, &mut Rng(env.seed));
    let required = env.report.requires(kind);
    let line = |op: &str, wrong: Wrong, stray: Wrong, error: Option<String>, secs: f64| {
        let mib_s = size as f64 / secs / (1 << 20) as f64;
        let detail = match &error {
            Some(e) => e.clone(),
            None if wrong.none() && stray.none() => String::new(),
            None => format!("{wrong}; outside: {stray}"),
        };
        let ok = error.is_none() && wrong.none() && stray.none();
        let text = format!(
            "{:6} sweep {op} {} MiB in {} pieces: {} wrong bytes, {} outside, {mib_s:.0} MiB/s {detail}",
            kind.label(),
            size >> 20,
            pieces.len(),
            wrong.count,
            stray.count
        );
        let value = json!({"t": "sweep", "mr": kind.label(), "op": op, "bytes": size, "pieces": pieces.len(),
            "wrong_bytes": wrong.count, "stray_bytes": stray.count, "secs": round1(secs), "mib_s": round1(mib_s), "detail": detail});
        env.report.fact(ok, required, &text, value);
        ok
    };

    // Each piece is written once, so a write outside its target damages a piece written before, or is overwritten by a later
    // one; the second look at the end finds the first kind.
    let start = Instant::now();
    let error = lanes(&pieces, |lane, at, n| {
        targets[lane]
            .write_one(at, n, env.seed)
            .map_err(|e| format!("WRITE of {n} bytes at {at:#x}: {e}"))
    });
    let secs = start.elapsed().as_secs_f64();
    let failed = error.is_err();
    let wrong = t.map.check(0, size, env.seed, 0);
    line("write", wrong, Wrong::default(), error.err(), secs);
    if failed {
        return Ok(());
    }

    let seed = env.seed ^ 0xFFFF;
    t.cpu_fill(0, size, seed);
    let found = Mutex::new((Wrong::default(), Wrong::default()));
    let start = Instant::now();
    let error = lanes(&pieces, |lane, at, n| {
        let (wrong, stray) = targets[lane]
            .read_one(at, n, |map, slot| map.check(slot, n, seed, at))
            .map_err(|e| format!("READ of {n} bytes at {at:#x}: {e}"))?;
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.0.add(wrong);
        found.1.add(stray);
        Ok(())
    });
    let secs = start.elapsed().as_secs_f64();
    let (wrong, stray) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    line("read", wrong, stray, error.err(), secs);
    Ok(())
}

/// Deals the pieces out to one thread per queue pair; the first error ends all.
fn lanes(
    pieces: &[(usize, usize)],
    work: impl Fn(usize, usize, usize) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let run = |lane| {
        while let Some(&(at, n)) = pieces.get(next.fetch_add(1, Relaxed)) {
            work(lane, at, n).inspect_err(|_| next.store(pieces.len(), Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LANES)
            .map(|lane| scope.spawn(move || run(lane)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".into()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_covers_all_once() {
        let mut pieces = partition(10 << 20, &mut Rng(3));
        pieces.sort_unstable();
        let mut at = 0;
        for (start, n) in pieces {
            assert_eq!(start, at);
            assert!(n > 0 && n < MAX_OP);
            at += n;
        }
        assert_eq!(at, 10 << 20);
    }
}
