//! Throughput and latency of traffic whose pages are resident and translated.

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::{Op, Qp};

use crate::facts::Subject;
use crate::plan::Plan;
use crate::rig::{Area, Rig, micros, size, small_pages, timed};
use crate::traffic::Stream;
use crate::who::{KINDS, Kind};

/// Sizes of throughput: quick, full.
const SIZES: (&[usize], &[usize]) = (
    &[64, 4 << 10, 64 << 10, 1 << 20],
    &[2, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 4 << 20],
);
/// Sizes of latency: quick, full.
const PINGS: (&[usize], &[usize]) = (&[8], &[2, 8, 1 << 10, 4 << 10, 64 << 10]);
/// Operations of one round of latency: quick, full.
const PINGED: (usize, usize) = (100, 300);
/// The least that is mapped for one side: what is smaller shares pages otherwise.
const LEAST: usize = 64 << 10;
/// An atomic operation's bytes.
const ATOM: usize = 8;

const STREAMS: [(&str, Op); 3] = [("WRITE", Op::Write), ("READ", Op::Read), ("SEND", Op::Send)];
const ATOMICS: [(&str, Op); 2] = [
    ("FETCH_ADD", Op::FetchAdd(1)),
    ("CMP_SWP", Op::CmpSwp(0, 1)),
];

/// One kind's queue pair and region; traffic goes from its first half to the second or back.
struct Side {
    qp: Qp,
    area: Area,
    half: usize,
}

impl Side {
    fn new(rig: &Rig, kind: Kind, len: usize) -> Result<Self> {
        let half = len.max(LEAST);
        let map = small_pages(2 * half)?;
        map.set(0, map.len(), 1);
        Ok(Self {
            qp: rig.qp()?,
            area: rig.area(kind, map)?,
            half,
        })
    }

    fn stream(&self, op: Op, len: usize) -> Stream<'_> {
        Stream {
            qp: &self.qp,
            op,
            local: (&self.area, 0),
            remote: (&self.area, self.half),
            len,
        }
    }
}

/// Operations of one round of throughput: enough that a tick or a kworker in between is lost in them (50 ms and more; rounds
/// of 400 small or 8 big ones lay up to a tenth apart), few enough to be over soon.
fn count(plan: Plan, len: usize) -> usize {
    let bytes = plan.pick(2 << 20, 24 << 20);
    (bytes / len).clamp(2, plan.pick(200, 2000))
}

/// Throughput. Beside it, what copying the same bytes by the CPU comes to.
pub fn throughput(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    for (verb, op) in STREAMS {
        for len in plan.pick(SIZES.0, SIZES.1) {
            let count = count(plan, *len);
            let case = format!("{verb} {}", size(*len));
            let subject = Subject::new("throughput", &case, "MiB/s").on(verb, *len);
            for round in plan.rounds() {
                subject.tell("none", round, copied(*len, count));
            }
            compare(&rig, plan, &subject, (op, *len), |side| {
                let time = side.stream(op, *len).many(count)?;
                Ok(vec![rate(count * len, time)])
            });
        }
    }
    Ok(())
}

/// Latency of one operation at a time.
pub fn latency(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let pinged = plan.pick(PINGED.0, PINGED.1);
    let pings = |verb, op, len: usize| {
        let case = format!("{verb} {}", size(len));
        let subject = Subject::new("latency", &case, "µs").on(verb, len);
        compare(&rig, plan, &subject, (op, len), |side| {
            let stream = side.stream(op, len);
            (0..pinged).map(|_| Ok(micros(stream.once()?))).collect()
        });
    };
    for (verb, op) in STREAMS {
        for len in plan.pick(PINGS.0, PINGS.1) {
            pings(verb, op, *len);
        }
    }
    for (verb, op) in ATOMICS {
        pings(verb, op, ATOM);
    }
    Ok(())
}

/// What `measure` gives in rounds in which the kinds take turns, each with a queue pair and a region of its own in each
/// round: where they lie in memory makes a difference that is not the kind's.
fn compare(
    rig: &Rig,
    plan: Plan,
    subject: &Subject<'_>,
    (op, len): (Op, usize),
    measure: impl Fn(&Side) -> Result<Vec<f64>>,
) {
    for (round, kind) in plan.turns(&KINDS) {
        let outcome = Side::new(rig, kind, len).and_then(|side| {
            side.stream(op, len).once().context("warming up")?;
            measure(&side)
        });
        subject.tell_all(kind.label(), round, outcome);
    }
}

/// MiB/s of `count` copies by the CPU.
fn copied(len: usize, count: usize) -> Result<f64> {
    let (from, to): (Map, Map) = (small_pages(len.max(LEAST))?, small_pages(len.max(LEAST))?);
    from.set(0, from.len(), 1);
    to.set(0, to.len(), 1);
    let mut bytes = vec![0; len];
    from.read(0, &mut bytes);
    let ((), time) = timed(|| {
        for _ in 0..count {
            to.write(0, &bytes);
        }
    });
    Ok(rate(count * len, time))
}

/// MiB/s.
pub fn rate(bytes: usize, time: std::time::Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / f64::from(1 << 20)
}
