//! The one entrance: every subcommand of the set-up tool, of the tests and of the benchmarks.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use soft_roce_setup::context::Context;
use soft_roce_setup::{build, demo, exit, guest, host, signal, status};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soft-roce-setup: error: {error:#}");
            if signal::interrupted() {
                exit::INTERRUPTED.into()
            } else {
                exit::code_of(&error)
            }
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    signal::install()?;
    let context = Context::new(&cli.global)?;
    match &cli.command {
        Command::Doctor(args) => host::doctor(&context, args, build::kernel::made(&context)),
        Command::Status(args) => status::run(&context, args),
        Command::Clean(args) => status::clean(&context, args),
        Command::Build(args) => build::run(&context, args),
        Command::Run(args) => guest::run(&context, args),
        Command::Shell(args) => guest::shell(&context, args),
        Command::Demo(args) => demo::run(&context, args),
        Command::Test(args) => test_suite::run(&context, args),
        Command::Targets(args) => bench_report::targets::run(&context, args),
        Command::Bench(args) => bench_report::bench::run(&context, args),
    }
}
