//! The benchmarks: pinned, in-tree on-demand, EMM and EMM implicit regions in interleaved rounds of one run, as tables, JSON,
//! CSV, plots, and one page of HTML that needs no network.
//!
//! `emm-bench` measures in the guests ([`crate::measure`]); here is which rows (`family`), which guest
//! measures them (`run`), what they come to (`report`), and how it is shown (`table`, `plot`, `page`).

mod compare;
mod docs;
mod family;
mod files;
mod fit;
mod host;
mod kept;
mod noise;
mod page;
mod plot;
mod report;
mod run;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use clap::{Args, Subcommand};

use self::family::{FAMILIES, Row, Wanted, clock_name};
use self::kept::Kept;
use self::report::SCHEMA;
pub use self::report::{Case, Report};
use self::run::Run;
pub use self::run::Took;
use soft_roce_setup::build::{self, BuildOptions, KernelArg};
use soft_roce_setup::context::Context;
use soft_roce_setup::exit;
use soft_roce_setup::guest::Clock;
use soft_roce_setup::ui;

/// `bench`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Look at runs instead of measuring
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Fewer rounds and smaller cases: about five minutes under TCG on two CPUs
    #[arg(long)]
    pub quick: bool,
    /// Only this family, or this row of one; can be repeated (a wrong name lists all)
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Measure everything on this clock [default: instructions for costs, wall time for scaling]
    #[arg(long, value_enum)]
    pub clock: Option<Clock>,
    /// Go on with the run that was interrupted in this --out directory: same commit, same kernel
    #[arg(long)]
    pub resume: bool,
    /// Write bench.json, bench.csv, index.html and plots/*.svg to this directory
    #[arg(long, value_name = "DIR", default_value = "bench-out")]
    pub out: PathBuf,
    /// Also write benchmarks.md, scaling.md and, for `bench compare`, benchmarks.json to this directory
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
}

/// The subcommands of `bench`.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Show the ratios of two runs, and what moved by more than the noise of both
    Compare {
        /// The bench.json of the earlier run
        before: PathBuf,
        /// The bench.json of the later run
        after: PathBuf,
    },
    /// Make tables, plots, page and documents again from a run
    Render {
        /// Its bench.json
        run: PathBuf,
        /// Where everything is written
        #[arg(long, value_name = "DIR", default_value = "bench-out")]
        out: PathBuf,
        /// Also write benchmarks.md, scaling.md and, for `bench compare`, benchmarks.json to this directory
        #[arg(long, value_name = "DIR")]
        docs: Option<PathBuf>,
    },
}

/// `bench`
pub fn run(context: &Context, args: &BenchArgs) -> Result<ExitCode> {
    match &args.command {
        Some(BenchCommand::Compare { before, after }) => return compare::run(before, after),
        Some(BenchCommand::Render { run, out, docs }) => {
            return finish(context, &Report::read(run)?, out, docs.as_deref());
        }
        None => {}
    }
    let families = wanted(&args.only)?;
    files::writable(&args.out)?;
    let (report, _, kept) = measured(context, args, &families, Some(&args.out))?;
    let status = finish(context, &report, &args.out, args.docs.as_deref())?;
    // Not before the report is written.
    kept.map_or(Ok(()), Kept::done)?;
    Ok(status)
}

/// Measures these rows as `bench --quick` does.
pub fn quick(context: &Context, kernel: &str, rows: &[&str]) -> Result<(Report, Vec<Took>)> {
    let args = BenchArgs {
        command: None,
        kernel: KernelArg {
            kernel: Some(kernel.to_owned()),
        },
        quick: true,
        only: rows.iter().map(|row| (*row).to_owned()).collect(),
        clock: None,
        resume: false,
        out: PathBuf::new(),
        docs: None,
    };
    // A row can have its family's name, which would mean all of that.
    let named = |row: &&Row| rows.contains(&row.name);
    let all = FAMILIES
        .iter()
        .map(|family| (family, family.rows.iter().filter(named).collect()));
    let some: Vec<Wanted> = all.filter(|(_, rows): &Wanted| !rows.is_empty()).collect();
    let (report, took, _) = measured(context, &args, &some, None)?;
    Ok((report, took))
}

