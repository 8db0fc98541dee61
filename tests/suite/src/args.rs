//! What `test` is told.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use soft_roce_setup::build::KernelArg;

/// `test`
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Also what takes hours: ten million operations, in-tree on-demand paging in the matrix
    #[arg(long)]
    pub long: bool,
    /// Also on the debug kernel, which is built if it is not in the cache (if it is, its tests run anyway)
    #[arg(long)]
    pub debug: bool,
    /// Groups of tests that run side by side [default: one for each two CPUs, if memory is enough]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Keep the results in this file, as JSON; what it has of other tests stays, so that runs add up
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write what the tests showed to this file, in Markdown; with --json, what all its runs showed
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the names of the tests and run none
    #[arg(long)]
    pub list: bool,
    /// Only tests whose name contains this, or one of these
    pub filter: Vec<String>,
}
