//! Throughput and latency of traffic whose pages are resident and translated.

use anyhow::{Context as _, Result};
use emm_check::qp::{Op, Qp};
use emm_check::system::Kind;

use crate::facts::{Subject, median_of};
use crate::rig::{Area, KINDS, Rig, micros, small_pages};
use crate::traffic::Stream;

/// Rounds in which the kinds take turns.
const ROUNDS: usize = 5;
/// Sizes of throughput: label, bytes, operations of one round.
const SIZES: [(&str, usize, usize); 5] = [
    ("64 B", 64, 400),
    ("1 KiB", 1 << 10, 400),
    ("4 KiB", 4 << 10, 400),
    ("64 KiB", 64 << 10, 48),
    ("1 MiB", 1 << 20, 8),
];
const BIGGEST: usize = 1 << 20;
/// Operations of one round of latency.
const PINGS: usize = 200;

const OPS: [(&str, Op); 2] = [("WRITE", Op::Write), ("READ", Op::Read)];

/// One kind's queue pair and region; traffic goes from its first half to the second or back.
struct Side {
    qp: Qp,
    area: Area,
}

impl Side {
    fn new(rig: &Rig, kind: Kind) -> Result<Self> {
        let map = small_pages(2 * BIGGEST)?;
        map.fill(0, map.len(), 1, 0);
        Ok(Self {
            qp: rig.qp()?,
            area: rig.area(kind, map)?,
        })
    }

    fn stream(&self, op: Op, len: usize) -> Stream<'_> {
        Stream {
            qp: &self.qp,
            op,
            local: (&self.area, 0),
            remote: (&self.area, BIGGEST),
            len,
        }
    }
}

/// Throughput.
pub fn throughput() -> Result<()> {
    let rig = Rig::open()?;
    for (verb, op) in OPS {
        for (size, len, count) in SIZES {
            let subject = Subject {
                row: "throughput",
                case: &format!("{verb} {size}"),
                unit: "MiB/s",
            };
            let bytes = (count * len) as f64;
            compare(&rig, &subject, op, len, |side| {
                let time = side.stream(op, len).many(count)?;
                Ok(bytes / time.as_secs_f64() / f64::from(1 << 20))
            });
        }
    }
    Ok(())
}

/// Latency of 8 bytes.
pub fn latency() -> Result<()> {
    let rig = Rig::open()?;
    for (verb, op) in OPS {
        let subject = Subject {
            row: "latency",
            case: &format!("{verb} 8 B"),
            unit: "µs",
        };
        compare(&rig, &subject, op, 8, |side| {
            let stream = side.stream(op, 8);
            let times: Result<Vec<f64>> = (0..PINGS).map(|_| Ok(micros(stream.once()?))).collect();
            median_of(&times?)
        });
    }
    Ok(())
}

/// The median of `measure` in rounds in which the kinds take turns, each with a queue pair and a region of its own in each
/// round: where they lie in memory makes a difference that is not the kind's. How far the rounds lie apart is told too.
fn compare(
    rig: &Rig,
    subject: &Subject<'_>,
    op: Op,
    len: usize,
    measure: impl Fn(&Side) -> Result<f64>,
) {
    let round = |kind| -> Result<f64> {
        let side = Side::new(rig, kind)?;
        side.stream(op, len).once().context("warming up")?;
        measure(&side)
    };
    let mut values = KINDS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (kind, values) in KINDS.into_iter().zip(&mut values) {
            values.push(round(kind));
        }
    }
    for (kind, values) in KINDS.into_iter().zip(values) {
        let values: Result<Vec<f64>> = values.into_iter().collect();
        if let Ok(values) = &values {
            let unit = &format!("{}, spread", subject.unit);
            Subject { unit, ..*subject }.tell(kind.label(), spread(values));
        }
        subject.tell(kind.label(), values.and_then(|v| median_of(&v)));
    }
}

/// The distance between the least and the most.
fn spread(values: &[f64]) -> Result<f64> {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    most.zip(least)
        .map(|(most, least)| most - least)
        .context("nothing was measured")
}
