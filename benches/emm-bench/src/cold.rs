//! What it costs to reach memory that is not translated yet: time, fault calls, pages brought in.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use emm_check::mem::{PAGE, Rng};
use emm_check::qp::{Op, Qp};
use emm_check::system::Kind;

use crate::facts::{Subject, median_of};
use crate::guest::resident_pages;
use crate::probe::Probe;
use crate::rig::{Area, KINDS, Rig, small_pages, timed, touch};
use crate::traffic::Stream;

const MESSAGE: usize = 4 << 20;
const ROUNDS: usize = 5;
/// Repetitions of the same message once it is hot.
const HOT: usize = 3;
/// Where the random reads go, and how many.
const FIELD: usize = 1 << 30;
const READS: usize = 10_000;
/// Pinned regions know no faults.
const FAULTING: [Kind; 2] = [Kind::Odp, Kind::Emm];

/// The time that a message takes longer on cold memory.
pub fn time() -> Result<()> {
    let rig = Rig::open()?;
    let source = rig.source(MESSAGE)?;
    let qp = rig.qp()?;
    let subject = |case, unit| Subject {
        row: "cold",
        case,
        unit,
    };
    let memory = (0..ROUNDS).map(|_| by_cpu()).collect::<Result<Vec<f64>>>();
    subject("untouched", "ms added").tell("none", memory.and_then(|m| median_of(&m)));
    for (case, resident) in [("untouched", false), ("resident, untranslated", true)] {
        for kind in KINDS {
            let rounds = (0..ROUNDS)
                .map(|_| added(&rig, &qp, &source, kind, resident))
                .collect::<Result<Vec<_>>>();
            let column = |pick: fn(&(f64, f64)) -> f64| -> Result<f64> {
                let rounds = rounds.as_ref().map_err(|why| anyhow::anyhow!("{why:#}"))?;
                median_of(&rounds.iter().map(pick).collect::<Vec<_>>())
            };
            subject(case, "ms added").tell(kind.label(), column(|round| round.0));
            subject(case, "ms hot").tell(kind.label(), column(|round| round.1));
        }
    }
    Ok(())
}

/// The time in which the CPU touches as many untouched pages: the VM's own part.
fn by_cpu() -> Result<f64> {
    let map = small_pages(MESSAGE)?;
    Ok(timed(|| touch(&map)).1.as_secs_f64() * 1e3)
}

/// Milliseconds that the first message takes longer than the same one hot, and the latter.
fn added(rig: &Rig, qp: &Qp, source: &Area, kind: Kind, resident: bool) -> Result<(f64, f64)> {
    let map = small_pages(MESSAGE)?;
    if resident {
        touch(&map);
    }
    let area = rig.area(kind, map)?;
    let stream = message(qp, source, &area);
    let cold = stream.once()?.as_secs_f64() * 1e3;
    let hot = (0..HOT)
        .map(|_| Ok(stream.once()?.as_secs_f64() * 1e3))
        .collect::<Result<Vec<f64>>>()?;
    let hot = median_of(&hot)?;
    Ok((cold - hot, hot))
}

fn message<'a>(qp: &'a Qp, source: &'a Area, area: &'a Area) -> Stream<'a> {
    Stream {
        qp,
        op: Op::Write,
        local: (source, 0),
        remote: (area, 0),
        len: MESSAGE,
    }
}

/// How often the VM is asked for pages, and how many it brings in.
pub fn faults() -> Result<()> {
    let rig = Rig::open()?;
    let probe = Probe::new()?;
    let source = rig.source(MESSAGE)?;
    let qp = rig.qp()?;
    let subject = |case, unit| Subject {
        row: "faults",
        case,
        unit,
    };
    for kind in FAULTING {
        let calls = sequential(&rig, &probe, &qp, &source, kind);
        subject("one cold 4 MiB WRITE", "fault calls").tell(kind.label(), calls);
    }
    for kind in FAULTING {
        let case = "10000 random 4 KiB READs of a cold GiB";
        let (calls, pages) = match random(&rig, &probe, &qp, &source, kind) {
            Ok((calls, pages)) => (Ok(calls), Ok(pages)),
            Err(why) => (Err(anyhow::anyhow!("{why:#}")), Err(why)),
        };
        subject(case, "fault calls a READ").tell(kind.label(), calls);
        subject(case, "pages in, of those asked for").tell(kind.label(), pages);
    }
    Ok(())
}

fn sequential(rig: &Rig, probe: &Probe, qp: &Qp, source: &Area, kind: Kind) -> Result<f64> {
    let area = rig.area(kind, small_pages(MESSAGE)?)?;
    let before = probe.calls()?;
    message(qp, source, &area).once()?;
    Ok((probe.calls()? - before) as f64)
}

/// Fault calls a READ, and pages brought in for each page asked for.
fn random(rig: &Rig, probe: &Probe, qp: &Qp, sink: &Area, kind: Kind) -> Result<(f64, f64)> {
    let area = rig.area(kind, small_pages(FIELD)?)?;
    let mut rng = Rng(1);
    let mut asked = HashSet::new();
    let before = probe.calls()?;
    for _ in 0..READS {
        let page = rng.below(FIELD / PAGE);
        asked.insert(page);
        let stream = Stream {
            qp,
            op: Op::Read,
            local: (sink, 0),
            remote: (&area, page * PAGE),
            len: PAGE,
        };
        stream.once().context("a random READ")?;
    }
    let calls = (probe.calls()? - before) as f64 / READS as f64;
    Ok((
        calls,
        resident_pages(&area.map)? as f64 / asked.len() as f64,
    ))
}
