//! Tests that run in a guest: one guest for each kernel serves all of them, and a new one follows if a
//! test ends it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cases::{CASES, Case};
use super::tally::{Outcome, Tally};
use crate::build::{self, BuildOptions};
use crate::cli::{Backend, Clock, Size};
use crate::context::Context;
use crate::guest::{End, Guest, Job, Spec};
use crate::signal;

/// Lines of a failed test's output that are shown.
const SHOWN: usize = 40;

/// The guest of all cases.
fn spec() -> Spec {
    Spec {
        backend: Backend::Emm,
        clock: Clock::Wall,
        smp: 2,
        mem: Size(2 << 30),
        shares: Vec::new(),
        disk: None,
        append: None,
        terminal: false,
    }
}

/// Runs the cases on the kernel `series`.
pub fn run(context: &Context, series: &str, tally: &mut Tally) -> Result<()> {
    let name = |case: &Case| format!("guest::{series}::{}", case.name);
    let wanted: Vec<&Case> = CASES.iter().filter(|c| tally.wants(&name(c))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let options = BuildOptions {
        kernel: Some(series.to_owned()),
        ..BuildOptions::default()
    };
    let artifacts = build::ensure(context, &options)?;
    let mut guest: Option<Guest> = None;
    for case in wanted {
        signal::check()?;
        let mut usable = match guest.take() {
            Some(guest) if guest.alive() => guest,
            _ => Guest::boot(context, &artifacts, &spec())?,
        };
        let start = Instant::now();
        let outcome = one(&mut usable, case)?;
        tally.add(&name(case), start.elapsed(), outcome);
        guest = Some(usable);
    }
    Ok(())
}

fn one(guest: &mut Guest, case: &Case) -> Result<Outcome> {
    let output = Collected::default();
    let limit = Duration::from_secs(case.seconds);
    let job = Job {
        script: format!("cd /root\n{}\n", case.script),
        stdin: false,
        silence: limit,
        limit: Some(limit),
    };
    let end = guest.run(&job, Box::new(output.clone()), Box::new(output.clone()))?;
    let text = output.text();
    let missing = case.wants.iter().find(|want| !text.contains(**want));
    Ok(match (&end, missing) {
        (End::Exited(0), None) => Outcome::Passed,
        (End::Exited(0), Some(want)) => {
            Outcome::Failed(format!("`{want}` is not in the output:\n{}", tail(&text)))
        }
        (End::Exited(77), _) => Outcome::Skipped(text.lines().last().unwrap_or("").to_owned()),
        (End::Exited(status), _) => {
            Outcome::Failed(format!("exit status {status}:\n{}", tail(&text)))
        }
        _ => Outcome::Failed(format!("{}\n{}", guest.describe(&end), tail(&text))),
    })
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

/// Output of both channels, as it came.
#[derive(Debug, Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    fn text(&self) -> String {
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
