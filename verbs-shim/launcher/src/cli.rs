// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
Exit status of `run`: the program's; 125 if the library is missing, can't be preloaded or is there twice, 126 if the
program can't be executed, 127 if it was not found. Of `check`: 0 if some device would serve on demand, else 1.";

/// Runs unmodified ibverbs programs with memory regions that are not pinned.
#[derive(Debug, Parser)]
#[command(name = "verbs-shim", version, about, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with on-demand memory regions
    Run(RunArgs),
    /// Show devices, kernel module and limits, and what would happen
    Check,
    /// Watch the memory regions of running programs, with their faults and invalidations per second
    Top(TopArgs),
    /// Write man pages and shell completions
    Pages(PagesArgs),
}

/// Refuses what the library would not understand.
fn bytes(text: &str) -> Result<String, String> {
    match crate::bytes::parse(text.as_bytes()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("a number of bytes, as in 4096, 64K, 2M or 1G".to_owned()),
    }
}

/// `run`. An option that is not given leaves its variable as it is in the environment.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to do where a region can't be made on-demand (VERBS_SHIM) [default: auto]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Leave shorter regions alone, as in 4096, 64K or 2M (VERBS_SHIM_MIN_BYTES)
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub min_bytes: Option<String>,
    /// Have pages translated ahead of traffic (VERBS_SHIM_PREFETCH)
    #[arg(long, value_enum)]
    pub prefetch: Option<Prefetch>,
    /// Serve all registrations of a protection domain from one region (VERBS_SHIM_IMPLICIT=1). A
    /// remote key then reaches the whole address space, also after deregistration
    #[arg(long)]
    pub implicit: bool,
    /// How much the library says (VERBS_SHIM_LOG) [default: warn]
    #[arg(long, value_enum)]
    pub log: Option<Log>,
    /// Where it says it, an ordinary file; %d becomes the process number (VERBS_SHIM_LOG_FILE)
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Print the counts at exit (VERBS_SHIM_STATS=1)
    #[arg(long)]
    pub stats: bool,
    /// Catch programs that look verbs up by dlsym or dlvsym (LD_AUDIT)
    #[arg(long)]
    pub audit: bool,
    /// The preload library [default: beside this program, or in ../lib]
    #[arg(long, value_name = "FILE")]
    pub shim: Option<PathBuf>,
    /// Say nothing about the devices found
    #[arg(short, long)]
    pub quiet: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<std::ffi::OsString>,
}

/// `VERBS_SHIM`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Pin where on-demand is not possible, with one warning
    Auto,
    /// Fail where on-demand is not possible
    Force,
    /// Change nothing
    Off,
}

/// `VERBS_SHIM_PREFETCH`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Prefetch {
    /// When traffic meets them
    None,
    /// Soon after the registration
    Async,
    /// Before the registration returns
    Sync,
}

/// `VERBS_SHIM_LOG`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Log {
    /// Nothing
    Off,
    /// Memory that stays pinned, wrong values
    Warn,
    /// What was found out about a device
    Info,
    /// Every registration
    Debug,
}

/// `top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// End after so many looks [default: never]
    #[arg(short = 'n', long, value_name = "LOOKS")]
    pub count: Option<u64>,
}

/// `pages`
#[derive(Debug, Args)]
pub struct PagesArgs {
    /// The directory to write to
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// The word by which a value is known to the library.
pub fn word(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|v| v.get_name().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lengths() {
        assert_eq!(bytes("64K"), Ok("64K".to_owned()));
        for wrong in ["64k8", "", "-1", "K"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "inf", "NaN", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
