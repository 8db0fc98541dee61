//! The tests: on the host, in guests of each kernel, and of this tool itself.
//!
//! One line a test, and a last line that counts them.

mod bench;
mod cases;
mod debug;
mod guest;
mod host;
mod peers;
mod planted;
mod programs;
mod report;
mod shim_cases;
mod tally;
mod tool;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::TestArgs;
use crate::context::Context;
use crate::exit;

use self::report::Said;
pub use self::tally::Tally;

/// Kernel series that the guest tests run on.
const SERIES: [&str; 2] = ["7.3", "7.2"];

/// `test`
pub fn run(context: &Context, args: &TestArgs) -> Result<ExitCode> {
    let mut tally = Tally::new(args.filter.clone());
    if tally.wants_group("host::") {
        host::run(context, &mut tally)?;
    }
    let (mut kernels, mut said) = (Vec::new(), Said::default());
    let only_debug = args.kernel.kernel.as_deref() == Some(crate::build::debug::NAME);
    let series: Vec<&str> = match &args.kernel.kernel {
        // Its tests are others.
        Some(_) if only_debug => Vec::new(),
        Some(one) => vec![one],
        None => SERIES.to_vec(),
    };
    for series in &series {
        kernels.extend(guest::run(
            context, series, args.long, &mut tally, &mut said,
        )?);
    }
    if let Some(first) = series.first().copied() {
        programs::run(context, first, &mut tally, &mut said)?;
        if args.long {
            peers::run(context, first, &mut tally, &mut said)?;
        }
        planted::run(context, first, &mut tally)?;
        bench::run(context, first, &mut tally)?;
        tool::run(context, Some(first), &mut tally)?;
    }
    if args.kernel.kernel.is_none() || only_debug {
        let asked = only_debug || args.debug || args.long || debug::named(args.filter.as_deref());
        kernels.extend(debug::run(
            context, asked, args.long, &mut tally, &mut said,
        )?);
    }
    if let Some(path) = &args.report {
        report::write(path, &command(args), &kernels, &said, &tally)?;
    }
    Ok(if tally.close() {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
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
    if let Some(path) = &args.report {
        words.push(format!("--report {}", path.display()));
    }
    words.extend(args.kernel.kernel.as_ref().map(|k| format!("--kernel {k}")));
    words.extend(args.filter.clone());
    words.join(" ")
}
