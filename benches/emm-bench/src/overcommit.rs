//! A region that is four times what its owner may have in memory: written whole by RDMA, read back whole, every byte compared.

use std::time::Duration;

use anyhow::{Context as _, Result};
use emm_check::mem::Wrong;
use emm_check::qp::Op;
use emm_check::swap::ensure_swap;

use crate::facts::Subject;
use crate::guest::Cgroup;
use crate::hot::rate;
use crate::isolated::{self, Case};
use crate::plan::Plan;
use crate::rig::{Rig, size, small_pages};
use crate::traffic::{CHUNK, Stream};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "overcommit";
/// The owner's limit in bytes, quick, full.
const LIMIT: (usize, usize) = (4 << 20, 16 << 20);
/// How many times that the region is: quick, full. The target is about four times. The biggest comes first: after it, rounds of the
/// smallest one differ as much in a run as between two. Begun with, they agree too well in each run, and two runs lie apart.
const TIMES: (&[usize], &[usize]) = (&[4, 1], &[8, 4, 2, 1]);
/// Rounds of a region that just fits, for each of a bigger one: an explicit one has 58 or 77 MiB/s, why is not known.
const ROUNDS_OF_FITTING: (u32, u32) = (1, 4);
const SEED: u64 = 7;

const UNITS: [&str; 2] = ["wrong bytes", "MiB/s"];

fn case(limit: usize, times: usize) -> String {
    format!("{} in {}, through zram", size(times * limit), size(limit))
}

/// Measures all kinds.
pub fn all(plan: Plan) -> Result<()> {
    let limit = plan.pick(LIMIT.0, LIMIT.1);
    let times = plan.pick(TIMES.0, TIMES.1);
    let names: Vec<String> = times.iter().map(|times| case(limit, *times)).collect();
    let cases: Vec<Case<'_>> = times
        .iter()
        .zip(&names)
        .map(|(times, name)| Case {
            subjects: UNITS.map(|unit| Subject::new(ROW, name, unit)).to_vec(),
            rounds: match times {
                1 => plan.pick(ROUNDS_OF_FITTING.0, ROUNDS_OF_FITTING.1),
                _ => 1,
            },
        })
        .collect();
    isolated::each_case(ROW, plan, &Who::REGIONS, &cases)
}

/// Measures one kind in the case `number`.
pub fn one(plan: Plan, who: Who, number: usize) -> Result<()> {
    let limit = plan.pick(LIMIT.0, LIMIT.1);
    let times = *plan
        .pick(TIMES.0, TIMES.1)
        .get(number)
        .with_context(|| format!("there is no case {number}"))?;
    for round in plan.rounds() {
        let seen = write_and_read(who, limit, times * limit)?;
        for (unit, value) in UNITS.into_iter().zip(seen) {
            Subject::new(ROW, &case(limit, times), unit)
                .on("written and read back", times)
                .tell(who.label(), round, Ok(value));
        }
    }
    Ok(())
}

/// Wrong bytes, and MiB/s of both directions together, without the CPU's filling and comparing.
fn write_and_read(who: Who, limit: usize, size: usize) -> Result<[f64; 2]> {
    let kind = who.kind().context("this row is about regions")?;
    let rig = Rig::open()?;
    let bounce = rig.source(CHUNK)?;
    ensure_swap()?;
    let group = Cgroup::new(&format!("{ROW}-{}", who.label()), limit)?;
    group.take(std::process::id())?;
    let area = rig.area(kind, small_pages(size)?)?;
    let qp = rig.qp()?;
    let stream = |op, off| Stream {
        qp: &qp,
        op,
        local: (&bounce, 0),
        remote: (&area, off),
        len: CHUNK,
    };
    let mut time = Duration::ZERO;
    for off in (0..size).step_by(CHUNK) {
        bounce.map.fill(0, CHUNK, SEED, off);
        time += stream(Op::Write, off).once()?;
    }
    let mut wrong = Wrong::default();
    for off in (0..size).step_by(CHUNK) {
        bounce.map.set(0, CHUNK, 0);
        time += stream(Op::Read, off).once()?;
        wrong.add(bounce.map.check(0, CHUNK, SEED, off));
    }
    Ok([wrong.count as f64, rate(2 * size, time)])
}
