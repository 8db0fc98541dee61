//! One row in one guest, and what its program writes.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::facts::{Fact, Facts};
use super::stats;
use super::text::number;
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{End, Guest, Job};
use soft_roce_setup::ui::Step;

/// Longest time of one row in one guest.
const LIMIT: Duration = Duration::from_secs(3600);
/// Longest time without a word from it: a slow host needs minutes for one measurement.
const SILENCE: Duration = Duration::from_secs(900);

/// Runs `emm-bench OPTIONS` in `guest`, shown as `title`. Returns what it measured, and what went wrong there.
///
/// # Errors
/// An interruption, or a guest that was gone before.
pub fn measure(
    context: &Context,
    guest: &mut Guest,
    title: &str,
    options: &str,
) -> Result<(Facts, Option<String>)> {
    let output = Output::new(context.ui.step(title));
    let job = Job {
        script: format!("exec emm-bench {options}\n"),
        stdin: false,
        silence: SILENCE,
        limit: Some(LIMIT),
    };
    let end = guest.run(&job, Box::new(output.clone()), Box::new(output.clone()))?;
    let (facts, words) = output.finish();
    let trouble = (end != End::Exited(0)).then(|| {
        format!("{} {words}", guest.describe(&end))
            .trim()
            .to_owned()
    });
    Ok((facts, trouble))
}

/// Takes what the guest's program writes: facts, and words that are none.
#[derive(Clone)]
struct Output(Arc<Mutex<Taken>>);

struct Taken {
    partial: Vec<u8>,
    facts: Facts,
    words: Vec<String>,
    step: Option<Step>,
}

impl Output {
    fn new(step: Step) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            partial: Vec::new(),
            facts: Facts::default(),
            words: Vec::new(),
            step: Some(step),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the step that is shown. Returns the facts, and the other words in one line.
    fn finish(&self) -> (Facts, String) {
        let mut taken = self.lock();
        if let Some(step) = taken.step.take() {
            step.done();
        }
        (
            std::mem::take(&mut taken.facts),
            taken.words.join(" ").trim().to_owned(),
        )
    }
}

impl Taken {
    fn line(&mut self, line: &str) {
        let shown = match self.facts.take(line) {
            Some(fact) => live(fact),
            None => {
                self.words.push(line.to_owned());
                line.to_owned()
            }
        };
        if let Some(step) = &self.step {
            step.line(&shown);
        }
    }
}

/// A fact in words, while it is measured.
fn live(fact: &Fact) -> String {
    let outcome = match (stats::median(&fact.values), &fact.why) {
        (Some(value), _) => format!("{} {}", number(value), fact.unit),
        (None, why) => why.clone().unwrap_or_default(),
    };
    format!(
        "{}, {}, round {}: {outcome}",
        fact.case, fact.mr, fact.round
    )
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut taken = self.lock();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut taken.partial);
                taken.line(&String::from_utf8_lossy(&line));
            } else {
                taken.partial.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
