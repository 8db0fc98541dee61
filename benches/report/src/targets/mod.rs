//! The targets' table: boots the guests that the rows ask for, has `emm-bench` measure each row in them for pinned, in-tree
//! on-demand and EMM regions, and says per row whether its target is reached.

pub mod judge;
pub mod rows;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use self::rows::{ROWS, Row};
use self::table::Measured;
use crate::measure::{Facts, Machine, measure};
use soft_roce_setup::artifacts::Artifacts;
use soft_roce_setup::build::{self, BuildOptions, KernelArg};
use soft_roce_setup::context::Context;
use soft_roce_setup::exit;
use soft_roce_setup::guest::Guest;
use soft_roce_setup::signal;
use soft_roce_setup::ui;

/// `targets`
#[derive(Debug, Clone, Args)]
pub struct TargetsArgs {
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Only this row; can be repeated
    #[arg(long, value_name = "ROW")]
    pub only: Vec<String>,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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
    ui::print(format_args!(
        "{}",
        document(&artifacts.kernel.version, args, &measured)
    ));
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
                _ => Guest::boot(context, artifacts, &machine.spec())?,
            };
            let name = row.row.name;
            let options = format!("{name} --rounds {}", row.row.rounds);
            let (facts, trouble) = measure(context, &mut usable, name, &options)?;
            row.facts.extend(facts);
            // What goes wrong is the row's trouble, and the others go on.
            row.trouble = row.trouble.take().or(trouble);
            guest = Some(usable);
        }
    }
    Ok(measured)
}

/// What is printed, and kept in docs/targets.md.
fn document(kernel: &str, args: &TargetsArgs, measured: &[Measured]) -> String {
    let series = args.kernel.kernel.iter().map(|k| format!(" --kernel {k}"));
    let only = args.only.iter().map(|o| format!(" --only {o}"));
    let options: String = series.chain(only).collect();
    let notes = table::notes(measured);
    let notes = if notes.is_empty() {
        notes
    } else {
        format!("\n✗ and trouble:\n\n{notes}")
    };
    format!(
        "# Targets\n\nWritten by `cargo run -r -- targets{options}`, kernel {kernel}. Times are the guest's; where a case does \
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
