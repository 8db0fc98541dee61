//! Traffic while the memory under it is given back again and again, ever faster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use emm_check::mem::PAGE;
use emm_check::qp::{Op, Qp};

use crate::facts::{Subject, again, tell_of_pinned};
use crate::hot::rate;
use crate::plan::Plan;
use crate::rig::{Area, Rig, small_pages, touch};
use crate::traffic::Stream;
use crate::who::{KINDS, Kind};

/// Bytes of the region, and of one WRITE.
const FIELD: usize = 1 << 20;
const MESSAGE: usize = 64 << 10;
/// Invalidations a second that are asked for: quick, full.
const RATES: (&[usize], &[usize]) = (&[10, 100, 1_000, 10_000], &[10, 100, 1_000, 10_000, 50_000]);
/// How long each is measured: quick, full.
const TIME: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(800));

/// Throughput against the rate of invalidations.
pub fn run(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    for events in plan.pick(RATES.0, RATES.1) {
        let case = format!("WRITE 64 KiB beside {events} MADV_DONTNEED of 4 KiB a second");
        let subject = Subject::new("storm", &case, "MiB/s").on("WRITE 64 KiB", *events);
        let mut rates = Vec::new();
        for (round, kind) in plan.turns(&KINDS) {
            let outcome = storm(&rig, kind, *events, plan.pick(TIME.0, TIME.1));
            let done = again(&outcome).map(|o| o.1);
            let subject = subject.in_unit("invalidations/s");
            subject.tell(kind.label(), round, done);
            rates.push((round, kind, outcome.map(|o| o.0)));
        }
        tell_of_pinned(&subject, &rates);
    }
    Ok(())
}

/// MiB/s, and invalidations that were really done a second.
fn storm(rig: &Rig, kind: Kind, events: usize, time: Duration) -> Result<(f64, f64)> {
    let map = small_pages(FIELD)?;
    touch(&map);
    let area = rig.area(kind, map)?;
    let source = rig.source(MESSAGE)?;
    let qp = rig.qp()?;
    write(&qp, &source, &area, 0)?;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let (written, spent) = thread::scope(|scope| {
        let invalidator = scope.spawn(|| invalidate(&area, events, &stop, &done));
        let start = Instant::now();
        let mut written = 0;
        let outcome = loop {
            if start.elapsed() >= time {
                break Ok(());
            }
            let off = written % FIELD;
            if let Err(why) = write(&qp, &source, &area, off) {
                break Err(why);
            }
            written += MESSAGE;
        };
        let spent = start.elapsed();
        stop.store(true, Relaxed);
        let ended = invalidator.join();
        outcome?;
        ended.map_err(|_| anyhow::anyhow!("the invalidating thread panicked"))??;
        anyhow::Ok((written, spent))
    })?;
    let achieved = done.load(Relaxed) as f64 / spent.as_secs_f64();
    Ok((rate(written, spent), achieved))
}

fn write(qp: &Qp, source: &Area, area: &Area, off: usize) -> Result<()> {
    let stream = Stream {
        qp,
        op: Op::Write,
        local: (source, 0),
        remote: (area, off),
        len: MESSAGE,
    };
    stream.once().map(drop)
}

/// Gives back a page after the other, `events` times a second.
fn invalidate(area: &Area, events: usize, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let start = Instant::now();
    let pace = Duration::from_secs(1) / events as u32;
    let mut count = 0u32;
    while !stop.load(Relaxed) {
        let off = (count as usize * 7 * PAGE) % FIELD;
        area.map
            .advise(off, PAGE, libc::MADV_DONTNEED)
            .context("MADV_DONTNEED")?;
        count += 1;
        done.store(u64::from(count), Relaxed);
        // The rate is what is measured, so this waits for the clock alone. A late one is made up for.
        while !stop.load(Relaxed) {
            let Some(early) = (pace * count).checked_sub(start.elapsed()) else {
                break;
            };
            thread::sleep(early.min(Duration::from_millis(20)));
        }
    }
    Ok(())
}
