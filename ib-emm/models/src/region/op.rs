// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can happen to a region.

use arbitrary::Arbitrary;

/// Something that happens to a region. Page numbers count from its first page.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A fault asks the VM, which has at most so many pages for it.
    Ask {
        page: u16,
        len: u8,
        write: bool,
        prefetch: bool,
        most: u16,
    },
    /// A fault asks for a whole part.
    AskHuge { page: u16, write: bool },
    /// A fault's answer, given when it asked, is installed; with no spare nodes if `poor`.
    Install { fault: u8, poor: bool },
    /// A fault is going to wait: it asks again, for its first page only.
    Narrow { fault: u8 },
    /// An invalidation starts.
    Start { page: u16, len: u16 },
    /// The VM changes the pages of an invalidation under way, then ends it.
    End { invalidation: u8, change: Change },
    /// A copy.
    Access { page: u16, write: bool },
    /// A fault starves; or, if one does, it is over.
    Starve { page: u16 },
    /// The owner exits, if `sure` is the highest number: seldom.
    Exit { sure: u8 },
}

/// What the VM does between start and end.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Change {
    /// Other frames.
    Replace,
    /// The same frames, not to be written: a later write replaces them.
    Protect,
    /// Nothing there any more.
    Unmap,
}
