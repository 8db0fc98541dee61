//! What a guest can be asked for: the options of `run` and `shell`, and the words in which they are given.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::each::{self, Each};
use super::wire::Shape;
use crate::build::packages::Package;
use crate::build::rxe::Rxe;

/// How the guest is made: common to `run` and `shell`. Options that may differ between two hosts take a pair, as in `--mr
/// unpinned,pinned`: host 1's first.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    /// Guests: 2 are two hosts, on one wire between them. A command runs in both, with HOST (1 or 2), SELF and PEER (addresses) in its
    /// environment; its lines are shown behind `1: ` and `2: `, and host 1's reads what the tool is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = hosts)]
    pub hosts: u8,
    /// What the wire between two hosts does to packets, as in mtu=1500,loss=1%,delay=5ms,reorder=5%,duplicate=1%,corrupt=0.1%
    /// [default: mtu=9000]
    #[arg(long, value_name = "SHAPE")]
    pub wire: Option<Shape>,
    /// Kernel series (7.3, 7.2), a full version, `newest` of whatever series, each with `-rt` behind it for the flavour with
    /// PREEMPT_RT, or `debug`: one built here with KASAN, lockdep, kmemleak and fault injection; or a pair
    /// [default: the newest series of those that is complete, or else the newest kernel]
    #[arg(long, value_name = "SERIES", value_parser = each::words)]
    pub kernel: Option<Each<String>>,
    /// Which series of kernel/rxe make the driver rdma_rxe, or a pair; `ours` is emm
    #[arg(long, value_name = "SERIES", value_parser = each::of::<Rxe>(), default_value = "emm")]
    pub rxe: Each<Rxe>,
    /// What rxe does with on-demand memory regions, or a pair
    #[arg(long, value_parser = each::of::<Backend>(), default_value = "emm")]
    pub backend: Each<Backend>,
    /// Whether the command's memory regions are pinned, or made on-demand by the shim, or a pair
    #[arg(long, value_parser = each::of::<MrMode>(), default_value = "unpinned")]
    pub mr: Each<MrMode>,
    /// Number of the guest's CPUs [default: 2, or 1 with --clock icount]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: Option<u32>,
    /// NUMA nodes that the guest's CPUs and memory are shared out to
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub nodes: u32,
    /// The guest's memory, for example 1536M or 2G
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub mem: Size,
    /// The guest's clock: wall time, or one nanosecond an instruction (repeatable costs; one CPU)
    #[arg(long, value_enum, default_value_t = Clock::Wall)]
    pub clock: Clock,
    /// Share a host directory with the guest, writable unless :ro is behind it; can be repeated. Whatever runs in the guest
    /// can change and remove everything in a writable one. What it makes there is on the host a plain file of yours: owner,
    /// mode, links and device nodes exist for the guest only
    #[arg(long, value_name = "HOSTDIR:GUESTDIR[:ro]")]
    pub share: Vec<Share>,
    /// Packages of Debian trixie that the guest has besides its own, as `fio,mpich`; they are installed once and kept in the cache
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub packages: Vec<Package>,
    /// Add a scratch disk of this size as /dev/vda
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Size>,
    /// Add arguments to the kernel's command line
    #[arg(long, value_name = "KERNELARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
}

/// Reads how many hosts there are to be.
fn hosts(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "2" => Ok(2),
        _ => Err("there can be 1 or 2".to_owned()),
    }
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// How the guest is made.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// End a guest, or both, if there is no progress for so many seconds
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Give the command nothing to read, as `ssh -n`: in a `while read` loop it would take the loop's lines
    #[arg(short = 'n', long)]
    pub no_stdin: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `shell`
#[derive(Debug, Clone, Args)]
pub struct ShellArgs {
    /// How the guest is made.
    #[command(flatten)]
    pub guest: GuestArgs,
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
    /// Whether the guest can only read it.
    pub read_only: bool,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (dirs, read_only) = match s.strip_suffix(":ro") {
            Some(dirs) => (dirs, true),
            None => (s.strip_suffix(":rw").unwrap_or(s), false),
        };
        let (host, guest) = dirs
            .rsplit_once(':')
            .filter(|(host, guest)| !host.is_empty() && !guest.is_empty())
            .ok_or_else(|| format!("`{s}`: write HOSTDIR:GUESTDIR or HOSTDIR:GUESTDIR:ro"))?;
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
        Ok(Self {
            host,
            guest,
            read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(!share.read_only);
        for (text, read_only) in [("/tmp:/data:ro", true), ("/tmp:/data:rw", false)] {
            let asked: Share = text.parse().unwrap();
            assert_eq!((&asked.guest, asked.read_only), (&share.guest, read_only));
        }
        assert!("/tmp".parse::<Share>().is_err());
        assert!("/tmp:ro".parse::<Share>().is_err());
        assert!("/tmp:data".parse::<Share>().is_err());
        assert!("/does/not/exist:/data".parse::<Share>().is_err());
    }
}
