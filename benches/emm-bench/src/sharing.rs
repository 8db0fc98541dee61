//! Several queue pairs at once, on one region or on one each.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use emm_check::qp::{Op, Qp};

use crate::facts::{Subject, again};
use crate::hot::rate;
use crate::plan::Plan;
use crate::rig::{Area, Rig, size, small_pages, timed};
use crate::traffic::Stream;
use crate::who::{KINDS, Kind};

/// Queue pairs of the target's row.
const SHARED: usize = 8;
/// Sizes: bytes, and operations of one queue pair in one turn (quick, full).
const SIZES: [(usize, (usize, usize)); 2] = [(4 << 10, (250, 1000)), (64 << 10, (25, 100))];
/// Turns of each kind in a round, each time another one first.
const TURNS: usize = 3;
/// Numbers of queue pairs: quick, full.
const QPS: (&[usize], &[usize]) = (&[1, 4, 16], &[1, 2, 4, 8, 16]);
/// What is done with them, on one region or on one each; the first two quick.
const CURVES: [(&str, Op, &str, bool); 4] = [
    ("WRITE", Op::Write, "on one MR", true),
    ("WRITE", Op::Write, "on own MRs", false),
    ("READ", Op::Read, "on one MR", true),
    ("SEND", Op::Send, "on one MR", true),
];
/// Operations of all queue pairs together in one turn of the rows about their number: quick, full.
const TOGETHER: (usize, usize) = (800, 4800);
const BIGGEST: usize = 64 << 10;

/// One kind's queue pairs and what they have registered.
struct Side {
    qps: Vec<Qp>,
    /// One for all, or one each.
    areas: Vec<Area>,
}

impl Side {
    fn new(rig: &Rig, kind: Kind, count: usize, shared: bool) -> Result<Self> {
        let (regions, each) = if shared { (1, count) } else { (count, 1) };
        let area = |_| {
            let map = small_pages(2 * each * BIGGEST)?;
            map.set(0, map.len(), 1);
            rig.area(kind, map)
        };
        Ok(Self {
            qps: (0..count).map(|_| rig.qp()).collect::<Result<_>>()?,
            areas: (0..regions).map(area).collect::<Result<_>>()?,
        })
    }

    /// All queue pairs at once; the rate of all together in MiB/s.
    fn turn(&self, op: Op, len: usize, count: usize) -> Result<f64> {
        let start = Barrier::new(self.qps.len() + 1);
        let (done, time) = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.qps.len())
                .map(|at| {
                    let stream = self.stream(at, op, len);
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        stream.many(count)
                    })
                })
                .collect();
            start.wait();
            timed(|| {
                workers.into_iter().try_for_each(|w| {
                    w.join()
                        .map_err(|_| anyhow!("a thread panicked"))?
                        .map(drop)
                })
            })
        });
        done?;
        Ok(rate(self.qps.len() * count * len, time))
    }

    fn stream(&self, at: usize, op: Op, len: usize) -> Stream<'_> {
        let (area, place, places) = match &self.areas[..] {
            [shared] => (shared, at, self.qps.len()),
            own => (&own[at], 0, 1),
        };
        Stream {
            qp: &self.qps[at],
            op,
            local: (area, place * BIGGEST),
            remote: (area, (places + place) * BIGGEST),
            len,
        }
    }
}

/// Eight queue pairs on one region, with all sizes.
pub fn run(plan: Plan) -> Result<()> {
    let cpus = thread::available_parallelism().context("counting CPUs")?;
    let rig = Rig::open()?;
    for (len, counts) in SIZES {
        let count = plan.pick(counts.0, counts.1);
        let case = format!("{SHARED} QPs, WRITE {}, {cpus} CPUs", size(len));
        for round in plan.rounds() {
            let rates = round_of(&sides(&rig, SHARED, true)?, Op::Write, len, count)?;
            tell(&Subject::new("sharing", &case, "MiB/s"), round, &rates);
        }
    }
    Ok(())
}

/// Throughput against the number of queue pairs.
pub fn qps(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let len = SIZES[0].0;
    for (verb, op, on, shared) in CURVES.into_iter().take(plan.pick(2, CURVES.len())) {
        let series = format!("{verb} {on}");
        for qps in plan.pick(QPS.0, QPS.1) {
            let count = plan.pick(TOGETHER.0, TOGETHER.1) / qps;
            let case = format!("{qps} QPs {on}, {verb} {}", size(len));
            for round in plan.rounds() {
                let rates = round_of(&sides(&rig, *qps, shared)?, op, len, count)?;
                let subject = Subject::new("qps", &case, "MiB/s").on(&series, *qps);
                tell(&subject, round, &rates);
            }
        }
    }
    Ok(())
}

fn sides(rig: &Rig, qps: usize, shared: bool) -> Result<Vec<Side>> {
    KINDS
        .into_iter()
        .map(|kind| Side::new(rig, kind, qps, shared))
        .collect()
}

/// The rates of each side in one round. Its sides are made for it: where they lie in memory makes a difference that is not the
/// kind's.
fn round_of(sides: &[Side], op: Op, len: usize, count: usize) -> Result<Vec<Result<Vec<f64>>>> {
    sides
        .iter()
        .try_for_each(|side| side.turn(op, len, count / 10 + 1).map(drop))
        .context("warming up")?;
    let mut rates: Vec<Result<Vec<f64>>> = sides.iter().map(|_| Ok(Vec::new())).collect();
    for turn in 0..TURNS {
        for offset in 0..sides.len() {
            let at = (turn + offset) % sides.len();
            if let Ok(list) = &mut rates[at] {
                match sides[at].turn(op, len, count) {
                    Ok(rate) => list.push(rate),
                    Err(why) => rates[at] = Err(why),
                }
            }
        }
    }
    Ok(rates)
}

/// The rates, and each one's ratio to the pinned one of the same turn: what disturbs a turn disturbs all in it.
fn tell(subject: &Subject<'_>, round: u32, rates: &[Result<Vec<f64>>]) {
    for (kind, own) in KINDS.into_iter().zip(rates) {
        subject.tell_all(kind.label(), round, again(own).cloned());
        let ratios = again(own).and_then(|own| {
            let pinned = again(&rates[0])?;
            Ok(own.iter().zip(pinned).map(|(o, p)| o / p).collect())
        });
        subject
            .in_unit("of pinned")
            .tell_all(kind.label(), round, ratios);
    }
}
