//! The command line: what can be asked for, and what the exit status means.

use bench_report::bench::BenchArgs;
use bench_report::targets::TargetsArgs;
use clap::{Parser, Subcommand};
use soft_roce_setup::build::BuildArgs;
use soft_roce_setup::build::mail::SeriesArgs;
use soft_roce_setup::context::Global;
use soft_roce_setup::demo::DemoArgs;
use soft_roce_setup::guest::{RunArgs, ShellArgs};
use soft_roce_setup::host::DoctorArgs;
use soft_roce_setup::status::{CleanArgs, StatusArgs};
use test_suite::TestArgs;

/// The table of exit statuses, as `--help` prints it. [`crate::exit`] holds the numbers.
const EXIT_STATUS: &str = "\
Exit status:
  0    everything asked for was done (for `run`: the command's own status)
  1    the demo or a test did not hold, a target was not reached, or `bench compare` found that
       something moved
  2    the command line is wrong, no test has such a name, or --cache names somebody else's directory
  3    the host lacks something; `soft-roce-setup doctor` says what and how to mend it
  120  the guest's kernel reported a panic, oops, hung task, lockdep or KASAN problem
  124  the guest made no progress within the timeout
  125  set-up failed: the message names the command, its log and what to do
  130  interrupted (Ctrl-C)
  141  nobody reads the output any more (as of a program that SIGPIPE has ended)";

/// Builds a kernel's modules and a guest with Soft-RoCE, and runs RDMA programs in it whose memory
/// regions are not pinned.
#[derive(Debug, Parser)]
#[command(name = "soft-roce-setup", version, about, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Cli {
    /// Options of every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this host has, what is missing, and how to mend it
    Doctor(DoctorArgs),
    /// Build the root, the kernel's metadata, the modules and the guest's programs
    Build(BuildArgs),
    /// Run a command in a guest with an rxe device, and leave with its exit status
    Run(RunArgs),
    /// Open an interactive shell in the same guest
    Shell(ShellArgs),
    /// Show what the cache holds and whether it is up to date
    Status(StatusArgs),
    /// Remove the cache, whole or in part; guests and builds that use it are waited for
    Clean(CleanArgs),
    /// Register, transfer, page out, swap in, fork and unmap with pinned, ODP and EMM regions
    Demo(DemoArgs),
    /// Run the tests, on the host and in the guest
    Test(TestArgs),
    /// Write the patch series for rxe as they would be mailed: numbered, with a cover letter each
    Series(SeriesArgs),
    /// Measure every target beside pinned and in-tree on-demand regions, and say which are reached
    Targets(TargetsArgs),
    /// Measure what pinned, in-tree on-demand and EMM regions cost, with plots in a page of HTML
    Bench(BenchArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
