//! The benchmarks: pinned, in-tree on-demand, EMM and EMM implicit regions in interleaved rounds of one run, as tables, JSON,
//! CSV, plots, and one page of HTML that needs no network.
//!
//! `emm-bench` measures in the guests ([`crate::measure`]); here is which rows ([`family`]), what they come to ([`report`]), and
//! how it is shown ([`table`], [`plot`], [`page`]).

mod compare;
mod docs;
mod family;
mod files;
mod fit;
mod host;
mod page;
mod plot;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use self::family::{FAMILIES, Family, Row, clock_name};
#[cfg(test)]
pub use self::report::tests::case as case_of;
pub use self::report::{Case, Report};
use self::report::{FamilyReport, SCHEMA};
use crate::artifacts::Artifacts;
use crate::build::{self, BuildOptions};
use crate::cli::{BenchArgs, BenchCommand, Clock, KernelArg};
use crate::context::Context;
use crate::exit;
use crate::guest::Guest;
use crate::measure::{Facts, Machine, measure};
use crate::signal;

/// Guests that everything is measured in one after the other: what differs between two of them is noise.
const BOOTS: (u32, u32) = (1, 2);

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
    let (report, _) = measured(context, args, &families)?;
    finish(context, &report, &args.out, args.docs.as_deref())
}

/// What a row took.
pub type Took = (&'static str, Duration);

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
        out: PathBuf::new(),
        docs: None,
    };
    // A row can have its family's name, which would mean all of that.
    let named = |row: &&Row| rows.contains(&row.name);
    let all = FAMILIES
        .iter()
        .map(|family| (family, family.rows.iter().filter(named).collect()));
    let some: Vec<Wanted> = all.filter(|(_, rows): &Wanted| !rows.is_empty()).collect();
    measured(context, &args, &some)
}

/// Measures everything that was asked for.
fn measured(
    context: &Context,
    args: &BenchArgs,
    families: &[Wanted],
) -> Result<(Report, Vec<Took>)> {
    let (date, start) = (SystemTime::now(), Instant::now());
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        ..BuildOptions::default()
    };
    let artifacts = build::ensure(context, &options)?;
    let mut host = host::host();
    let mut run = Run::new(args.quick, args.clock, families);
    run.measure(context, &artifacts, &mut host.accel)?;
    let report = Report {
        schema: SCHEMA.to_owned(),
        date: humantime::format_rfc3339_seconds(date).to_string(),
        command: command(args),
        quick: args.quick,
        seconds: start.elapsed().as_secs_f64().round(),
        commit: host::commit(&build::workspace()),
        host,
        kernel: artifacts.kernel.version.clone(),
        versions: host::versions(&artifacts.root),
        families: run.families(families),
    };
    let took = run.tasks.iter().map(|task| (task.row.name, task.took));
    Ok((report, took.collect()))
}

