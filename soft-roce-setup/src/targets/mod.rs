//! The targets' table: boots the guests that the rows ask for, has `emm-bench` measure each row in them for pinned, in-tree
//! on-demand and EMM regions, and says per row whether its target is reached.

mod facts;
mod judge;
mod rows;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use self::facts::{Fact, Facts};
use self::judge::number;
use self::rows::{Machine, ROWS, Row};
use crate::artifacts::Artifacts;
use crate::build::{self, BuildOptions};
use crate::cli::{Backend, Size, TargetsArgs};
use crate::context::Context;
use crate::exit;
use crate::guest::{End, Guest, Job, Spec};
use crate::signal;
use crate::ui::Step;

/// Longest time of one row in one guest.
const LIMIT: Duration = Duration::from_secs(3600);
/// Longest time without a word from it: a slow host needs minutes for one measurement.
const SILENCE: Duration = Duration::from_secs(900);
/// Memory of the guests: a GiB of a region is resident in one row.
const MEMORY: Size = Size(3 << 30);

/// A row with what was measured of it.
#[derive(Debug)]
struct Measured {
    row: &'static Row,
    facts: Facts,
    /// What went wrong on the way.
    trouble: Option<String>,
}

/// `targets`
pub fn run(context: &Context, args: &TargetsArgs) -> Result<ExitCode> {
    let wanted = wanted(&args.only)?;
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        ..BuildOptions::default()
    };
    let artifacts = build::ensure(context, &options)?;
    let measured = measure_all(context, &artifacts, &wanted)?;
    print!("{}", document(&artifacts.kernel.version, args, &measured));
    if let Some(path) = &args.json {
        let whole = as_json(&artifacts.kernel.version, &measured);
        std::fs::write(path, format!("{whole:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if measured.iter().all(table::reached) {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
}

/// The rows that were asked for; all if none was.
fn wanted(only: &[String]) -> Result<Vec<&'static Row>> {
    if let Some(unknown) = only.iter().find(|o| ROWS.iter().all(|r| r.name != **o)) {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        let message = format!("there is no row `{unknown}`: {}", names.join(", "));
        return Err(exit::coded(2, message));
    }
    let chosen = |row: &&Row| only.is_empty() || only.iter().any(|o| o == row.name);
    Ok(ROWS.iter().filter(chosen).collect())
}

/// Measures the rows machine by machine: those that want the same one share a guest, as long as it lives.
fn measure_all(
    context: &Context,
    artifacts: &Artifacts,
    wanted: &[&'static Row],
) -> Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = wanted
        .iter()
        .map(|row| Measured {
            row,
            facts: Facts::default(),
            trouble: None,
        })
        .collect();
    let mut machines: Vec<Machine> = Vec::new();
    for machine in wanted.iter().flat_map(|row| row.machines) {
        if !machines.contains(machine) {
            machines.push(*machine);
        }
    }
    for machine in machines {
        let mut guest: Option<Guest> = None;
        for row in measured
            .iter_mut()
            .filter(|m| m.row.machines.contains(&machine))
        {
            signal::check()?;
            let mut usable = match guest.take() {
                Some(guest) if guest.alive() => guest,
                _ => Guest::boot(context, artifacts, &spec(machine))?,
            };
            measure(context, &mut usable, row)?;
            guest = Some(usable);
        }
    }
    Ok(measured)
}

fn spec(machine: Machine) -> Spec {
    Spec {
        backend: Backend::Emm,
        clock: machine.clock,
        smp: machine.smp,
        mem: MEMORY,
        shares: Vec::new(),
        disk: None,
        append: None,
        terminal: false,
    }
}

/// Measures one row in `guest`. What goes wrong there is the row's trouble, and the others go on.
fn measure(context: &Context, guest: &mut Guest, row: &mut Measured) -> Result<()> {
    let output = Output::new(
        std::mem::take(&mut row.facts),
        context.ui.step(row.row.name),
    );
    let job = Job {
        script: format!("exec emm-bench {}\n", row.row.name),
        stdin: false,
        silence: SILENCE,
        limit: Some(LIMIT),
    };
    let end = guest.run(&job, Box::new(output.clone()), Box::new(output.clone()))?;
    let (facts, words) = output.finish();
    row.facts = facts;
    if end != End::Exited(0) {
        row.trouble = Some(
            format!("{} {words}", guest.describe(&end))
                .trim()
                .to_owned(),
        );
    }
    Ok(())
}

/// What is printed, and kept in docs/targets.md.
fn document(kernel: &str, args: &TargetsArgs, measured: &[Measured]) -> String {
    let only: String = args.only.iter().map(|o| format!(" --only {o}")).collect();
    let notes = table::notes(measured);
    let notes = if notes.is_empty() {
        notes
    } else {
        format!("\n✗ and trouble:\n\n{notes}")
    };
    format!(
        "# Targets\n\nWritten by `cargo run -r -- targets{only}`, kernel {kernel}. Times are the guest's; where a case does \
         not name CPUs,\nits clock counts one nanosecond an instruction.\n\n{}\n{}{notes}",
        table::rows(measured),
        table::cases(measured)
    )
}

fn as_json(kernel: &str, measured: &[Measured]) -> Value {
    let rows: Vec<Value> = measured
        .iter()
        .map(|row| {
            json!({"name": row.row.name, "what": row.row.what, "reach": row.row.reach,
                   "reached": table::reached(row), "trouble": row.trouble, "facts": row.facts.all()})
        })
        .collect();
    json!({"kernel": kernel, "rows": rows})
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
    fn new(facts: Facts, step: Step) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            partial: Vec::new(),
            facts,
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
    let outcome = match (fact.value, &fact.why) {
        (Some(value), _) => format!("{} {}", number(value), fact.unit),
        (None, why) => why.clone().unwrap_or_default(),
    };
    format!("{}, {}: {outcome}", fact.case, fact.mr)
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
