//! What a registration costs, against its length.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use emm_check::mem::{Map, PAGE};
use emm_check::system::Kind;

use crate::facts::{Subject, median_of};
use crate::rig::{KINDS, Rig, micros, small_pages, timed, touch};

const ROW: &str = "registration";
/// Registrations of one case are repeated so often at most, and …
const ROUNDS: usize = 21;
/// … at least, however long they take …
const LEAST_ROUNDS: usize = 3;
/// … until they have taken so long.
const ENOUGH: Duration = Duration::from_millis(300);

/// Memory that is registered.
enum Memory {
    Untouched(usize),
    Resident(usize),
    /// Address space without memory behind it.
    Reserved(usize),
    /// All that the process has or will have.
    Implicit,
}

const CASES: [(&str, Memory); 9] = [
    ("4 KiB, untouched", Memory::Untouched(PAGE)),
    ("4 KiB, resident", Memory::Resident(PAGE)),
    ("2 MiB, untouched", Memory::Untouched(2 << 20)),
    ("2 MiB, resident", Memory::Resident(2 << 20)),
    ("256 MiB, untouched", Memory::Untouched(256 << 20)),
    ("256 MiB, resident", Memory::Resident(256 << 20)),
    ("64 GiB, reserved", Memory::Reserved(64 << 30)),
    ("1 TiB, reserved", Memory::Reserved(1 << 40)),
    ("implicit", Memory::Implicit),
];

/// Measures all cases.
pub fn run() -> Result<()> {
    let rig = Rig::open()?;
    // The first on-demand region of a process sets its notifier up.
    let _warm = KINDS.map(|kind| small_pages(PAGE).and_then(|map| rig.area(kind, map)));
    for (case, memory) in &CASES {
        let subject = Subject {
            row: ROW,
            case,
            unit: "µs",
        };
        for kind in KINDS {
            subject.tell(kind.label(), measure(&rig, kind, memory));
        }
    }
    Ok(())
}

fn measure(rig: &Rig, kind: Kind, memory: &Memory) -> Result<f64> {
    kind.select(false)?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < ROUNDS && (times.len() < LEAST_ROUNDS || begin.elapsed() < ENOUGH) {
        times.push(micros(register(rig, kind, memory)?));
    }
    median_of(&times)
}

fn register(rig: &Rig, kind: Kind, memory: &Memory) -> Result<Duration> {
    let map = match memory {
        Memory::Untouched(len) => Some(small_pages(*len)?),
        Memory::Resident(len) => {
            let map = small_pages(*len)?;
            touch(&map);
            Some(map)
        }
        Memory::Reserved(len) => Some(Map::with(
            0,
            *len,
            libc::PROT_NONE,
            libc::MAP_NORESERVE,
            -1,
        )?),
        Memory::Implicit => None,
    };
    let (addr, len) = map
        .as_ref()
        .map_or((0, usize::MAX), |map| (map.addr(), map.len()));
    let (mr, time) = timed(|| rig.register(kind, addr, len));
    // It ends here, before the mapping.
    mr.context("ibv_reg_mr")?;
    Ok(time)
}
