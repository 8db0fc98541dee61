//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::across::gone::How;
use crate::across::{Op, State};
use crate::events::Event;
use crate::matrix;
use crate::owner::Part;
use crate::system::Kind;
use crate::verbs_cases::Family;
use crate::verify::Verb;
use crate::xpmem;

/// Checks RDMA memory regions byte by byte, pinned and on demand, while the VM takes pages away.
///
/// Exit status: 0 all required facts held, 1 some did not, 2 nothing could be checked.
#[derive(Parser)]
#[command(version, name = "emm-check")]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Cmd,
}

#[derive(Args, Clone)]
pub struct Common {
    /// Verbs device
    #[arg(long, default_value = "rxe0", global = true)]
    pub device: String,
    /// GID index; the routable one of Soft-RoCE is 1
    #[arg(long, default_value_t = 1, global = true)]
    pub gid_index: u8,
    /// When a request without an answer is sent again: after 4.096 µs times 2 to the power of this; 16 are 268 ms. If all
    /// queue pairs together are busy for longer, they send again and again what is only late
    #[arg(long, default_value_t = 16, global = true, value_parser = clap::value_parser!(u8).range(1..=31))]
    pub ack_timeout: u8,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1, global = true)]
    pub seed: u64,
    /// Path MTU of the queue pairs
    #[arg(long, default_value_t = 4096, global = true, value_parser = mtu)]
    pub mtu: u32,
    /// One JSON object per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Let "odp" be the stock module's, when the patched one is not loaded; "emm" is skipped then
    #[arg(long, global = true)]
    pub allow_stock: bool,
    /// "odp" is in-tree paging repaired (kernel/rxe/odp): what is wrong of it is no known weakness but a failure. Implies --allow-stock
    #[arg(long, global = true)]
    pub odp_is_repaired: bool,
}

impl Common {
    /// Whether "odp" may be a module's that has nothing else.
    pub fn allows_stock(&self) -> bool {
        self.allow_stock || self.odp_is_repaired
    }
}

/// All path MTUs, in bytes.
pub const MTUS: [u32; 5] = [256, 512, 1024, 2048, 4096];

fn mtu(s: &str) -> Result<u32, String> {
    match s.parse() {
        Ok(n) if MTUS.contains(&n) => Ok(n),
        _ => Err("256, 512, 1024, 2048 or 4096".into()),
    }
}

/// How many processes attach one segment: a page each of a message that fits.
fn attachers(s: &str) -> Result<usize, String> {
    match s.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("1 to 1000".into()),
    }
}

