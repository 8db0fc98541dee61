//! Sets up a kernel, its modules and a guest with Soft-RoCE and memory regions that are not pinned.

mod artifacts;
mod bench;
mod build;
mod cache;
mod cli;
mod context;
mod demo;
mod enter;
mod exit;
mod guest;
mod host;
mod measure;
mod proc;
mod side_by_side;
mod signal;
mod status;
mod suite;
mod targets;
mod ui;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command};
use crate::context::Context;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soft-roce-setup: error: {error:#}");
            exit::code_of(&error)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    signal::install()?;
    let context = Context::new(&cli.global)?;
    match &cli.command {
        Command::Doctor(args) => host::doctor(&context, args),
        Command::Status(args) => status::run(&context, args),
        Command::Clean(args) => status::clean(&context, args),
        Command::Build(args) => {
            let options = build::BuildOptions {
                kernel: args.kernel.kernel.clone(),
                refresh: args.refresh,
                modules: build::modules::Variant::of(args.rxe.rxe),
            };
            build::ensure(&context, &options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => guest::run(&context, args),
        Command::Shell(args) => guest::shell(&context, args),
        Command::Demo(args) => demo::run(&context, args),
        Command::Test(args) => suite::run(&context, args),
        Command::Targets(args) => targets::run(&context, args),
        Command::Bench(args) => bench::run(&context, args),
    }
}
