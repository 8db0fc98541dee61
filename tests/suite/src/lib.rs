//! The tests: on the host, in guests of each kernel, and of this tool itself.
//!
//! What guests need is built first. Then groups of tests run side by side, as many as the host has CPUs for: one for each two of
//! them, then one for each of those that keep one busy: guests that mostly boot, and the host's own tests, which are built meanwhile
//! with what guests leave of the CPUs. What measures runs after them, by itself. One line a test, and a last line that counts them.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bench;
mod brief;
mod cargo;
mod cases;
#[cfg(test)]
mod circles;
mod consumers;
mod dax;
mod debug;
mod group;
mod guest;
mod host;
mod hosts;
mod inner;
mod names;
mod odp;
mod owner;
mod packages;
mod peers;
mod planted;
mod programs;
mod report;
mod results;
mod rxe;
mod said;
mod shim_cases;
mod sources;
mod tally;
mod tool;
mod xpmem_cases;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use soft_roce_setup::build;
use soft_roce_setup::build::debug::NAME as DEBUG;
use soft_roce_setup::build::versions;
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::Spec;
use soft_roce_setup::side_by_side::side_by_side;
use soft_roce_setup::{exit, host as machine, ui};

pub use self::args::TestArgs;
use self::group::{Asked, Group, RT};
use self::results::{Results, Run};
use self::said::Said;
use self::tally::Outcome;
pub use self::tally::Tally;

