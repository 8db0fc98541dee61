//! Throughput and latency of traffic whose pages are resident and translated.
//!
//! On one CPU the scheduler chooses whether the driver's responder and its completer take turns or one of them runs through
//! first, and whether each operation wakes its waiter or a dozen do: READs of 1 MiB take 6.6 or 8.2 ms by that, 200 WRITEs of
//! 64 B switch 40 or 600 times, whatever the kind of region, and a choice can last while the queue doesn't run empty. So
//! everything starts from rest, often, and a round's value is the mean.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::{Op, Qp};

use crate::facts::{Subject, again};
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
const PINGS: (&[usize], &[usize]) = (&[8], &[2, 8, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 4 << 20]);
/// Operations of one round of latency: a timer's tick meets a few of a hundred, and costs each a tenth. Fewer if they have more
/// bytes, and no percentile of fewer than a hundred.
const PINGED: (usize, usize) = (4, 300);
const PERCENT: usize = 100;
/// The least that is mapped for one side: what is smaller shares pages otherwise.
const LEAST: usize = 64 << 10;
/// An atomic operation's bytes.
const ATOM: usize = 8;

/// What is streamed; the first two quick: no target is about the third.
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

/// What one burst has at most, in bytes and in operations; two of these at least.
const BURST: (usize, usize) = (1 << 20, 64);
/// Bursts of one round of throughput, enough for the mean of what the scheduler may choose; fewer if they have more bytes. Small
/// operations are chosen for one by one, and need twice as many.
const BURSTS: (usize, usize) = (4, 12);
const BYTES: usize = 24 << 20;
/// Bursts before the first that counts.
const WARM: usize = 4;
/// How long traffic rests before a burst and before a ping: what it left behind for the kernel's workers is done by then.
const REST: Duration = Duration::from_millis(1);

/// Bursts of one round, and the operations of each.
fn bursts(len: usize) -> (usize, usize) {
    let count = (BURST.0 / len).clamp(2, BURST.1);
    let most = if count == BURST.1 {
        2 * BURSTS.1
    } else {
        BURSTS.1
    };
    ((BYTES / (count * len)).clamp(BURSTS.0, most), count)
}

/// Throughput. Beside it, what copying the same bytes by the CPU comes to.
pub fn throughput(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    warm_up(&rig)?;
    let stream = |verb, op, len: usize| {
        let (bursts, count) = bursts(len);
        let case = format!("{verb} {}", size(len));
        let subject = Subject::new("throughput", &case, "MiB/s").on(verb, len);
        for round in plan.rounds() {
            subject.tell("none", round, copied(len, bursts * count));
        }
        compare(&rig, plan, (op, len), |kind, round, side| {
            let rate = side.and_then(|side| rested(&side.stream(op, len), bursts, count));
            subject.tell(kind.label(), round, rate);
        });
    };
    for (verb, op) in STREAMS.into_iter().take(plan.pick(2, STREAMS.len())) {
        for len in plan.pick(SIZES.0, SIZES.1) {
            stream(verb, op, *len);
        }
    }
    // Not for a first look: they have one size.
    for (verb, op) in ATOMICS.into_iter().take(plan.pick(0, ATOMICS.len())) {
        stream(verb, op, ATOM);
    }
    Ok(())
}

/// The guest's first bursts take twice as long, whoever they are of.
fn warm_up(rig: &Rig) -> Result<()> {
    let first = Side::new(rig, Kind::Pinned, SIZES.0[0])?;
    rested(&first.stream(Op::Write, SIZES.0[0]), WARM, BURST.1).context("warming up")?;
    Ok(())
}

/// MiB/s of bursts, each from rest.
fn rested(stream: &Stream<'_>, bursts: usize, count: usize) -> Result<f64> {
    let mut time = Duration::ZERO;
    for _ in 0..bursts {
        sleep(REST);
        time += stream.many(count)?;
    }
    Ok(rate(bursts * count * stream.len, time))
}

/// Latency of one operation at a time.
pub fn latency(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    warm_up(&rig)?;
    let pings = |verb, op, len: usize| {
        let case = format!("{verb} {}", size(len));
        let mean = Subject::new("latency", &case, "µs").on(verb, len);
        let p99 = mean.in_unit("µs, p99");
        compare(&rig, plan, (op, len), |kind, round, side| {
            let count = (BYTES / len).clamp(PINGED.0, PINGED.1);
            let times = side.and_then(|side| pinging(&side.stream(op, len), count));
            let of = |value: fn(&[f64]) -> f64| again(&times).map(|times| value(times));
            mean.tell(
                kind.label(),
                round,
                of(|times| times.iter().sum::<f64>() / times.len() as f64),
            );
            if count >= PERCENT {
                p99.tell(
                    kind.label(),
                    round,
                    of(|times| times[(times.len() * 99).div_ceil(100) - 1]),
                );
            }
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

/// Microseconds of `count` operations, each from rest, the shortest first.
fn pinging(stream: &Stream<'_>, count: usize) -> Result<Vec<f64>> {
    let ping = |_| {
        sleep(REST);
        Ok(micros(stream.once()?))
    };
    let mut times = (0..count).map(ping).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Gives `measure` each kind's queue pair and region, in rounds in which the kinds take turns. They are made anew for each
/// round: where they lie in memory makes a difference that is not the kind's.
fn compare(
    rig: &Rig,
    plan: Plan,
    (op, len): (Op, usize),
    measure: impl Fn(Kind, u32, Result<Side>),
) {
    for (round, kind) in plan.turns(&KINDS) {
        let side = Side::new(rig, kind, len).and_then(|side| {
            side.stream(op, len).once().context("warming up")?;
            Ok(side)
        });
        measure(kind, round, side);
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
pub fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / f64::from(1 << 20)
}
