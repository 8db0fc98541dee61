//! What the VM does to registered memory: one module per family. Each case moves data before and after, some meanwhile, and
//! says what it expects; `Err` is a case that did not hold.

mod advice;
mod again;
mod aging;
mod bounds;
mod dax;
mod disk;
mod files;
pub mod fork;
mod holdoff;
mod hugepages;
mod implicit;
mod khugepaged;
mod kinds;
mod many;
mod mapping;
mod merge;
mod pageout;
mod parallel;
pub mod parked;
mod patience;
mod progress;
mod protection;
mod rare;
mod reach;
mod readahead;
pub mod reap;
pub mod uffd;
mod watched;

use anyhow::Result;

use crate::mem::Map;
use crate::system::Kind;
use crate::target::{Env, Target};

/// The events by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    /// MADV_PAGEOUT to swap and back
    Pageout,
    /// fork, copy on write, both exit orders
    Fork,
    /// munmap and a new mapping at the same address
    Remap,
    /// Access to a hole
    Hole,
    /// MADV_DONTNEED under traffic
    Dontneed,
    /// mprotect read-only, none and back
    Mprotect,
    /// mremap away and back
    Mremap,
    /// Huge pages: collapse and split
    Thp,
    /// Merging of equal pages
    Ksm,
    /// MADV_FREE and reclaim
    Madvfree,
    /// Compaction
    Migrate,
    /// Memory mapped and registered read-only
    Readonly,
    /// Wrong keys, lengths and ranges
    Bounds,
    /// Eight queue pairs on one region
    Multiqp,
    /// Huge pages of hugetlbfs
    Hugetlb,
    /// Shared memory and files: written through, truncated, punched
    Files,
    /// One region for the whole address space
    Implicit,
    /// Operations against a thread that throws their pages away without pause
    Progress,
    /// Pages from a userfaultfd handler
    Uffd,
    /// What ends while its memory never comes
    Parked,
    /// Pages of a disk that does not answer
    Disk,
    /// Files of persistent memory, punched and cut beside traffic
    Dax,
    /// What an invalidation that takes long holds off
    Holdoff,
    /// How long an invalidation lets faults pass
    Patience,
    /// Reclaim of pages that only the device uses
    Aging,
    /// What invalidations cost beside many regions
    Many,
    /// How many pages a fault brings in
    Readahead,
    /// Which pages are taken: those that were named
    Reach,
    /// The memory of a killed process, taken before its end
    Reap,
    /// Stacks, write-only memory, protection keys, tagged addresses, registers
    Kinds,
    /// Guard pages, UFFDIO_MOVE, poison and other calls that few programs make
    Rare,
}

const ALL: [Event; 31] = [
    Event::Pageout,
    Event::Fork,
    Event::Remap,
    Event::Hole,
    Event::Dontneed,
    Event::Mprotect,
    Event::Mremap,
    Event::Thp,
    Event::Ksm,
    Event::Madvfree,
    Event::Migrate,
    Event::Readonly,
    Event::Bounds,
    Event::Multiqp,
    Event::Hugetlb,
    Event::Files,
    Event::Implicit,
    Event::Progress,
    Event::Uffd,
    Event::Parked,
    Event::Disk,
    Event::Dax,
    Event::Holdoff,
    Event::Patience,
    Event::Aging,
    Event::Many,
    Event::Readahead,
    Event::Reach,
    Event::Reap,
    Event::Kinds,
    Event::Rare,
];

/// What an event works with.
pub struct Ctx<'a> {
    /// Device, seed, report.
    pub env: &'a Env,
    /// Kind of region.
    pub kind: Kind,
    event: &'static str,
}

impl Ctx<'_> {
    /// Reports one case.
    fn case(&self, name: &str, outcome: Result<String>) -> bool {
        self.env.report.case(
            self.kind.label(),
            self.event,
            name,
            self.env.report.requires(self.kind),
            outcome,
        )
    }

    /// A registered region of `size` fresh bytes.
    fn target(&self, size: usize) -> Result<Target> {
        Target::new(self.env, self.kind, Map::anon(size)?)
    }

    /// Another seed for every `n`.
    fn seed(&self, n: u64) -> u64 {
        self.env.seed.wrapping_mul(1_000_003).wrapping_add(n)
    }
}

/// Runs the named events, or all.
pub fn run(env: &Env, kind: Kind, names: &[Event]) {
    let names = if names.is_empty() { &ALL[..] } else { names };
    for &event in names {
        // A pinned region keeps the pages it got at registration: these events have no meaning for it.
        let on_demand_only = !matches!(
            event,
            Event::Fork | Event::Bounds | Event::Multiqp | Event::Readonly
        );
        let (name, f): (_, fn(&Ctx<'_>) -> Result<()>) = match event {
            Event::Pageout => ("pageout", pageout::pageout),
            Event::Fork => ("fork", fork::fork),
            Event::Remap => ("remap", mapping::remap),
            Event::Hole => ("hole", mapping::hole),
            Event::Dontneed => ("dontneed", advice::dontneed),
            Event::Mprotect => ("mprotect", protection::mprotect),
            Event::Mremap => ("mremap", mapping::mremap),
            Event::Thp => ("thp", hugepages::thp),
            Event::Ksm => ("ksm", merge::ksm),
            Event::Madvfree => ("madvfree", advice::madvfree),
            Event::Migrate => ("migrate", hugepages::migrate),
            Event::Readonly => ("readonly", protection::readonly),
            Event::Bounds => ("bounds", bounds::bounds),
            Event::Multiqp => ("multiqp", parallel::multiqp),
            Event::Hugetlb => ("hugetlb", hugepages::hugetlb),
            Event::Files => ("files", files::files),
            Event::Implicit => ("implicit", implicit::implicit),
            Event::Progress => ("progress", progress::progress),
            Event::Uffd => ("uffd", uffd::uffd),
            Event::Parked => ("parked", parked::parked),
            Event::Disk => ("disk", disk::disk),
            Event::Dax => ("dax", dax::dax),
            Event::Holdoff => ("holdoff", holdoff::holdoff),
            Event::Patience => ("patience", patience::patience),
            Event::Aging => ("aging", aging::aging),
            Event::Many => ("many", many::many),
            Event::Readahead => ("readahead", readahead::readahead),
            Event::Reach => ("reach", reach::reach),
            Event::Reap => ("reap", reap::reaped),
            Event::Kinds => ("kinds", kinds::kinds),
            Event::Rare => ("rare", rare::rare),
        };
        if kind == Kind::Pinned && on_demand_only {
            env.report
                .skip(name, "has no meaning for pinned memory", false);
            continue;
        }
        let ctx = Ctx {
            env,
            kind,
            event: name,
        };
        if let Err(e) = f(&ctx) {
            // A failed preparation is not a fact about the region, but must not pass silently.
            ctx.case("preparation", Err(e));
        }
    }
}
