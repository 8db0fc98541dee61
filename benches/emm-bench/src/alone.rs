//! A region that comes and goes with no other one there, as in programs that keep none: what that costs beside many other mappings,
//! and what it leaves behind.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use emm_check::mem::{Map, PAGE};

use crate::facts::Subject;
use crate::isolated::{self, Case};
use crate::many::unmap;
use crate::plan::Plan;
use crate::rig::{Rig, micros, small_pages, timed};
use crate::who::{Kind, Who};

/// The name of the row.
pub const ALONE: &str = "alone";
/// Other mappings of the process.
const MAPPINGS: [usize; 3] = [0, 1_000, 10_000];
/// Registrations in a round: quick, full.
const REPEATS: (usize, usize) = (20, 50);
/// Times that an unrelated page is unmapped: quick, full.
const UNMAPS: (usize, usize) = (100, 500);
/// What a kind's hub says of itself when its last region has gone for long.
const HUBS: &str = "/sys/kernel/debug/ib_emm/hubs";
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_secs(60);
const WHOS: [Who; 4] = [Who::None, Who::Pinned, Who::Odp, Who::Emm];

/// What is measured.
#[derive(Clone, Copy)]
enum What {
    First,
    Again,
    Beside,
    Munmap,
}

impl What {
    const ALL: [Self; 4] = [Self::First, Self::Again, Self::Beside, Self::Munmap];

    fn case(self, mappings: usize) -> String {
        let what = match self {
            Self::First => "the process's first region comes and goes",
            Self::Again => "a region comes and goes",
            Self::Beside => "a region comes and goes, another one stays",
            Self::Munmap => "munmap of a page, long after",
        };
        format!("{what}, {mappings} other mappings")
    }
}

/// Each kind and number of mappings in a process of its own: there is one first region in each.
pub fn all(plan: Plan) -> Result<()> {
    let names = MAPPINGS.map(|mappings| What::ALL.map(|what| what.case(mappings)));
    let cases: Vec<Case<'_>> = names
        .iter()
        .map(|names| Case {
            subjects: names.iter().map(|c| Subject::new(ALONE, c, "µs")).collect(),
            rounds: 1,
        })
        .collect();
    isolated::each_case(ALONE, plan, &WHOS, &cases)
}

/// The same with one kind, and the number of mappings that has the number `case`.
pub fn one(plan: Plan, who: Who, case: usize) -> Result<()> {
    let mappings = *MAPPINGS
        .get(case)
        .with_context(|| format!("there is no case {case}"))?;
    let _others = others(mappings)?;
    let rig = Rig::open()?;
    let memory = small_pages(PAGE)?;
    let tell = |what: What, round: u32, values: Result<Vec<f64>>| {
        Subject::new(ALONE, &what.case(mappings), "µs").tell_all(who.label(), round, values);
    };
    for round in plan.rounds() {
        let repeats = plan.pick(REPEATS.0, REPEATS.1);
        match who.kind() {
            Some(kind) => {
                kind.select()?;
                let once = || come_and_go(&rig, kind, &memory);
                tell(What::First, round, once().map(|time| vec![time]));
                tell(What::Again, round, (0..repeats).map(|_| once()).collect());
                let stays = rig.register(kind, memory.addr(), PAGE)?;
                tell(What::Beside, round, (0..repeats).map(|_| once()).collect());
                drop(stays);
            }
            None => {
                for what in [What::First, What::Again, What::Beside] {
                    tell(what, round, Err(anyhow::anyhow!("there is no region")));
                }
            }
        }
        settle()?;
        tell(What::Munmap, round, unmap(plan.pick(UNMAPS.0, UNMAPS.1)));
    }
    Ok(())
}

/// So many mappings that can't be merged.
fn others(mappings: usize) -> Result<Option<Map>> {
    if mappings == 0 {
        return Ok(None);
    }
    let map = Map::with(0, mappings * PAGE, libc::PROT_NONE, libc::MAP_NORESERVE, -1)?;
    for off in (0..map.len()).step_by(2 * PAGE) {
        map.protect(off, PAGE, libc::PROT_READ)?;
    }
    Ok(Some(map))
}

/// Microseconds of a registration and its end.
fn come_and_go(rig: &Rig, kind: Kind, memory: &Map) -> Result<f64> {
    let (mr, time) = timed(|| rig.register(kind, memory.addr(), PAGE).map(drop));
    mr.context("ibv_reg_mr")?;
    Ok(micros(time))
}

/// Until no address space is known for regions that it had.
fn settle() -> Result<()> {
    let start = Instant::now();
    loop {
        let said = fs::read_to_string(HUBS).with_context(|| format!("reading {HUBS}"))?;
        if said.trim() == "hubs 0 idle 0 not_freed 0" {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("{HUBS} says {said:?} after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
