//! Many queue pairs at once on one region.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use emm_check::qp::{Op, Qp};
use emm_check::system::Kind;

use crate::facts::{Subject, median_of};
use crate::rig::{Area, KINDS, Rig, small_pages, timed};
use crate::traffic::Stream;

const QPS: usize = 8;
/// Rounds in which the kinds take turns, each time another one first.
const ROUNDS: usize = 15;
/// Sizes: label, bytes, operations of one queue pair in one round.
const SIZES: [(&str, usize, usize); 2] = [("4 KiB", 4 << 10, 1000), ("64 KiB", 64 << 10, 100)];
const BIGGEST: usize = 64 << 10;

struct Side {
    kind: Kind,
    qps: Vec<Qp>,
    area: Area,
    rates: Vec<f64>,
}

impl Side {
    fn new(rig: &Rig, kind: Kind) -> Result<Self> {
        let map = small_pages(2 * QPS * BIGGEST)?;
        map.fill(0, map.len(), 1, 0);
        Ok(Self {
            kind,
            qps: (0..QPS).map(|_| rig.qp()).collect::<Result<_>>()?,
            area: rig.area(kind, map)?,
            rates: Vec::new(),
        })
    }

    /// All queue pairs at once; the rate of all together in MiB/s.
    fn round(&self, len: usize, count: usize) -> Result<f64> {
        let start = Barrier::new(QPS + 1);
        let (done, time) = thread::scope(|scope| {
            let workers: Vec<_> = (0..QPS)
                .map(|at| {
                    let stream = self.stream(at, len);
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
        Ok((QPS * count * len) as f64 / time.as_secs_f64() / f64::from(1 << 20))
    }

    fn stream(&self, at: usize, len: usize) -> Stream<'_> {
        Stream {
            qp: &self.qps[at],
            op: Op::Write,
            local: (&self.area, at * BIGGEST),
            remote: (&self.area, (QPS + at) * BIGGEST),
            len,
        }
    }
}

/// Measures all sizes.
pub fn run() -> Result<()> {
    let cpus = thread::available_parallelism().context("counting CPUs")?;
    let rig = Rig::open()?;
    for (size, len, count) in SIZES {
        let case = format!("{QPS} QPs, WRITE {size}, {cpus} CPUs");
        let mut sides = KINDS
            .into_iter()
            .map(|kind| Side::new(&rig, kind))
            .collect::<Result<Vec<_>>>()?;
        for side in &sides {
            side.round(len, count / 10).context("warming up")?;
        }
        for round in 0..ROUNDS {
            for turn in 0..sides.len() {
                let at = (round + turn) % sides.len();
                let rate = sides[at].round(len, count)?;
                sides[at].rates.push(rate);
            }
        }
        tell(&case, &sides)?;
    }
    Ok(())
}

/// The rates, and the median of each round's ratio to the pinned one: what disturbs a round disturbs all in it.
fn tell(case: &str, sides: &[Side]) -> Result<()> {
    let subject = |unit| Subject {
        row: "sharing",
        case,
        unit,
    };
    let pinned = sides
        .iter()
        .find(|side| side.kind == Kind::Pinned)
        .context("the pinned region is compared with")?;
    for side in sides {
        let label = side.kind.label();
        subject("MiB/s").tell(label, median_of(&side.rates));
        let ratios: Vec<f64> = side
            .rates
            .iter()
            .zip(&pinned.rates)
            .map(|(own, reference)| own / reference)
            .collect();
        subject("of pinned").tell(label, median_of(&ratios));
    }
    Ok(())
}
