// SPDX-License-Identifier: MIT OR Apache-2.0

//! The core of a memory region: which pages are translated, which are held off, which are being
//! faulted, and what happens to each of them on an access, an invalidation or the owner's exit.
//!
//! - [`range`]: pages of a region, half-open.
//! - [`entry`]: one translation.
//! - [`node`]: its nodes, and spare ones for an insertion.
//! - [`table`]: the sparse translation table.
//! - [`hold`]: ranges between `invalidate_start` and `invalidate_end`.
//! - [`window`]: faults in flight, and which of them an invalidation made stale.
//! - [`fault`]: how a fault begins and ends.
//! - [`starve`]: faults that lose against invalidations, and the turn that they get.
//! - [`ahead`]: how many pages a fault asks for.
//! - [`parked`]: accesses that wait for a fault, and the jobs that do the faults.
//! - [`region`]: the parts above, put together; what the kernel module calls.
//!
//! All positions are *page indexes*: pages counted from the region's base, which is the start of
//! its first page rounded down to [`PART_PAGES`]. No user address appears here, so that a region
//! registered at a foreign iova works like any other.

pub mod ahead;
pub mod entry;
pub mod fault;
pub mod hold;
pub mod node;
pub mod parked;
pub mod range;
pub mod region;
pub mod starve;
pub mod table;
pub mod window;
mod windows;

pub use self::{
    ahead::ReadAhead,
    entry::{Entry, Frame},
    fault::{Begin, Finish, Held},
    hold::HoldOff,
    node::{Node, NodeMem, Pool},
    parked::{Access, Asks, Before, Do, Job, Need, Parked, Queue},
    range::PageRange,
    region::{Geometry, RegionState, Stats},
    starve::{LetPass, Losses, MOST_LOSSES, MOST_PATIENCE},
    table::Table,
    window::{Gate, Window},
};

/// Bytes in a page, as a shift.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Pages in a part: what one leaf of the table holds, and the most that one fault brings in.
/// A part is 2 MiB, the size of a huge page, and is aligned to it in the owner's address space.
pub const PART_PAGES: u64 = 512;
/// Bytes of a part.
pub const PART_BYTES: u64 = PART_PAGES * PAGE_SIZE;
