//! The one entrance: every subcommand of the set-up tool, of the tests and of the benchmarks.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use soft_roce_setup::context::Context;
use soft_roce_setup::{build, demo, exit, guest, host, signal, status, ui};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return leave(usage(&error)),
    };
    leave(dispatch(&cli))
}

/// Ends the tool: tells the user of an error, and gives the status.
///
/// What has asked it to end counts more than what failed therefore, and than a result that nobody could read.
fn leave(result: Result<ExitCode>) -> ExitCode {
    let result = result.and_then(|code| ui::flush().map(|()| code));
    if signal::ending() == Some(exit::PIPE) {
        return exit::PIPE.into();
    }
    match result {
        Ok(code) => code,
        Err(error) => {
            ui::tell(format!("soft-roce-setup: error: {error:#}"));
            signal::ending()
                .unwrap_or_else(|| exit::code_of(&error))
                .into()
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> Result<ExitCode> {
    match error.print() {
        Err(closed) if closed.kind() == ErrorKind::BrokenPipe => signal::output_closed(),
        printed => printed.context("cannot write to the terminal")?,
    }
    let status = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
    Ok(status.into())
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    signal::install()?;
    let context = Context::new(&cli.global)?;
    match &cli.command {
        Command::Doctor(args) => host::doctor(&context, args, build::kernel::made(&context)),
        Command::Status(args) => status::run(&context, args),
        Command::Clean(args) => status::clean(&context, args),
        Command::Build(args) => guest::build(&context, args),
        Command::Run(args) => guest::run(&context, args),
        Command::Shell(args) => guest::shell(&context, args),
        Command::Demo(args) => demo::run(&context, args),
        Command::Series(args) => build::mail::run(&context, args),
        Command::Test(args) => test_suite::run(&context, args),
        Command::Targets(args) => bench_report::targets::run(&context, args),
        Command::Bench(args) => bench_report::bench::run(&context, args),
    }
}