/// A number of bytes with an optional K, M or G.
pub fn size(s: &str) -> Result<usize, String> {
    let digits = s.trim_end_matches("iB");
    let (digits, shift) = match digits.as_bytes().last() {
        Some(b'K' | b'k') => (&digits[..digits.len() - 1], 10),
        Some(b'M' | b'm') => (&digits[..digits.len() - 1], 20),
        Some(b'G' | b'g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let n: usize = digits
        .parse()
        .map_err(|_| format!("{s}: a number of bytes, with K, M or G"))?;
    n.checked_mul(1 << shift)
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("{s}: out of range"))
}

#[derive(Subcommand)]
pub enum Cmd {
    /// Time, VmPin and VmRSS of registering untouched memory
    Reg {
        /// Bytes, with K, M or G
        #[arg(value_parser = size)]
        size: usize,
        /// Kinds to compare
        #[arg(long, value_delimiter = ',', default_value = "pinned,odp,emm")]
        mr: Vec<Kind>,
    },
    /// Every offset in the page with every length, each byte compared
    Verify {
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
        /// Operations
        #[arg(long, value_delimiter = ',', default_value = "write,read,send")]
        op: Vec<Verb>,
        /// Offsets in the page, below 4096; default: ten, most of them odd
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(0..4096))]
        offsets: Vec<u16>,
        /// Lengths, 1 byte to 1M; default: sixteen
        #[arg(long, value_delimiter = ',', value_parser = size)]
        lengths: Vec<usize>,
        /// Also regions registered under another address (not with in-tree ODP, unless repaired: it can hang in them)
        #[arg(long)]
        iova: bool,
        /// Only memory that is resident
        #[arg(long)]
        hot_only: bool,
        /// Queue pairs on the one region, which the copies are shared out to; atomics have one
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        qps: u16,
        /// On each path MTU, 256 to 4096 bytes, instead of --mtu
        #[arg(long)]
        every_mtu: bool,
    },
    /// The same across the wire between two hosts, in both directions: to be run on both at once (`run --hosts 2`)
    Across {
        /// Kind of this host's region
        #[arg(long, default_value = "ondemand")]
        mr: Kind,
        /// Operations; default: all
        #[arg(long, value_delimiter = ',')]
        op: Vec<Op>,
        /// How the memory of both sides is before a copy
        #[arg(long, value_delimiter = ',', default_value = "fresh,warm,cool")]
        state: Vec<State>,
        /// Offsets in the page, below 4096; default: ten, most of them odd
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(0..4096))]
        offsets: Vec<u16>,
        /// Lengths, 1 byte to 1M; default: sixteen
        #[arg(long, value_delimiter = ',', value_parser = size)]
        lengths: Vec<usize>,
        /// On each path MTU, 256 to 4096 bytes, instead of --mtu
        #[arg(long)]
        every_mtu: bool,
    },
    /// The other host goes in the middle of traffic: to be run on both at once, host 2 goes
    Gone {
        /// How it goes
        how: How,
        /// Kind of this host's region
        #[arg(long, default_value = "ondemand")]
        mr: Kind,
    },
    /// RDMA WRITE and READ over all of a region at odd offsets and lengths
    Sweep {
        /// Bytes, with K, M or G
        #[arg(value_parser = size)]
        size: usize,
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
    },
    /// What the VM does to registered memory, with verified traffic before, after and meanwhile
    Event {
        /// Events; none: all
        names: Vec<Event>,
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
    },
    /// What the device can do beyond plain READ, WRITE and SEND, and what it must refuse
    Verbs {
        /// Families of cases; none: all
        cases: Vec<Family>,
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
    },
    /// That what RDMA brings in belongs to the owner of the region: cgroups, NUMA nodes, reserves
    Owner {
        /// Parts; none: all
        parts: Vec<Part>,
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
    },
    #[command(hide = true)]
    OwnerChild {
        #[arg(long)]
        mr: Kind,
        #[arg(long, conflicts_with = "hole")]
        node: Option<u32>,
        #[arg(long)]
        hole: Option<PathBuf>,
    },
    /// The EMM notifier by itself, through the driver emm_client
    Notifier,
    #[command(hide = true)]
    NotifierChild,
    /// Accesses of a region by themselves, through the driver emm_access
    Access {
        /// Parts of the cases' names; none: all cases
        cases: Vec<String>,
    },
    #[command(hide = true)]
    AccessChild {
        #[arg(long)]
        sleeping: bool,
    },
    /// Each operation against each thing that the VM, the owner or the device may do, one line a cell
    Matrix {
        /// Events; none: all
        events: Vec<matrix::Event>,
        /// Operations; none: all
        #[arg(long, value_delimiter = ',')]
        verb: Vec<matrix::Verb>,
        /// Kinds of region
        #[arg(long, value_delimiter = ',', default_value = "ondemand")]
        mr: Vec<Kind>,
    },
    #[command(hide = true)]
    MatrixChild {
        #[arg(long)]
        mr: Kind,
        #[arg(long)]
        verb: matrix::Verb,
        #[arg(long)]
        fate: matrix::Fate,
    },
    /// Memory of one process in another by /dev/xpmem, and what happens to it
    Xpmem {
        /// Families of cases; none: all
        families: Vec<xpmem::Family>,
        /// How often something is attached and detached
        #[arg(long, default_value_t = 2000)]
        attaches: usize,
        /// How many processes attach one segment
        #[arg(long, default_value_t = 64, value_parser = attachers)]
        attachers: usize,
    },
    /// What is done to attached memory against each thing that the VM may do to its owner's, one line a cell
    XpmemMatrix {
        /// Events, as those of `matrix`; none: all that happen to memory
        events: Vec<matrix::Event>,
        /// Operations; none: all
        #[arg(long, value_delimiter = ',')]
        verb: Vec<matrix::Verb>,
    },
    #[command(hide = true)]
    XpmemChild,
    /// Removes the device while a program waits in advice about it, or its queue pairs for memory
    Removal,
    /// Deregisters an in-tree on-demand region that is still in use
    Leftover,
    #[command(hide = true)]
    LeftoverChild {
        /// Where the disk's bytes begin
        #[arg(long)]
        at: usize,
        #[arg(long)]
        mr: Kind,
    },
    /// Another user's queue pairs, beside many of one user's whose memory never comes
    Crowd {
        /// Queue pairs that wait
        #[arg(long, default_value_t = 3000)]
        qps: usize,
        /// Seconds of each measurement, of which there are two
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Kind of region
        #[arg(long, default_value = "ondemand")]
        mr: Kind,
    },
    /// Kills processes in the middle of traffic; nothing may stay behind
    Kill {
        /// How often
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Queue pairs of each process
        #[arg(long, default_value_t = 8)]
        qps: usize,
        /// Kind of region
        #[arg(long, default_value = "ondemand")]
        mr: Kind,
    },
    /// Traffic against a shadow copy while the VM does random things to the region
    Stress {
        /// How long at most
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// How many operations; 0: until the time is over
        #[arg(long, default_value_t = 0)]
        operations: u64,
        /// Queue pairs, one thread each
        #[arg(long, default_value_t = 4)]
        qps: usize,
        /// Size of the region
        #[arg(long, value_parser = size, default_value = "32M")]
        size: usize,
        /// Leave compaction out, which moves (and may split) the pages of all processes
        #[arg(long)]
        no_compaction: bool,
        /// Kind of region
        #[arg(long, default_value = "ondemand")]
        mr: Kind,
    },
    /// Lets each allocation of registering, prefetching, binding, faulting and deregistering fail once (needs fault injection)
    Inject,
    /// Random and edge arguments through uverbs, with verified traffic beside; the seed decides what is done
    Fuzz {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// What our modules leaked, as kmemleak sees it (needs kmemleak)
    Leaks,
    /// Unmodified programs of the distribution, pinned as root, and unpinned as a user who may not lock a byte
    Programs {
        /// Only programs whose name contains one of these
        names: Vec<String>,
        /// Leave out what they do pinned, but for the first one, which shows that pinned memory is seen here
        #[arg(long)]
        unpinned: bool,
        /// Write the table to this file
        #[arg(long)]
        page: Option<PathBuf>,
        /// The preload library for unmodified programs
        #[arg(long, default_value = "/emm/lib/libverbs_shim.so")]
        shim: PathBuf,
    },
    /// The guest's part of the demonstration
    Demo {
        /// Size of the big region
        #[arg(long, value_parser = size, default_value = "256M")]
        size: usize,
        /// The preload library for unmodified programs
        #[arg(long, default_value = "/emm/lib/libverbs_shim.so")]
        shim: PathBuf,
    },
    #[command(hide = true)]
    TrafficChild {
        #[arg(long)]
        qps: usize,
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    UffdChild {
        /// Make the descriptor before the device is opened
        #[arg(long)]
        first: bool,
        /// Wait in advice, not in a READ
        #[arg(long)]
        advised: bool,
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    ParkedChild {
        /// A silent server's file, instead of a userfaultfd
        #[arg(long)]
        file: Option<PathBuf>,
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    CrowdChild {
        /// Queue pairs
        #[arg(long)]
        qps: usize,
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    ForkChild {
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    AdviseChild {
        #[arg(long)]
        mr: Kind,
    },
    #[command(hide = true)]
    ReapChild {
        #[arg(long)]
        mr: Kind,
    },
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
        assert_eq!(size("1"), Ok(1));
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("4KiB"), Ok(4096));
        for bad in ["", "M", "0", "-1", "1T", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
