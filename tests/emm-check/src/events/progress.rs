//! Operations go on although a thread throws their pages away without pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Ctx;
use crate::beat::Beat;
use crate::mem::PAGE;
use crate::target::Target;

const SIZE: usize = 64 * PAGE;
const TIME: Duration = Duration::from_secs(4);
/// Longest time of one operation while the guest's CPUs run.
const STALL: Duration = Duration::from_millis(100);
/// And at all: a busy host can keep a CPU from running for seconds.
const AT_ALL: Duration = Duration::from_secs(5);
/// Operations that are shorter are not looked at closely.
const SHORT: Duration = Duration::from_millis(20);

/// The cases.
pub fn progress(c: &Ctx<'_>) -> Result<()> {
    c.case("the page of each operation", against(c, 1, 1));
    c.case("all pages, two threads", against(c, SIZE / PAGE, 2));
    Ok(())
}

/// `pages` pages are thrown away by each of `threads` threads, as fast as they can.
fn against(c: &Ctx<'_>, pages: usize, threads: usize) -> Result<String> {
    let t = c.target(SIZE)?;
    let over = AtomicBool::new(false);
    let thrown = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    // Fails only for wrong arguments.
                    let _ = t.map.advise(0, pages * PAGE, libc::MADV_DONTNEED);
                    thrown.fetch_add(1, Relaxed);
                }
            });
        }
        let result = Beat::beside(|beat| work(c, &t, beat));
        over.store(true, Relaxed);
        let Worst {
            operations,
            net,
            gross,
        } = result?;
        let text = format!(
            "{operations} operations against {} invalidations, worst {:.1} ms, with what the host took {:.1} ms",
            thrown.load(Relaxed),
            net.as_secs_f64() * 1e3,
            gross.as_secs_f64() * 1e3
        );
        if net > STALL || gross > AT_ALL {
            bail!("{text}");
        }
        Ok(text)
    })
}

/// The longest times.
#[derive(Default)]
struct Worst {
    operations: u32,
    /// While the CPUs ran.
    net: Duration,
    gross: Duration,
}

/// WRITEs and READs of the first page for a while: all must succeed. What they read may be gone already.
fn work(c: &Ctx<'_>, t: &Target, beat: &Beat) -> Result<Worst> {
    let begin = Instant::now();
    let mut worst = Worst::default();
    while begin.elapsed() < TIME {
        let start = Instant::now();
        if worst.operations % 2 == 0 {
            t.write_one(5, 100, c.seed(1))?;
        } else {
            t.read_one(5, 100, |_, _| crate::mem::Wrong::default())?;
        }
        let end = Instant::now();
        let took = end - start;
        worst.operations += 1;
        worst.gross = worst.gross.max(took);
        let lost = if took > SHORT {
            beat.lost(start, end)
        } else {
            Duration::ZERO
        };
        worst.net = worst.net.max(took - lost);
    }
    Ok(worst)
}
