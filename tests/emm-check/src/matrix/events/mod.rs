//! The events, by what they do: each plays on a scene and says what happened.

mod fork;
mod mapping;
mod moving;
mod reclaim;
mod shared;
mod touch;
mod uffd;

use anyhow::Result;

use super::process::Fate;
use super::scene::{Memory, Scene};

/// What happens to the memory, or to the process that has registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    /// First touch by the device: the zero page
    FirstTouch,
    /// Read, then written
    ReadThenWrite,
    /// fork; the child exits first
    ForkChildFirst,
    /// fork; the parent writes on while the child lives
    ForkCow,
    /// MADV_DONTNEED
    Dontneed,
    /// MADV_FREE, and reclaim of what was not written again
    FreeReclaim,
    /// MADV_COLD and MADV_PAGEOUT
    ColdPageout,
    /// Out to zram and in again
    SwapZram,
    /// Out to a disk and in again
    SwapDisk,
    /// munmap, and a new mapping at the same address
    Remap,
    /// mremap away and back
    Mremap,
    /// mprotect to read-only and to nothing, and back
    Mprotect,
    /// The heap is trimmed and grows again
    Brk,
    /// Transparent huge pages are split and collapsed
    Thp,
    /// Huge pages of hugetlbfs
    Hugetlb,
    /// KSM merges and parts pages
    Ksm,
    /// move_pages to another NUMA node and back
    MovePages,
    /// Compaction
    Compaction,
    /// NUMA balancing
    NumaBalancing,
    /// A userfaultfd handler brings missing pages
    UffdMissing,
    /// A userfaultfd handler lifts write protection
    UffdWp,
    /// A memfd is truncated and grows again
    Truncate,
    /// A hole is punched into a memfd
    PunchHole,
    /// A file is written back
    Writeback,
    /// A memory cgroup that is too small
    Memcg,
    /// The OOM killer and its reaper
    Oom,
    /// exec
    Exec,
    /// exit in flight
    Exit,
    /// kill -9 in flight
    Kill,
    /// The parent exits, a forked child lives on
    ParentFirst,
    /// `rdma link delete` in flight
    DeviceRemoval,
    /// The net device goes down in flight
    LinkDown,
    /// rmmod while in use
    Rmmod,
}

/// All of them, in the order of the table.
pub const ALL: [Event; 33] = [
    Event::FirstTouch,
    Event::ReadThenWrite,
    Event::ForkChildFirst,
    Event::ForkCow,
    Event::Dontneed,
    Event::FreeReclaim,
    Event::ColdPageout,
    Event::SwapZram,
    Event::SwapDisk,
    Event::Remap,
    Event::Mremap,
    Event::Mprotect,
    Event::Brk,
    Event::Thp,
    Event::Hugetlb,
    Event::Ksm,
    Event::MovePages,
    Event::Compaction,
    Event::NumaBalancing,
    Event::UffdMissing,
    Event::UffdWp,
    Event::Truncate,
    Event::PunchHole,
    Event::Writeback,
    Event::Memcg,
    Event::Oom,
    Event::Exec,
    Event::Exit,
    Event::Kill,
    Event::ParentFirst,
    Event::DeviceRemoval,
    Event::LinkDown,
    Event::Rmmod,
];

impl Event {
    /// Its name on the command line and in the table.
    pub fn name(self) -> String {
        use clap::ValueEnum as _;
        let value = self.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// The memory that it happens to.
    pub fn memory(self) -> Memory {
        match self {
            Self::Thp => Memory::Huge,
            Self::Hugetlb => Memory::Hugetlb,
            Self::Truncate | Self::PunchHole => Memory::Memfd,
            Self::Writeback => Memory::File,
            Self::Brk => Memory::Heap,
            Self::Memcg => Memory::Big,
            _ => Memory::Small,
        }
    }

    /// What happens to the process, if it is not the memory alone that something happens to.
    pub fn fate(self) -> Option<Fate> {
        Some(match self {
            Self::Oom => Fate::Oom,
            Self::Exec => Fate::Exec,
            Self::Exit => Fate::Exit,
            Self::Kill => Fate::Kill,
            Self::ParentFirst => Fate::ParentFirst,
            Self::DeviceRemoval => Fate::DeviceRemoval,
            Self::LinkDown => Fate::LinkDown,
            Self::Rmmod => Fate::Rmmod,
            _ => return None,
        })
    }

    /// Whether the device and the CPU see the same memory afterwards although the region is pinned.
    pub fn holds_for_pinned(self) -> bool {
        self.fate().is_some()
            || matches!(
                self,
                Self::ForkChildFirst | Self::ForkCow | Self::Compaction | Self::NumaBalancing
            )
    }

    /// Plays it, with traffic before, between and after its steps.
    pub fn play(self, scene: &mut Scene<'_>) -> Result<String> {
        match self {
            Self::FirstTouch => touch::first(scene),
            Self::ReadThenWrite => touch::read_then_write(scene),
            Self::ForkChildFirst => fork::child_first(scene),
            Self::ForkCow => fork::cow(scene),
            Self::Dontneed => mapping::dontneed(scene),
            Self::FreeReclaim => reclaim::free(scene),
            Self::ColdPageout => reclaim::cold(scene),
            Self::SwapZram => reclaim::swap_zram(scene),
            Self::SwapDisk => reclaim::swap_disk(scene),
            Self::Remap => mapping::remap(scene),
            Self::Mremap => mapping::mremap(scene),
            Self::Mprotect => mapping::mprotect(scene),
            Self::Brk => mapping::brk(scene),
            Self::Thp => moving::thp(scene),
            Self::Hugetlb => moving::hugetlb(scene),
            Self::Ksm => moving::ksm(scene),
            Self::MovePages => moving::move_pages(scene),
            Self::Compaction => moving::compaction(scene),
            Self::NumaBalancing => moving::numa_balancing(scene),
            Self::UffdMissing => uffd::missing(scene),
            Self::UffdWp => uffd::write_protect(scene),
            Self::Truncate => shared::truncate(scene),
            Self::PunchHole => shared::punch_hole(scene),
            Self::Writeback => shared::writeback(scene),
            Self::Memcg => reclaim::memcg(scene),
            _ => anyhow::bail!("{} happens to a process", self.name()),
        }
    }
}
