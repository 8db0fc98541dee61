//! What it costs to give memory back that a region has translated.

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::Op;

use crate::facts::Subject;
use crate::isolated;
use crate::rig::{Rig, huge_pages, small_pages, timed, touch};
use crate::traffic::{CHUNK, cover};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "invalidation";
const SIZE: usize = 256 << 20;

/// A case: its name and its memory.
type Case = (&'static str, fn(usize) -> Result<Map>);
const CASES: [Case; 2] = [
    ("MADV_DONTNEED of 256 MiB, 4 KiB pages", small_pages),
    ("MADV_DONTNEED of 256 MiB, THP", huge_pages),
];

fn subjects() -> [Subject<'static>; 2] {
    CASES.map(|(case, _)| Subject {
        row: ROW,
        case,
        unit: "ms",
    })
}

/// Measures all kinds, without a region first.
pub fn all() -> Result<()> {
    let whos = [Who::None, Who::Pinned, Who::Odp, Who::Emm];
    isolated::each(ROW, &whos, &subjects())
}

/// Measures one kind.
pub fn one(who: Who) -> Result<()> {
    let rig = Rig::open()?;
    for (subject, (_, map)) in subjects().iter().zip(CASES) {
        let time = map(SIZE).and_then(|map| dontneed(&rig, who, map));
        subject.tell(who.label(), time);
    }
    Ok(())
}

/// Milliseconds of MADV_DONTNEED on all of `map`, resident and translated for writing.
fn dontneed(rig: &Rig, who: Who, map: Map) -> Result<f64> {
    touch(&map);
    let give_back = |map: &Map| -> Result<f64> {
        let (done, time) = timed(|| map.advise(0, SIZE, libc::MADV_DONTNEED));
        done.context("MADV_DONTNEED")?;
        Ok(time.as_secs_f64() * 1e3)
    };
    let Some(kind) = who.kind() else {
        return give_back(&map);
    };
    let area = rig.area(kind, map)?;
    cover(&rig.qp()?, Op::Write, &rig.source(CHUNK)?, &area)?;
    give_back(&area.map)
}
