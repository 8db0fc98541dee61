//! What a registration and its end cost, against the length.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use emm_check::mem::{Map, PAGE};

use crate::facts::{Subject, again};
use crate::plan::Plan;
use crate::rig::{Rig, huge_pages, micros, size, small_pages, timed, touch};
use crate::who::{KINDS, Kind};

/// Registrations of one case are repeated so often in a round at most (quick, full) …
const REPEATS: (usize, usize) = (7, 20);
/// … until they have taken so long.
const ENOUGH: Duration = Duration::from_millis(60);
/// Lengths of memory that is really there, at most.
const LENGTHS: (&[usize], &[usize]) = (
    &[PAGE, 2 << 20, 32 << 20],
    &[PAGE, 64 << 10, 2 << 20, 16 << 20, 256 << 20],
);
/// Lengths of address space.
const RESERVED: (&[usize], &[usize]) =
    (&[64 << 30, 1 << 40], &[1 << 30, 8 << 30, 64 << 30, 1 << 40]);

/// Memory that is registered.
#[derive(Clone, Copy)]
enum Memory {
    /// Never touched.
    Untouched,
    /// Touched, in pages of 4 KiB.
    Resident,
    /// Touched, in transparent huge pages.
    Huge,
    /// Address space without memory behind it.
    Reserved,
    /// All that the process has or will have.
    Implicit,
}

impl Memory {
    fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Resident => "resident",
            Self::Huge => "resident, THP",
            Self::Reserved => "reserved",
            Self::Implicit => "implicit",
        }
    }

    fn map(self, len: usize) -> Result<Option<Map>> {
        let map = match self {
            Self::Untouched => small_pages(len)?,
            Self::Resident | Self::Huge => {
                let map = if matches!(self, Self::Huge) {
                    huge_pages(len)?
                } else {
                    small_pages(len)?
                };
                touch(&map);
                map
            }
            Self::Reserved => Map::with(0, len, libc::PROT_NONE, libc::MAP_NORESERVE, -1)?,
            Self::Implicit => return Ok(None),
        };
        Ok(Some(map))
    }
}

/// Measures all cases.
pub fn run(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    // The first on-demand region of a process sets its notifier up.
    let _warm = KINDS.map(|kind| small_pages(PAGE).and_then(|map| rig.area(kind, map)));
    for memory in [Memory::Untouched, Memory::Resident] {
        for len in plan.pick(LENGTHS.0, LENGTHS.1) {
            let case = format!("{}, {}", size(*len), memory.name());
            compare(&rig, plan, &case, memory, *len, &KINDS[..3]);
        }
    }
    let huge = plan.pick(32 << 20, 256 << 20);
    let case = format!("{}, {}", size(huge), Memory::Huge.name());
    compare(&rig, plan, &case, Memory::Huge, huge, &KINDS[..3]);
    for len in plan.pick(RESERVED.0, RESERVED.1) {
        let case = format!("{}, reserved", size(*len));
        compare(&rig, plan, &case, Memory::Reserved, *len, &KINDS[..3]);
    }
    // Every kind is asked for it: two refuse.
    let asked = [Kind::Pinned, Kind::Odp, Kind::Implicit];
    compare(&rig, plan, "implicit", Memory::Implicit, usize::MAX, &asked);
    Ok(())
}

/// One case in all rounds.
fn compare(rig: &Rig, plan: Plan, case: &str, memory: Memory, len: usize, kinds: &[Kind]) {
    for (round, kind) in plan.turns(kinds) {
        let outcome = measure(rig, plan, kind, memory, len);
        let begin = Subject::new("registration", case, "µs").on(memory.name(), len);
        let end = Subject::new("deregistration", case, "µs").on(memory.name(), len);
        // A region of everything is an EMM region like others.
        let mr = match kind {
            Kind::Implicit => Kind::Emm.label(),
            _ => kind.label(),
        };
        let column = |pick: fn(&(f64, f64)) -> f64| {
            again(&outcome).map(|times| times.iter().map(pick).collect())
        };
        begin.tell_all(mr, round, column(|pair| pair.0));
        end.tell_all(mr, round, column(|pair| pair.1));
    }
}

/// Microseconds of registrations and of their ends.
fn measure(
    rig: &Rig,
    plan: Plan,
    kind: Kind,
    memory: Memory,
    len: usize,
) -> Result<Vec<(f64, f64)>> {
    kind.select()?;
    let begin = Instant::now();
    let mut times = Vec::new();
    let repeats = plan.pick(REPEATS.0, REPEATS.1);
    let map = memory.map(len)?;
    while times.is_empty() || (times.len() < repeats && begin.elapsed() < ENOUGH) {
        // Pinning touches: what must be untouched is new each time.
        let fresh = match memory {
            Memory::Untouched => memory.map(len)?,
            _ => None,
        };
        let whole = fresh.as_ref().or(map.as_ref());
        let (addr, len) = whole.map_or((0, usize::MAX), |map| (map.addr(), map.len()));
        let (mr, begins) = timed(|| rig.register(kind, addr, len));
        let mr = mr.context("ibv_reg_mr")?;
        let ((), ends) = timed(|| drop(mr));
        times.push((micros(begins), micros(ends)));
    }
    Ok(times)
}
