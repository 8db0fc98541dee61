//! Memory that only the device uses, beside a CPU that scans more than fits: does the VM keep it? And would it, if the CPU used
//! it as much?

use anyhow::Result;
use emm_check::mem::{Map, PAGE};
use emm_check::qp::{Op, Qp};
use emm_check::swap::ensure_swap;
use emm_check::system::vmstat;

use crate::facts::Subject;
use crate::guest::{Cgroup, Lru, resident_pages};
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Area, Rig, small_pages, timed};
use crate::traffic::{CHUNK, cover};
use crate::who::{Kind, Who};

/// The name of the row.
pub const ROW: &str = "pressure";
/// Scans that are measured, after one that only warms up: quick, full.
const SCANS: (usize, usize) = (1, 4);
/// Bytes of a page that are written when it is filled; the rest compresses to nothing.
const FILLED: usize = 1024;

/// How much of what there is, in bytes.
#[derive(Clone, Copy)]
struct Shape {
    /// Read by RDMA only, twice a scan.
    hot: usize,
    /// Scanned by the CPU.
    scanned: usize,
    /// The memory cgroup's limit.
    limit: usize,
}

const USUAL: Shape = Shape {
    hot: 16 << 20,
    scanned: 144 << 20,
    limit: 64 << 20,
};
const SMALL: Shape = Shape {
    hot: 8 << 20,
    scanned: 96 << 20,
    limit: 32 << 20,
};
/// The same again, for a first look.
const TINY: Shape = Shape {
    hot: 2 << 20,
    scanned: 18 << 20,
    limit: 8 << 20,
};
/// A case: its name, its shape, and how the VM chooses.
type Case = (&'static str, Shape, Lru);
const CASES: [Case; 4] = [
    ("16 MiB of 64 beside 144, MGLRU", USUAL, Lru::Generations),
    ("16 MiB of 64 beside 144, classic LRU", USUAL, Lru::Lists),
    ("8 MiB of 32 beside 96, MGLRU", SMALL, Lru::Generations),
    ("8 MiB of 32 beside 96, classic LRU", SMALL, Lru::Lists),
];
const QUICK: [Case; 2] = [
    ("2 MiB of 8 beside 18, MGLRU", TINY, Lru::Generations),
    ("2 MiB of 8 beside 18, classic LRU", TINY, Lru::Lists),
];
const UNITS: [&str; 3] = ["% resident", "s", "pages swapped in"];

fn cases(plan: Plan) -> &'static [Case] {
    plan.pick(&QUICK, &CASES)
}

/// Measures all kinds.
pub fn all(plan: Plan) -> Result<()> {
    let subjects: Vec<_> = cases(plan)
        .iter()
        .flat_map(|(case, ..)| UNITS.map(|unit| Subject::new(ROW, case, unit)))
        .collect();
    // A region of everything ages as others do: for a first look it is left out.
    let whos = plan.pick(&Who::ALL[..4], &Who::ALL[..]);
    let done = isolated::each(ROW, plan, whos, &subjects);
    // A process that dies leaves its choice behind.
    Lru::Generations.select()?;
    done
}

/// Measures one kind.
pub fn one(plan: Plan, who: Who) -> Result<()> {
    let rig = Rig::open()?;
    let sink = rig.source(CHUNK)?;
    ensure_swap()?;
    for round in plan.rounds() {
        for (number, (case, shape, lru)) in cases(plan).iter().enumerate() {
            lru.select()?;
            let name = format!("{ROW}-{}-{round}-{number}", who.label());
            let group = Cgroup::new(&name, shape.limit)?;
            group.take(std::process::id())?;
            let seen = scan(&rig, &sink, who.kind(), *shape, plan.pick(SCANS.0, SCANS.1))?;
            for (unit, value) in UNITS.into_iter().zip(seen) {
                Subject::new(ROW, case, unit).tell(who.label(), round, Ok(value));
            }
        }
    }
    Lru::Generations.select()
}

/// Who reads the hot pages.
enum Reader<'a> {
    /// The device, and nobody else.
    Device(&'a Qp, &'a Area, Area),
    /// The CPU: what the VM does for pages that it sees used.
    Cpu(Map),
}

impl Reader<'_> {
    fn map(&self) -> &Map {
        match self {
            Self::Device(_, _, hot) => &hot.map,
            Self::Cpu(hot) => hot,
        }
    }

    fn read(&self) -> Result<()> {
        match self {
            Self::Device(qp, sink, hot) => cover(qp, Op::Read, sink, hot),
            Self::Cpu(hot) => {
                let mut page = [0; PAGE];
                (0..hot.len())
                    .step_by(PAGE)
                    .for_each(|off| hot.read(off, &mut page));
                Ok(())
            }
        }
    }
}

/// Percent resident when the reader comes back, seconds, and pages swapped in. Without a kind, the CPU reads.
fn scan(
    rig: &Rig,
    sink: &Area,
    kind: Option<Kind>,
    shape: Shape,
    scans: usize,
) -> Result<[f64; 3]> {
    let qp = rig.qp()?;
    let map = small_pages(shape.hot)?;
    fill(&map);
    let hot = match kind {
        Some(kind) => Reader::Device(&qp, sink, rig.area(kind, map)?),
        None => Reader::Cpu(map),
    };
    let other = small_pages(shape.scanned)?;
    fill(&other);
    one_scan(&hot, &other)?;
    let swapped = vmstat("pswpin");
    let (resident, time) = timed(|| {
        (0..scans).try_fold(0, |sum, _| {
            Ok::<_, anyhow::Error>(sum + one_scan(&hot, &other)?)
        })
    });
    let looked_at = 2 * scans * shape.hot / PAGE;
    Ok([
        resident? as f64 * 100.0 / looked_at as f64,
        time.as_secs_f64(),
        (vmstat("pswpin") - swapped) as f64,
    ])
}

/// The CPU scans `other`, and after each half all of `hot` is read. Returns how many of the latter's pages were
/// resident before, added for both times.
fn one_scan(hot: &Reader<'_>, other: &Map) -> Result<usize> {
    let half = other.len() / 2;
    let mut resident = 0;
    for start in [0, half] {
        for off in (start..start + half).step_by(PAGE) {
            other.write(off, &[1; 8]);
        }
        resident += resident_pages(hot.map())?;
        hot.read()?;
    }
    Ok(resident)
}

/// Gives each page contents of its own.
fn fill(map: &Map) {
    for off in (0..map.len()).step_by(PAGE) {
        map.fill(off, FILLED, 1, off);
    }
}
