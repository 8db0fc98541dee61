//! What it costs to reach memory that is not translated yet: time, fault calls, pages brought in.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use emm_check::mem::{PAGE, Rng};
use emm_check::qp::{Op, Qp};

use crate::facts::{Subject, again, median_of};
use crate::guest::resident_pages;
use crate::plan::Plan;
use crate::probe::Probe;
use crate::rig::{Area, Rig, size, small_pages, timed, touch};
use crate::traffic::Stream;
use crate::who::{KINDS, Kind};

const MESSAGE: usize = 4 << 20;
/// Repetitions of the same message once it is hot.
const HOT: usize = 3;
/// Where the random reads go, and how many: quick, full.
const FIELD: (usize, usize) = (128 << 20, 1 << 30);
const READS: (usize, usize) = (1_250, 10_000);
/// Pinned regions know no faults.
const FAULTING: [Kind; 3] = [Kind::Odp, Kind::Emm, Kind::Implicit];

/// The time that a message takes longer on cold memory.
pub fn time(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let source = rig.source(MESSAGE)?;
    let qp = rig.qp()?;
    for round in plan.rounds() {
        Subject::new("cold", "untouched", "ms added").tell("none", round, by_cpu());
    }
    for (case, resident) in [("untouched", false), ("resident, untranslated", true)] {
        for (round, kind) in plan.turns(&KINDS) {
            let times = added(&rig, &qp, &source, kind, resident);
            let subject = Subject::new("cold", case, "ms added");
            subject.tell(kind.label(), round, again(&times).map(|t| t.0));
            let subject = subject.in_unit("ms hot");
            subject.tell(kind.label(), round, again(&times).map(|t| t.1));
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
pub fn faults(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let probe = Probe::new()?;
    let source = rig.source(MESSAGE)?;
    let qp = rig.qp()?;
    for (round, kind) in plan.turns(&FAULTING) {
        let calls = sequential(&rig, &probe, &qp, &source, kind);
        Subject::new("faults", "one cold 4 MiB WRITE", "fault calls").tell(
            kind.label(),
            round,
            calls,
        );
    }
    let (field, reads) = (plan.pick(FIELD.0, FIELD.1), plan.pick(READS.0, READS.1));
    let case = format!("{reads} random 4 KiB READs of {}, cold", size(field));
    for (round, kind) in plan.turns(&FAULTING) {
        let outcome = random(&rig, &probe, &qp, &source, kind, field, reads);
        let subject = Subject::new("faults", &case, "fault calls a READ");
        subject.tell(kind.label(), round, again(&outcome).map(|o| o.0));
        let subject = subject.in_unit("pages in, of those asked for");
        subject.tell(kind.label(), round, again(&outcome).map(|o| o.1));
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
fn random(
    rig: &Rig,
    probe: &Probe,
    qp: &Qp,
    sink: &Area,
    kind: Kind,
    field: usize,
    reads: usize,
) -> Result<(f64, f64)> {
    let area = rig.area(kind, small_pages(field)?)?;
    let mut rng = Rng(1);
    let mut asked = HashSet::new();
    let before = probe.calls()?;
    for _ in 0..reads {
        let page = rng.below(field / PAGE);
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
    let calls = (probe.calls()? - before) as f64 / reads as f64;
    Ok((
        calls,
        resident_pages(&area.map)? as f64 / asked.len() as f64,
    ))
}
