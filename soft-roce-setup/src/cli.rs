//! The command line: what can be asked for, and what the exit status means.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::build::rxe::Rxe;

/// The table of exit statuses, as `--help` prints it. [`crate::exit`] holds the numbers.
const EXIT_STATUS: &str = "\
Exit status:
  0    everything asked for was done (for `run`: the command's own status)
  1    the demo or a test did not hold, a target was not reached, or `bench compare` found that
       something moved
  2    the command line is wrong
  3    the host lacks something; `soft-roce-setup doctor` says what and how to mend it
  120  the guest's kernel reported a panic, oops, hung task, lockdep or KASAN problem
  124  the guest made no progress within the timeout
  125  set-up failed: the message names the command, its log and what to do
  130  interrupted (Ctrl-C)";

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

/// Options that every subcommand takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where everything is kept [default: $XDG_CACHE_HOME/ib-emm or ~/.cache/ib-emm]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Debian archive to install from: http://…, https://… or file:///… [default: the host's own]
    #[arg(long, global = true, value_name = "URL")]
    pub mirror: Option<String>,
    /// Show every command and its output
    #[arg(short, long, global = true)]
    pub verbose: bool,
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
    /// Remove the cache, or parts of it
    Clean(CleanArgs),
    /// Register, transfer, page out, swap in, fork and unmap with pinned, ODP and EMM regions
    Demo(DemoArgs),
    /// Run the tests, on the host and in the guest
    Test(TestArgs),
    /// Measure every target beside pinned and in-tree on-demand regions, and say which are reached
    Targets(TargetsArgs),
    /// Measure what pinned, in-tree on-demand and EMM regions cost, with plots in a page of HTML
    Bench(BenchArgs),
}

/// `doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Install what is missing (needs root on a Debian-like host)
    #[arg(long)]
    pub fix: bool,
}

/// `build`
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Ask the archive again for the newest kernel of the series instead of using the cached one
    #[arg(long)]
    pub refresh: bool,
    #[command(flatten)]
    pub rxe: RxeArg,
}

/// The choice of a driver, common to all that build or boot.
#[derive(Debug, Clone, Default, Args)]
pub struct RxeArg {
    /// Which series of kernel/rxe make the driver rdma_rxe
    #[arg(long = "rxe", value_enum, default_value_t, value_name = "SERIES")]
    pub rxe: Rxe,
}

/// The choice of a kernel, common to all that build or boot.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArg {
    /// Kernel series (7.3, 7.2), a full version, or `debug`: one built here with KASAN, lockdep, kmemleak and fault injection
    /// [default: the newest series that is complete]
    #[arg(long = "kernel", value_name = "SERIES")]
    pub kernel: Option<String>,
}

/// How the guest is made: common to `run` and `shell`.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    #[command(flatten)]
    pub kernel: KernelArg,
    #[command(flatten)]
    pub rxe: RxeArg,
    /// What rxe does with on-demand memory regions
    #[arg(long, value_enum, default_value_t = Backend::Emm)]
    pub backend: Backend,
    /// Whether the command's memory regions are pinned, or made on-demand by the shim
    #[arg(long, value_enum, default_value_t = MrMode::Unpinned)]
    pub mr: MrMode,
    /// Number of the guest's CPUs [default: 2, or 1 with --clock icount]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: Option<u32>,
    /// The guest's memory, for example 1536M or 2G
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub mem: Size,
    /// The guest's clock: wall time, or one nanosecond an instruction (repeatable costs; one CPU)
    #[arg(long, value_enum, default_value_t = Clock::Wall)]
    pub clock: Clock,
    /// Share a host directory with the guest, writable; can be repeated
    #[arg(long, value_name = "HOSTDIR:GUESTDIR")]
    pub share: Vec<Share>,
    /// Add a scratch disk of this size as /dev/vda
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Size>,
    /// Add arguments to the kernel's command line
    #[arg(long, value_name = "KERNELARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// End a guest that shows no progress for so many seconds
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `shell`
#[derive(Debug, Clone, Args)]
pub struct ShellArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
}

/// `status`
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `clean`
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
    /// Remove kernels and the modules built for them only
    #[arg(long, conflicts_with = "keep_downloads")]
    pub kernels: bool,
    /// Remove all but the downloaded packages
    #[arg(long)]
    pub keep_downloads: bool,
}

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Write the facts of the closing table to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `test`
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
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
    /// Only tests whose name contains this
    pub filter: Option<String>,
}

