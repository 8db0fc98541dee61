//! What it costs to give memory back that a region has translated.

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::Op;

use crate::facts::Subject;
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Rig, huge_pages, size, small_pages, timed, touch};
use crate::traffic::{CHUNK, cover, elsewhere};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "invalidation";
/// Bytes: quick, full.
const SIZE: (usize, usize) = (16 << 20, 256 << 20);

/// A case: the end of its name, and its memory.
type Case = (&'static str, fn(usize) -> Result<Map>);
const CASES: [Case; 2] = [("4 KiB pages", small_pages), ("THP", huge_pages)];

fn names(plan: Plan) -> [String; 2] {
    let len = size(plan.pick(SIZE.0, SIZE.1));
    CASES.map(|(pages, _)| format!("MADV_DONTNEED of {len}, {pages}"))
}

fn subject(case: &str) -> Subject<'_> {
    Subject::new(ROW, case, "ms")
}

/// Measures all kinds, without a region first.
pub fn all(plan: Plan) -> Result<()> {
    let names = names(plan);
    let subjects = names.each_ref().map(|name| subject(name));
    isolated::each(ROW, plan, &Who::ALL, &subjects)
}

/// Measures one kind.
pub fn one(plan: Plan, who: Who) -> Result<()> {
    let rig = Rig::open()?;
    let len = plan.pick(SIZE.0, SIZE.1);
    for (name, (_, map)) in names(plan).iter().zip(CASES) {
        for round in plan.rounds() {
            let time = map(len).and_then(|map| dontneed(&rig, who, map));
            subject(name).tell(who.label(), round, time);
        }
    }
    Ok(())
}

/// Milliseconds of MADV_DONTNEED on all of `map`, resident and translated for writing, or after as much traffic [`elsewhere`].
fn dontneed(rig: &Rig, who: Who, map: Map) -> Result<f64> {
    touch(&map);
    let give_back = |map: &Map| -> Result<f64> {
        let (done, time) = timed(|| map.advise(0, map.len(), libc::MADV_DONTNEED));
        done.context("MADV_DONTNEED")?;
        Ok(time.as_secs_f64() * 1e3)
    };
    let (qp, source) = (rig.qp()?, rig.source(CHUNK)?);
    let Some(kind) = who.kind() else {
        elsewhere(rig, &qp, &source, map.len())?;
        return give_back(&map);
    };
    let area = rig.area(kind, map)?;
    cover(&qp, Op::Write, &source, &area)?;
    give_back(&area.map)
}
