// SPDX-License-Identifier: MIT OR Apache-2.0

//! `verbs-shim run -- PROGRAM…` starts a program with `libverbs_shim.so`, `verbs-shim check` says what
//! would happen and why, and `verbs-shim top` shows the regions of running programs.

// The preload library reads lengths by it, too.
#[path = "../../src/bytes.rs"]
mod bytes;

mod check;
mod cli;
mod device;
mod hush;
mod pages;
mod run;
mod say;
mod sigpipe;
mod top;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => Ok(run::run(&args)),
        Command::Check => check::check(),
        Command::Top(args) => top::top(&args),
        Command::Pages(args) => pages::write(&args),
    };
    result.unwrap_or_else(|error| {
        say::error(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}