/// `test`
pub fn run(context: &Context, args: &TestArgs) -> Result<ExitCode> {
    let mut series = match args.kernel.kernel.as_deref() {
        // Its tests are others.
        Some(DEBUG) => Vec::new(),
        Some(one) => vec![one.to_owned()],
        None => versions::known(),
    };
    names::check(args, &borrowed(&series))?;
    if args.list {
        let fits = |name: &String| args.filter.iter().any(|filter| names::fits(filter, name));
        for name in names::all(args, &borrowed(&series), args.long)? {
            if args.filter.is_empty() || fits(&name) {
                ui::say(name);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.kernel.kernel.is_none() {
        series = build::series(context)?;
    }
    let series = borrowed(&series);
    // A file that is none of ours, or can't be written, is to be known before hours of tests.
    if let Some(path) = &args.json {
        Results::read(path)?.write(path)?;
    }
    let tally = Tally::new(args.filter.clone(), context.ui.clone());
    let (mut kernels, said) = (Vec::new(), Said::default());
    // Whoever goes on with the sources meanwhile does not mix two versions of them.
    let frozen = build::Frozen::new()?;
    let ended = run_all(context, args, &series, &tally, &said, &mut kernels);
    // Cargo alone reads them where they are: a copy would be compiled all over.
    if host::wanted(&tally)? && frozen.is_outdated()? {
        let why = "the sources were edited while the tests ran: what ran on the host may be of both versions, all else is of the first";
        let failed = Outcome::Failed(why.to_owned());
        tally.add("host::sources", Duration::ZERO, failed);
    }
    let mut seen = BTreeSet::new();
    kernels.retain(|kernel| seen.insert(kernel.clone()));
    // What ended is kept, whatever stopped the others. Another run may have written the file meanwhile.
    let known = args.json.as_deref().map(Results::read).transpose()?;
    let mut results = known.unwrap_or_default();
    let run = Run {
        command: command(args),
        date: report::today(),
        kernels,
    };
    results.add(run, said, &tally);
    if let Some(path) = &args.json {
        results.write(path)?;
    }
    if let Some(path) = &args.report {
        report::write(path, &results)?;
    }
    ended?;
    Ok(if tally.close() {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
}

fn borrowed(series: &[String]) -> Vec<&str> {
    series.iter().map(String::as_str).collect()
}

/// Builds all that the wanted tests need, then runs them: groups side by side, and at last what measures, by itself.
fn run_all(
    context: &Context,
    args: &TestArgs,
    series: &[&str],
    tally: &Tally,
    said: &Said,
    kernels: &mut Vec<String>,
) -> Result<()> {
    if args.filter.is_empty() {
        build::ahead(context, series)?;
    }
    let groups = groups(context, args, series, tally, said)?;
    kernels.extend(groups.iter().filter_map(|group| group.kernel.clone()));
    let Spec { mem, smp, .. } = guest::roomy();
    let at_once = |cpus| match args.jobs {
        Some(jobs) => jobs.get(),
        None => machine::room_for_guests(mem.0, cpus),
    };
    // Guests that work gain nothing beside each other on fewer CPUs than they have: where not all fit, they come first.
    let (mut last, mut first) = (Vec::new(), groups);
    if at_once(smp) < first.len() {
        (last, first) = first.into_iter().partition(|group| group.boots);
    }
    if at_once(smp) > 1 {
        first.sort_by_key(|group| !group.slow);
    }
    let run = |(): &mut (), group: Group<'_>| group.run();
    let guests = || -> Result<()> {
        side_by_side(first, at_once(smp), run)?;
        side_by_side(last, at_once(1), run)?;
        Ok(())
    };
    // What is built for the host takes what guests leave of the CPUs, if there is memory for it.
    let built = || host::build(context, tally);
    if at_once(1) > 1 {
        thread::scope(|scope| {
            let built = scope.spawn(built);
            let ended = guests();
            let built = built.join();
            ended.and(built.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
    } else {
        built().and_then(|()| guests())?;
    }
    match series.first() {
        Some(first) => bench::run(context, first, tally),
        None => Ok(()),
    }
}

/// The groups that have wanted tests.
fn groups<'a>(
    context: &'a Context,
    args: &TestArgs,
    series: &[&'a str],
    tally: &'a Tally,
    said: &'a Said,
) -> Result<Vec<Group<'a>>> {
    let mut groups = Vec::new();
    let asked = Asked {
        context,
        series: DEBUG,
        first: true,
        long: args.long,
        tally,
        said,
    };
    for (at, series) in series.iter().enumerate() {
        let asked = asked.on(series, at == 0);
        groups.extend(guest::group(asked)?);
        groups.extend(dax::group(asked)?);
        groups.extend(odp::group(asked)?);
        groups.extend(owner::group(asked)?);
        groups.extend(rxe::group(asked)?);
        if args.long {
            groups.extend(peers::group(asked)?);
        }
    }
    if names::with_rt(args) {
        // The set that a further kernel has, whatever else is asked for.
        let short = Asked {
            long: false,
            ..asked
        };
        groups.extend(guest::group(short.on(RT, false))?);
    }
    if let Some(first) = series.first() {
        let asked = asked.on(first, true);
        groups.extend(programs::group(asked)?);
        let last = series.last().copied().unwrap_or(first);
        groups.extend(hosts::group(asked, [first, last])?);
        groups.extend(planted::group(asked)?);
        groups.extend(inner::group(asked)?);
        groups.extend(tool::group(asked)?);
    }
    let only_debug = series.is_empty();
    if args.kernel.kernel.is_none() || only_debug {
        let build = only_debug || args.debug || args.long || debug::named(&args.filter);
        let slow = debug::groups(asked, build)?;
        groups.extend(slow.into_iter().map(Group::slow));
        if args.long {
            groups.extend(peers::group(asked)?.map(Group::slow));
        }
    }
    // Last, so that they find themselves built.
    groups.extend(host::group(context, tally)?);
    Ok(groups)
}

/// The command line that these arguments came from.
fn command(args: &TestArgs) -> String {
    let mut words = vec!["cargo run -r -- test".to_owned()];
    if args.long {
        words.push("--long".to_owned());
    }
    if args.debug {
        words.push("--debug".to_owned());
    }
    words.extend(args.jobs.map(|jobs| format!("--jobs {jobs}")));
    for (option, path) in [("--json", &args.json), ("--report", &args.report)] {
        words.extend(
            path.as_ref()
                .map(|path| format!("{option} {}", path.display())),
        );
    }
    words.extend(args.kernel.kernel.as_ref().map(|k| format!("--kernel {k}")));
    words.extend(args.filter.clone());
    words.join(" ")
}
