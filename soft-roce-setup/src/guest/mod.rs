//! The guest: boot, run, shell.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::{RunArgs, ShellArgs};
use crate::context::Context;

/// `run`
pub fn run(_context: &Context, _args: &RunArgs) -> Result<ExitCode> {
    bail!("placeholder")
}

/// `shell`
pub fn shell(_context: &Context, _args: &ShellArgs) -> Result<ExitCode> {
    bail!("placeholder")
}