/// Measures everything that was asked for. What is done is kept in `out`.
fn measured(
    context: &Context,
    args: &BenchArgs,
    families: &[Wanted],
    out: Option<&Path>,
) -> Result<(Report, Vec<Took>, Option<Kept>)> {
    let (date, start) = (SystemTime::now(), Instant::now());
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        ..BuildOptions::default()
    };
    let artifacts = build::ensure(context, &options)?;
    let mut host = host::host();
    let mut run = Run::new(args.quick, args.clock, families);
    let commit = host::commit(&build::workspace());
    let same = kept::Run {
        schema: SCHEMA.to_owned(),
        kernel: artifacts.kernel.version.clone(),
        commit: commit.clone(),
        quick: args.quick,
    };
    let kept = match out {
        Some(out) if args.resume => Some(Kept::resume(out, &same)?),
        Some(out) => Some(Kept::begin(out, &same)?),
        None => None,
    };
    let earlier = kept.as_ref().map_or(Duration::ZERO, Kept::earlier);
    let result = run.measure(context, &artifacts, &mut host.accel, kept.as_ref());
    if result.is_err() && kept.is_some() {
        let words = "what was measured is kept: the same command with --resume goes on from there";
        context.ui.note(words);
    }
    result?;
    let report = Report {
        schema: SCHEMA.to_owned(),
        date: humantime::format_rfc3339_seconds(date).to_string(),
        command: command(args),
        quick: args.quick,
        seconds: (earlier + start.elapsed()).as_secs_f64().round(),
        commit,
        host,
        kernel: artifacts.kernel.version.clone(),
        versions: host::versions(&artifacts.root),
        rows: run
            .took()
            .iter()
            .map(|(row, _)| (*row).to_owned())
            .collect(),
        families: run.families(families),
    };
    Ok((report, run.took(), kept))
}

/// Prints and writes everything that is made from a report.
fn finish(
    context: &Context,
    report: &Report,
    out: &Path,
    documents: Option<&Path>,
) -> Result<ExitCode> {
    for family in &report.families {
        ui::say(format_args!(
            "\n## {}\n\n{}",
            family.title,
            table::markdown(family)
        ));
        for note in table::notes(family) {
            ui::say(format_args!("- {note}"));
        }
    }
    let written = files::write(out, report)?;
    if let Some(dir) = documents {
        docs::write(dir, report)?;
    }
    context
        .ui
        .note(format!("the page is {}", written.display()));
    if report.reached() {
        return Ok(ExitCode::SUCCESS);
    }
    let (missed, wrong) = report.failures();
    context.ui.note(format!(
        "{missed} cases miss their target by more than their noise, and {wrong} rows went wrong: the status is {}",
        exit::NOT_HELD
    ));
    Ok(exit::NOT_HELD.into())
}

/// What was asked for; all if nothing was.
fn wanted(only: &[String]) -> Result<Vec<Wanted>> {
    let known = |name: &str| {
        let mut rows = FAMILIES.iter().flat_map(|family| family.rows);
        FAMILIES.iter().any(|family| family.name == name) || rows.any(|row| row.name == name)
    };
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<String> = FAMILIES
            .iter()
            .map(|family| {
                let rows: Vec<&str> = family.rows.iter().map(|row| row.name).collect();
                format!("{} ({})", family.name, rows.join(", "))
            })
            .collect();
        let message = format!(
            "there is no family or row `{unknown}`: {}",
            names.join("; ")
        );
        return Err(exit::coded(exit::USAGE, message));
    }
    let all = FAMILIES
        .iter()
        .map(|family| (family, family.wanted(only).collect()));
    Ok(all.filter(|(_, rows): &Wanted| !rows.is_empty()).collect())
}

/// The command line that these arguments came from, without what only says where to write.
fn command(args: &BenchArgs) -> String {
    let mut words = vec!["cargo run -r -- bench".to_owned()];
    words.extend(args.quick.then(|| "--quick".to_owned()));
    words.extend(args.only.iter().map(|name| format!("--only {name}")));
    words.extend(args.clock.map(|c| format!("--clock {}", clock_name(c))));
    words.extend(args.kernel.kernel.as_ref().map(|k| format!("--kernel {k}")));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_families_are_refused() {
        assert_eq!(wanted(&[]).unwrap().len(), FAMILIES.len());
        assert_eq!(wanted(&["cold".to_owned()]).unwrap().len(), 1);
        let storm = ["storm".to_owned()];
        let (family, rows) = &wanted(&storm).unwrap()[0];
        assert_eq!((family.name, rows.len()), ("invalidation", 1));
        let error = wanted(&["warm".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("registration"), "{error}");
    }
}
