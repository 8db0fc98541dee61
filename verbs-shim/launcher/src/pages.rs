// SPDX-License-Identifier: MIT OR Apache-2.0

//! `pages`: man pages and shell completions, made from the command line's definition.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};

use crate::cli::{Cli, PagesArgs};

/// Writes `verbs-shim.1`, one page for each subcommand, and completions for bash, zsh and fish.
///
/// # Errors
///
/// The directory can't be made or written to.
pub fn write(args: &PagesArgs) -> Result<ExitCode> {
    let folder = &args.folder;
    let wrong = || format!("cannot write to {}", folder.display());
    fs::create_dir_all(folder).with_context(wrong)?;
    clap_mangen::generate_to(Cli::command(), folder).with_context(wrong)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "verbs-shim", folder).with_context(wrong)?;
    }
    Ok(ExitCode::SUCCESS)
}
