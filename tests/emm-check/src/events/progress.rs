//! Operations go on although a thread throws pages away without pause (their own, or those that a
//! fault reads ahead), or forks.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Ctx;
use crate::beat::Beat;
use crate::child;
use crate::mem::{Map, PAGE, Wrong};
use crate::target::Target;

/// A region's pages: a huge page's, as many as one fault can read ahead.
const ALL: usize = 512;
/// Those that a thread throws away together.
const SOME: usize = 64;
const TIME: Duration = Duration::from_secs(4);
/// Longest time of one operation while the guest's CPUs run.
const STALL: Duration = Duration::from_millis(100);
/// And at all: a busy host can keep a CPU from running for seconds.
const AT_ALL: Duration = Duration::from_secs(5);
/// Operations that are shorter are not looked at closely.
const SHORT: Duration = Duration::from_millis(20);

/// The cases.
pub fn progress(c: &Ctx<'_>) -> Result<()> {
    c.case(
        "the page of each operation",
        against(c, 1, first_page, throw(0..1)),
    );
    c.case(
        "64 pages, two threads",
        against(c, 2, first_page, throw(0..SOME)),
    );
    c.case(
        "the last page, of those read ahead",
        against(c, 1, in_a_row, throw(ALL - 1..ALL)),
    );
    c.case("forks", against(c, 1, in_a_row, |_| child::short()));
    Ok(())
}

/// Throws pages away.
fn throw(pages: Range<usize>) -> impl Fn(&Target) + Sync {
    move |t| {
        // Fails only for wrong arguments.
        _ = t
            .map
            .advise(pages.start * PAGE, pages.len() * PAGE, libc::MADV_DONTNEED);
    }
}

/// One operation after another by `step`, while each of `threads` threads does `event` as fast as it can.
fn against(
    c: &Ctx<'_>,
    threads: usize,
    step: Step,
    event: impl Fn(&Target) + Sync,
) -> Result<String> {
    let map = Map::anon_huge_aligned(ALL * PAGE)?;
    // With huge pages nothing is read ahead.
    map.advise(0, ALL * PAGE, libc::MADV_NOHUGEPAGE)?;
    // Memory without a page of its own is not copied by fork, which then invalidates nothing.
    map.set((ALL - 1) * PAGE, 1, 1);
    let t = Target::new(c.env, c.kind, map)?;
    let over = AtomicBool::new(false);
    let events = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    event(&t);
                    events.fetch_add(1, Relaxed);
                }
            });
        }
        let result = Beat::beside(|beat| work(beat, |number| step(&t, number, c.seed(1))));
        over.store(true, Relaxed);
        let Worst {
            operations,
            net,
            gross,
        } = result?;
        let text = format!(
            "{operations} operations against {} events, worst {:.1} ms, with what the host took {:.1} ms",
            events.load(Relaxed),
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
    operations: usize,
    /// While the CPUs ran.
    net: Duration,
    gross: Duration,
}

/// One operation, given its number and a seed.
type Step = fn(&Target, usize, u64) -> Result<()>;

/// WRITEs and READs of the first page. What they read may be gone already.
fn first_page(t: &Target, number: usize, seed: u64) -> Result<()> {
    if number % 2 == 0 {
        t.write_one(5, 100, seed)?;
    } else {
        t.read_one(5, 100, |_, _| Wrong::default())?;
    }
    Ok(())
}

/// READs of one cold page after the other, so that faults read ahead, from the middle on up to the last one.
fn in_a_row(t: &Target, number: usize, _: u64) -> Result<()> {
    let page = number % (ALL - 1);
    if page == 0 {
        t.map.advise(0, (ALL - 1) * PAGE, libc::MADV_DONTNEED)?;
    }
    t.read_one(page * PAGE, 100, |_, _| Wrong::default())?;
    Ok(())
}

/// Steps for a while: all must succeed.
fn work(beat: &Beat, step: impl Fn(usize) -> Result<()>) -> Result<Worst> {
    let begin = Instant::now();
    let mut worst = Worst::default();
    while begin.elapsed() < TIME {
        let start = Instant::now();
        step(worst.operations)?;
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
