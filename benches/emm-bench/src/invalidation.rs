//! What it costs to give memory back that a region has translated.

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::Op;

use crate::facts::Subject;
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Area, Rig, huge_pages, size, small_pages, timed, touch};
use crate::traffic::{CHUNK, cover};
use crate::who::{Kind, Who};

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

/// Milliseconds of MADV_DONTNEED on all of `map`, resident and translated for writing. Without a kind as many bytes go to other
/// memory, which is pinned, and no more than one message of it: packets come and go, and the page allocator's lists, where freed
/// pages go, are as full as with one. They alone make a difference of a fifth for huge pages; and as much memory again would
/// make one for small pages, in the other direction.
fn dontneed(rig: &Rig, who: Who, map: Map) -> Result<f64> {
    touch(&map);
    let give_back = |map: &Map| -> Result<f64> {
        let (done, time) = timed(|| map.advise(0, map.len(), libc::MADV_DONTNEED));
        done.context("MADV_DONTNEED")?;
        Ok(time.as_secs_f64() * 1e3)
    };
    let (qp, source) = (rig.qp()?, rig.source(CHUNK)?);
    let cover = |area: &Area| cover(&qp, Op::Write, &source, area);
    let Some(kind) = who.kind() else {
        let other = rig.area(Kind::Pinned, small_pages(CHUNK)?)?;
        let mut messages = (0..map.len()).step_by(CHUNK);
        messages.try_for_each(|_| cover(&other))?;
        return give_back(&map);
    };
    let area = rig.area(kind, map)?;
    cover(&area)?;
    give_back(&area.map)
}
