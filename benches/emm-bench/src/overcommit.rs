//! A region that is four times what its owner may have in memory: written whole by RDMA, read back whole, every byte compared.

use anyhow::{Context as _, Result};
use emm_check::mem::Wrong;
use emm_check::qp::Op;
use emm_check::system::ensure_swap;

use crate::facts::Subject;
use crate::guest::Cgroup;
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Rig, size, small_pages, timed};
use crate::traffic::{CHUNK, Stream};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "overcommit";
/// The owner's limit in bytes, a quarter of the region: quick, full.
const LIMIT: (usize, usize) = (8 << 20, 32 << 20);
const SEED: u64 = 7;

const UNITS: [&str; 2] = ["wrong bytes", "s"];

fn case(plan: Plan) -> String {
    let limit = plan.pick(LIMIT.0, LIMIT.1);
    format!("{} in {}, through zram", size(4 * limit), size(limit))
}

/// Measures all kinds.
pub fn all(plan: Plan) -> Result<()> {
    let case = case(plan);
    let subjects = UNITS.map(|unit| Subject::new(ROW, &case, unit));
    isolated::each(ROW, plan, &Who::REGIONS, &subjects)
}

/// Measures one kind.
pub fn one(plan: Plan, who: Who) -> Result<()> {
    let case = case(plan);
    for round in plan.rounds() {
        let (wrong, seconds) = write_and_read(who, plan.pick(LIMIT.0, LIMIT.1))?;
        for (unit, value) in UNITS.into_iter().zip([wrong, seconds]) {
            Subject::new(ROW, &case, unit).tell(who.label(), round, Ok(value));
        }
    }
    Ok(())
}

/// Wrong bytes, and seconds.
fn write_and_read(who: Who, limit: usize) -> Result<(f64, f64)> {
    let size = 4 * limit;
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
    let (wrong, time) = timed(|| {
        for off in (0..size).step_by(CHUNK) {
            bounce.map.fill(0, CHUNK, SEED, off);
            stream(Op::Write, off).once()?;
        }
        let mut wrong = Wrong::default();
        for off in (0..size).step_by(CHUNK) {
            bounce.map.set(0, CHUNK, 0);
            stream(Op::Read, off).once()?;
            wrong.add(bounce.map.check(0, CHUNK, SEED, off));
        }
        anyhow::Ok(wrong.count)
    });
    Ok((wrong? as f64, time.as_secs_f64()))
}
