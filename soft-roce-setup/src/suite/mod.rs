//! The tests: on the host, in guests of each kernel, and of this tool itself.
//!
//! One line a test, and a last line that counts them.

mod bench;
mod brief;
mod cases;
mod debug;
mod guest;
mod host;
mod inner;
mod peers;
mod planted;
mod programs;
mod report;
mod results;
mod shim_cases;
mod tally;
mod tool;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::TestArgs;
use crate::context::Context;
use crate::exit;

use self::report::Said;
use self::results::{Results, Run};
pub use self::tally::Tally;

/// Kernel series that the guest tests run on.
const SERIES: [&str; 2] = ["7.3", "7.2"];

/// `test`
pub fn run(context: &Context, args: &TestArgs) -> Result<ExitCode> {
    // A file that is none of ours, or can't be written, is to be known before hours of tests.
    if let Some(path) = &args.json {
        Results::read(path)?.write(path)?;
    }
    let mut tally = Tally::new(args.filter.clone());
    let (mut kernels, mut said) = (Vec::new(), Said::default());
    let ended = groups(context, args, &mut tally, &mut said, &mut kernels);
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

/// Runs all groups, in order.
fn groups(
    context: &Context,
    args: &TestArgs,
    tally: &mut Tally,
    said: &mut Said,
    kernels: &mut Vec<String>,
) -> Result<()> {
    if tally.wants_group("host::") {
        host::run(context, tally)?;
    }
    let only_debug = args.kernel.kernel.as_deref() == Some(crate::build::debug::NAME);
    let series: Vec<&str> = match &args.kernel.kernel {
        // Its tests are others.
        Some(_) if only_debug => Vec::new(),
        Some(one) => vec![one],
        None => SERIES.to_vec(),
    };
    if let Some(first) = series.first() {
        inner::run(context, first, tally)?;
    }
    for series in &series {
        kernels.extend(guest::run(context, series, args.long, tally, said)?);
        if args.long {
            kernels.extend(peers::run(context, series, tally, said)?);
        }
    }
    if let Some(first) = series.first().copied() {
        kernels.extend(programs::run(context, first, tally, said)?);
        planted::run(context, first, tally)?;
        bench::run(context, first, tally)?;
        tool::run(context, Some(first), tally)?;
    }
    if args.kernel.kernel.is_none() || only_debug {
        let asked = only_debug || args.debug || args.long || debug::named(args.filter.as_deref());
        kernels.extend(debug::run(context, asked, args.long, tally, said)?);
        if args.long {
            let name = crate::build::debug::NAME;
            kernels.extend(peers::run(context, name, tally, said)?);
        }
    }
    Ok(())
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
