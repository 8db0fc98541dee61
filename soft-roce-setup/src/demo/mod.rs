//! The demo.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::DemoArgs;
use crate::context::Context;

/// `demo`
pub fn run(_context: &Context, _args: &DemoArgs) -> Result<ExitCode> {
    bail!("placeholder")
}
