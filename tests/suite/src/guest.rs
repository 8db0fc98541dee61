//! Tests that run in a guest: one guest for each kernel serves all of them, and a new one follows a test
//! that fails.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cases::{CASES, Case, ON_EACH_KERNEL, text};
use super::group::{Asked, Group, options};
use super::tally::Outcome;
use super::{consumers, shim_cases, xpmem_cases};
use soft_roce_setup::build;
use soft_roce_setup::guest::{Backend, Clock, Cpu, End, Guest, Job, Size, Spec};
use soft_roce_setup::signal;

/// Lines of a failed test's output that are shown.
const SHOWN: usize = 25;

/// The guest of all cases: two NUMA nodes to move pages between (by those who say so), and a disk to swap to.
pub(super) fn spec() -> Spec {
    Spec {
        backend: Backend::Emm,
        clock: Clock::Wall,
        cpu: Cpu::PlainCopies,
        smp: 2,
        nodes: 1,
        mem: Size(2 << 30),
        shares: Vec::new(),
        disk: Some(Size(512 << 20)),
        append: Some("numa=fake=2 numa_balancing=disable".to_owned()),
        terminal: false,
    }
}

/// The same with more memory, for the debug kernel: KASAN takes an eighth, and kmemleak knows each object.
pub(super) fn roomy() -> Spec {
    Spec {
        mem: Size(3 << 30),
        ..spec()
    }
}

/// The names of the cases on the kernel `series`.
pub fn names(series: &str, first: bool, long: bool) -> impl Iterator<Item = String> {
    cases(first, long).map(move |case| name(series, case))
}

fn cases(first: bool, long: bool) -> impl Iterator<Item = &'static Case> {
    let all = CASES
        .iter()
        .chain(xpmem_cases::CASES)
        .chain(consumers::CASES)
        .chain(shim_cases::CASES);
    let everywhere =
        |name| ON_EACH_KERNEL.contains(name) || xpmem_cases::ON_EACH_KERNEL.contains(name);
    all.filter(move |c| long || !c.long && (first || everywhere(&c.name)))
}

pub(super) fn name(series: &str, case: &Case) -> String {
    format!("guest::{series}::{}", case.name)
}

/// The cases on the kernel `series`, if some are wanted. Those of one that is not the `first` say what differs there, but for
/// `--long`.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let wanted = asked.wanted(cases(asked.first, asked.long), name);
    if wanted.is_empty() {
        return Ok(None);
    }
    let script = move |case: &Case| text(case, asked.first, asked.long).to_owned();
    let work = move || all(asked, &wanted, &spec(), script);
    Group::of_kernel(asked.context, asked.series, work).map(Some)
}

/// Runs these cases, in guests made by `spec`; `text` makes each one's script.
pub(super) fn all(
    asked: Asked<'_>,
    cases: &[&Case],
    spec: &Spec,
    text: impl Fn(&Case) -> String,
) -> Result<()> {
    let artifacts = build::ensure(asked.context, &options(asked.series))?;
    let mut guest: Option<Guest> = None;
    for case in cases {
        signal::check()?;
        let mut usable = match guest.take() {
            Some(guest) if guest.alive() => guest,
            _ => Guest::boot(asked.context, &artifacts, spec)?,
        };
        let name = name(asked.series, case);
        let start = Instant::now();
        let (outcome, text) = script(&mut usable, &text(case), case.seconds, case.wants)?;
        asked.said.keep(name.clone(), text);
        // What a failed test left behind must not fail the next.
        guest = (!matches!(outcome, Outcome::Failed(_))).then_some(usable);
        asked.tally.add(&name, start.elapsed(), outcome);
    }
    Ok(())
}

/// Runs a script for /bin/sh that has the time `limit`. Returns how it ended and what it printed.
pub(super) fn ran(guest: &mut Guest, script: &str, limit: Duration) -> Result<(End, String)> {
    let output = Collected::default();
    let job = Job {
        script: format!("cd /root\n{script}\n"),
        stdin: false,
        silence: limit,
        limit: Some(limit),
    };
    let end = guest.run(&job, Box::new(output.clone()), Box::new(output.clone()))?;
    Ok((end, output.text()))
}

/// How a script ended that has `seconds` and must print all of `wants`, and what it printed.
pub(super) fn script(
    guest: &mut Guest,
    script: &str,
    seconds: u64,
    wants: &[&str],
) -> Result<(Outcome, String)> {
    let (end, text) = ran(guest, script, Duration::from_secs(seconds))?;
    let missing = wants.iter().find(|want| !text.contains(**want));
    let outcome = match (&end, missing) {
        (End::Exited(0), None) => Outcome::Passed,
        (End::Exited(0), Some(want)) => {
            Outcome::Failed(format!("`{want}` is not in the output:\n{}", tail(&text)))
        }
        (End::Exited(77), _) => Outcome::Skipped(text.lines().last().unwrap_or("").to_owned()),
        (End::Exited(status), _) => {
            Outcome::Failed(format!("exit status {status}:\n{}", tail(&text)))
        }
        _ => Outcome::Failed(format!("{}\n{}", guest.describe(&end), tail(&text))),
    };
    Ok((outcome, text))
}

/// What shows why a test failed: the lines that say so, and the last ones.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (early, last) = lines.split_at(lines.len().saturating_sub(SHOWN));
    let failed = early.iter().filter(|line| line.starts_with("FAIL"));
    failed.chain(last).copied().collect::<Vec<_>>().join("\n")
}

/// Output of both channels, as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    pub(super) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
