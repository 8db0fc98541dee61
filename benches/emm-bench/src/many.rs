//! A hundred thousand regions: what each costs, and what they cost a munmap that none of them is concerned with.

use anyhow::{Context as _, Result};
use emm_check::mem::{Map, PAGE};
use emm_check::system::Kind;
use emm_check::verbs::Mr;

use crate::facts::{Subject, median_of};
use crate::isolated;
use crate::rig::{Rig, micros, small_pages, timed, touch};
use crate::who::Who;

/// The name of the row about registration.
pub const MANY: &str = "many";
/// The name of the row about munmap.
pub const MUNMAP: &str = "munmap";
const REGIONS: usize = 100_000;
/// Times that an unrelated page is unmapped.
const UNMAPS: usize = 500;

const REGISTER: Subject<'static> = Subject {
    row: MANY,
    case: "register, each of 100000 of 4 KiB",
    unit: "µs",
};
const DEREGISTER: Subject<'static> = Subject {
    row: MANY,
    case: "deregister, each of 100000 of 4 KiB",
    unit: "µs",
};
const UNRELATED: Subject<'static> = Subject {
    row: MUNMAP,
    case: "munmap of a page beside 100000 regions",
    unit: "µs",
};

/// Registers and deregisters, with each kind.
pub fn all() -> Result<()> {
    let whos = [Who::Pinned, Who::Odp, Who::Emm];
    isolated::each(MANY, &whos, &[REGISTER, DEREGISTER])
}

/// The same with one kind.
pub fn one(who: Who) -> Result<()> {
    let rig = Rig::open()?;
    let kind = who.kind().context("this row is about regions")?;
    let field = small_pages(REGIONS * PAGE)?;
    let (regions, time) = timed(|| register(&rig, kind, &field));
    let regions = regions?;
    REGISTER.tell(who.label(), Ok(micros(time) / REGIONS as f64));
    let ((), time) = timed(|| drop(regions));
    DEREGISTER.tell(who.label(), Ok(micros(time) / REGIONS as f64));
    Ok(())
}

/// Unmaps a page beside many regions, with each kind, and first without any.
pub fn munmap_all() -> Result<()> {
    let whos = [Who::None, Who::Pinned, Who::Odp, Who::Emm];
    isolated::each(MUNMAP, &whos, &[UNRELATED])
}

/// The same with one kind.
pub fn munmap_one(who: Who) -> Result<()> {
    let rig = Rig::open()?;
    let field = small_pages(REGIONS * PAGE)?;
    let _regions = match who.kind() {
        Some(kind) => register(&rig, kind, &field)?,
        None => Vec::new(),
    };
    UNRELATED.tell(who.label(), unmap());
    Ok(())
}

/// A region for each page of `field`.
fn register(rig: &Rig, kind: Kind, field: &Map) -> Result<Vec<Mr>> {
    kind.select(false)?;
    let mut regions = Vec::with_capacity(REGIONS);
    for off in (0..field.len()).step_by(PAGE) {
        let region = rig
            .register(kind, field.addr() + off, PAGE)
            .with_context(|| format!("registering region {}", regions.len()))?;
        regions.push(region);
    }
    Ok(regions)
}

/// Microseconds to unmap a touched page.
fn unmap() -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..UNMAPS {
        let map = small_pages(PAGE)?;
        touch(&map);
        let ((), time) = timed(|| drop(map));
        times.push(micros(time));
    }
    median_of(&times)
}
