//! The tests: on the host, in guests of each kernel, and of this tool itself.
//!
//! One line a test, and a last line that counts them.

mod cases;
mod guest;
mod host;
mod tally;
mod tool;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::TestArgs;
use crate::context::Context;
use crate::exit;

pub use self::tally::Tally;

/// Kernel series that the guest tests run on.
const SERIES: [&str; 2] = ["7.3", "7.2"];

/// `test`
pub fn run(context: &Context, args: &TestArgs) -> Result<ExitCode> {
    let mut tally = Tally::new(args.filter.clone());
    if tally.wants_group("host::") {
        host::run(context, &mut tally)?;
    }
    let series: Vec<&str> = match &args.kernel.kernel {
        Some(one) => vec![one],
        None => SERIES.to_vec(),
    };
    for series in &series {
        guest::run(context, series, &mut tally)?;
    }
    tool::run(context, series.first().copied(), &mut tally)?;
    Ok(if tally.close() {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
}