/// `bench`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Look at runs instead of measuring
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Fewer rounds and smaller cases: about five minutes under TCG on two CPUs
    #[arg(long)]
    pub quick: bool,
    /// Only this family, or this row of one; can be repeated (a wrong name lists all)
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Measure everything on this clock [default: instructions for costs, wall time for scaling]
    #[arg(long, value_enum)]
    pub clock: Option<Clock>,
    /// Go on with the run that was interrupted in this --out directory: same commit, same kernel
    #[arg(long)]
    pub resume: bool,
    /// Write bench.json, bench.csv, index.html and plots/*.svg to this directory
    #[arg(long, value_name = "DIR", default_value = "bench-out")]
    pub out: PathBuf,
    /// Also write benchmarks.md, scaling.md and, for `bench compare`, benchmarks.json to this directory
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
}

/// The subcommands of `bench`.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Show the ratios of two runs, and what moved by more than the noise of both
    Compare {
        /// The bench.json of the earlier run
        before: PathBuf,
        /// The bench.json of the later run
        after: PathBuf,
    },
    /// Make tables, plots, page and documents again from a run
    Render {
        /// Its bench.json
        run: PathBuf,
        /// Where everything is written
        #[arg(long, value_name = "DIR", default_value = "bench-out")]
        out: PathBuf,
        /// Also write benchmarks.md, scaling.md and, for `bench compare`, benchmarks.json to this directory
        #[arg(long, value_name = "DIR")]
        docs: Option<PathBuf>,
    },
}

/// `targets`
#[derive(Debug, Clone, Args)]
pub struct TargetsArgs {
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Only this row; can be repeated
    #[arg(long, value_name = "ROW")]
    pub only: Vec<String>,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What rxe does with an on-demand memory region (`mr_backend` of the patched module).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The regions of ib_emm
    Emm,
    /// The in-tree on-demand paging, as the stock module has it
    Odp,
}

impl Backend {
    /// The word that the module parameter takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emm => "emm",
            Self::Odp => "odp",
        }
    }
}

/// Whether the shim turns registrations into on-demand ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MrMode {
    /// As the program asks: pages are pinned
    Pinned,
    /// Through libverbs_shim.so: on demand
    Unpinned,
}

/// What drives the guest's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Clock {
    /// The host's clock
    Wall,
    /// TCG's instruction counter: repeatable, one CPU, no KVM
    Icount,
}

/// A size in bytes, written as a number with an optional K, M, G or T (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{s}` is not a size: write a number with K, M, G or T, as in 1536M");
        let upper = s.to_ascii_uppercase();
        let bare = upper
            .strip_suffix("IB")
            .or_else(|| upper.strip_suffix('B'))
            .unwrap_or(&upper);
        let (digits, shift) = match bare.char_indices().last() {
            Some((at, 'K')) => (&bare[..at], 10),
            Some((at, 'M')) => (&bare[..at], 20),
            Some((at, 'G')) => (&bare[..at], 30),
            Some((at, 'T')) => (&bare[..at], 40),
            _ => (bare, 0),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        match number.checked_mul(1 << shift) {
            Some(0) => Err("a size of 0 is not possible".to_owned()),
            Some(bytes) => Ok(Self(bytes)),
            None => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A directory of the host that the guest sees at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Existing directory of the host.
    pub host: PathBuf,
    /// Absolute path in the guest.
    pub guest: PathBuf,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (host, guest) = s
            .rsplit_once(':')
            .filter(|(host, guest)| !host.is_empty() && !guest.is_empty())
            .ok_or_else(|| format!("`{s}`: write HOSTDIR:GUESTDIR"))?;
        let (host, guest) = (PathBuf::from(host), PathBuf::from(guest));
        if !guest.is_absolute() {
            return Err(format!(
                "`{}`: the guest's directory must be absolute",
                guest.display()
            ));
        }
        if !host.is_dir() {
            return Err(format!(
                "`{}` is not a directory of this host",
                host.display()
            ));
        }
        Ok(Self { host, guest })
    }
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
    fn sizes() {
        assert_eq!("1536M".parse(), Ok(Size(1536 << 20)));
        assert_eq!("2g".parse(), Ok(Size(2 << 30)));
        assert_eq!("4GiB".parse(), Ok(Size(4 << 30)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        for wrong in ["", "G", "-1G", "1.5G", "0", "99999999T", "12Q"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        assert_eq!(Size(2 << 30).to_string(), "2G");
        assert_eq!(Size(1536 << 20).to_string(), "1536M");
    }

    #[test]
    fn shares() {
        let share: Share = "/tmp:/data".parse().unwrap();
        assert_eq!(share.host, PathBuf::from("/tmp"));
        assert_eq!(share.guest, PathBuf::from("/data"));
        assert!("/tmp".parse::<Share>().is_err());
        assert!("/tmp:data".parse::<Share>().is_err());
        assert!("/does/not/exist:/data".parse::<Share>().is_err());
    }
}
