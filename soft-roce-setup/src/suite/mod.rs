//! The tests.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::TestArgs;
use crate::context::Context;

/// `test`
pub fn run(_context: &Context, _args: &TestArgs) -> Result<ExitCode> {
    bail!("placeholder")
}
