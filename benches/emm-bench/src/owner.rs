//! What a region does to its owner's accounts, and what comes back when the memory is given back.

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::system::vm_kib;

use crate::facts::Subject;
use crate::guest::Cgroup;
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Rig, small_pages, touch};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "owner";
const SIZE: usize = 32 << 20;
/// More than all that is charged.
const LIMIT: usize = 256 << 20;

const REGISTERED: &str = "32 MiB untouched, registered";
const GIVEN: &str = "32 MiB resident, registered, after MADV_DONTNEED";
const SUBJECTS: [Subject<'static>; 5] = [
    Subject::new(ROW, REGISTERED, "MiB VmPin"),
    Subject::new(ROW, REGISTERED, "MiB VmLck"),
    Subject::new(ROW, REGISTERED, "MiB VmRSS more"),
    Subject::new(ROW, REGISTERED, "MiB charged"),
    Subject::new(ROW, GIVEN, "MiB charged"),
];

/// Measures all kinds, and the same without a region.
pub fn all(plan: Plan) -> Result<()> {
    isolated::each(ROW, plan, &Who::ALL, &SUBJECTS)
}

/// Measures one kind.
pub fn one(plan: Plan, who: Who) -> Result<()> {
    for round in plan.rounds() {
        let rig = Rig::open()?;
        let group = Cgroup::new(&format!("{ROW}-{}-{round}", who.label()), LIMIT)?;
        group.take(std::process::id())?;
        let seen = registered(&rig, who, &group)?;
        let given = given_back(&rig, who, &group)?;
        for (subject, value) in SUBJECTS.iter().zip(seen.into_iter().chain([given])) {
            subject.tell(who.label(), round, Ok(value));
        }
    }
    Ok(())
}

/// Keeps a region over `map` while `work` looks.
fn with_region<T>(
    rig: &Rig,
    who: Who,
    map: Map,
    work: impl FnOnce(&Map) -> Result<T>,
) -> Result<T> {
    match who.kind() {
        None => work(&map),
        Some(kind) => {
            let area = rig.area(kind, map)?;
            work(&area.map)
        }
    }
}

fn registered(rig: &Rig, who: Who, group: &Cgroup) -> Result<[f64; 4]> {
    let mib = |field| vm_kib("self", field) as f64 / 1024.0;
    let (rss, charged) = (mib("VmRSS"), group.charged()?);
    with_region(rig, who, small_pages(SIZE)?, |_| {
        let more = group.charged()?.saturating_sub(charged);
        Ok([
            mib("VmPin"),
            mib("VmLck"),
            (mib("VmRSS") - rss).max(0.0),
            more as f64 / f64::from(1 << 20),
        ])
    })
}

fn given_back(rig: &Rig, who: Who, group: &Cgroup) -> Result<f64> {
    let charged = group.charged()?;
    let map = small_pages(SIZE)?;
    touch(&map);
    with_region(rig, who, map, |map| {
        map.advise(0, SIZE, libc::MADV_DONTNEED)
            .context("MADV_DONTNEED")?;
        Ok(group.charged()?.saturating_sub(charged) as f64 / f64::from(1 << 20))
    })
}