/// Prints and writes everything that is made from a report.
fn finish(
    context: &Context,
    report: &Report,
    out: &Path,
    documents: Option<&Path>,
) -> Result<ExitCode> {
    for family in &report.families {
        println!("\n## {}\n\n{}", family.title, table::markdown(family));
        for note in table::notes(family) {
            println!("- {note}");
        }
    }
    let written = files::write(out, report)?;
    if let Some(dir) = documents {
        docs::write(dir, report)?;
    }
    context
        .ui
        .note(format!("the page is {}", written.display()));
    Ok(if report.reached() {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
}

/// A family, and those of its rows that are measured.
type Wanted = (&'static Family, Vec<&'static Row>);

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

/// A row on one machine, and what was measured there.
struct Task {
    family: usize,
    row: &'static Row,
    machine: Machine,
    /// One for each guest.
    boots: Vec<Facts>,
    took: Duration,
    trouble: Vec<String>,
}

/// What is to be measured.
struct Run {
    quick: bool,
    tasks: Vec<Task>,
}

impl Run {
    fn new(quick: bool, clock: Option<Clock>, families: &[Wanted]) -> Self {
        let mut tasks = Vec::new();
        for (family, (_, rows)) in families.iter().enumerate() {
            for row in rows.iter().copied() {
                let machines = row.machines(clock);
                tasks.extend(machines.into_iter().map(|machine| Task {
                    family,
                    row,
                    machine,
                    boots: Vec::new(),
                    took: Duration::ZERO,
                    trouble: Vec::new(),
                }));
            }
        }
        Self { quick, tasks }
    }

    /// Measures machine by machine: rows that want the same one share a guest, as long as it lives.
    fn measure(
        &mut self,
        context: &Context,
        artifacts: &Artifacts,
        accel: &mut Vec<String>,
    ) -> Result<()> {
        let boots = if self.quick { BOOTS.0 } else { BOOTS.1 };
        let mut machines: Vec<Machine> = Vec::new();
        for task in &self.tasks {
            if !machines.contains(&task.machine) {
                machines.push(task.machine);
            }
        }
        let total = self.tasks.len() * boots as usize;
        let mut number = 0;
        for boot in 0..boots {
            for machine in &machines {
                let mut guest: Option<Guest> = None;
                for task in self.tasks.iter_mut().filter(|t| t.machine == *machine) {
                    signal::check()?;
                    let mut usable = match guest.take() {
                        Some(guest) if guest.alive() => guest,
                        _ => Guest::boot(context, artifacts, &machine.spec())?,
                    };
                    if !accel.contains(&usable.accel) {
                        accel.push(usable.accel.clone());
                    }
                    number += 1;
                    let title = format!(
                        "bench {number}/{total}: {}, {}",
                        task.row.name,
                        machine.name()
                    );
                    let options = options(task.row, self.quick, boot, boots);
                    let start = Instant::now();
                    let (facts, trouble) = measure(context, &mut usable, &title, &options)?;
                    task.took += start.elapsed();
                    task.boots.push(facts);
                    // What goes wrong is the row's trouble, and the others go on.
                    task.trouble
                        .extend(trouble.map(|why| format!("{}: {why}", task.row.name)));
                    guest = Some(usable);
                }
            }
        }
        self.sort();
        Ok(())
    }

    /// Gives each fact to its own row: the last lines of a program can arrive when the next one runs already.
    fn sort(&mut self) {
        let names: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|family| family.rows.iter().map(|row| row.name))
            .collect();
        let mut stray = Vec::new();
        for task in &mut self.tasks {
            for (boot, facts) in task.boots.iter_mut().enumerate() {
                let own = task.row.name;
                // A row may measure more than its name says, but nothing that another one does.
                let other = facts.split(|fact| fact.row == own || !names.contains(&&*fact.row));
                stray.push((task.machine, boot, other));
            }
        }
        for (machine, boot, facts) in stray {
            for task in self.tasks.iter_mut().filter(|t| t.machine == machine) {
                let own = facts.clone().split(|fact| fact.row != task.row.name);
                if let Some(known) = task.boots.get_mut(boot) {
                    known.extend(own);
                }
            }
        }
    }

    /// What came out, family by family.
    fn families(&self, families: &[Wanted]) -> Vec<FamilyReport> {
        let mut reports: Vec<FamilyReport> = families
            .iter()
            .map(|(family, _)| FamilyReport::of(family))
            .collect();
        for task in &self.tasks {
            let mut all = Facts::default();
            task.boots
                .iter()
                .for_each(|facts| all.extend(facts.clone()));
            let report = &mut reports[task.family];
            let case = |key| Case::of(key, task.machine, &task.boots);
            report.cases.extend(all.cases().into_iter().map(case));
            report.trouble.extend(task.trouble.iter().cloned());
        }
        reports
    }
}

/// The options of `emm-bench` for a row in the guest number `boot`: each takes its share of the rounds.
fn options(row: &Row, quick: bool, boot: u32, boots: u32) -> String {
    let rounds = if quick { row.rounds.0 } else { row.rounds.1 };
    let share = rounds.div_ceil(boots);
    let first = boot * share;
    let quick = if quick { " --quick" } else { "" };
    format!("{} --rounds {share} --first {first}{quick}", row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_share_the_rounds() {
        let row = Row {
            name: "cold",
            machines: &[],
            rounds: (3, 5),
        };
        assert_eq!(
            options(&row, true, 0, 1),
            "cold --rounds 3 --first 0 --quick"
        );
        assert_eq!(options(&row, false, 1, 2), "cold --rounds 3 --first 3");
    }

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
