// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can happen to a region.

use arbitrary::Arbitrary;

/// Something that happens to a region. Page numbers count from its first page.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A fault asks the VM, which has at most so many pages for it.
    Ask {
        /// The first page.
        page: u16,
        /// Pages.
        len: u8,
        /// To be written.
        write: bool,
        /// Advice, and no access.
        prefetch: bool,
        /// Also pages behind those needed.
        ahead: bool,
        /// The most pages that the VM has for it.
        most: u16,
    },
    /// A fault asks for a whole part.
    AskHuge {
        /// The first page.
        page: u16,
        /// To be written.
        write: bool,
    },
    /// A fault's answer, given when it asked, is installed; with no spare nodes if `poor`.
    Install {
        /// Which one, modulo those there are.
        fault: u8,
        /// No spare nodes.
        poor: bool,
    },
    /// A fault is going to wait: it asks again, for its first page only.
    Narrow {
        /// Which one, modulo those there are.
        fault: u8,
    },
    /// What a fault asked for was brought in: the page tables are looked at.
    Renew {
        /// Which one, modulo those there are.
        fault: u8,
    },
    /// An invalidation starts.
    Start {
        /// The first page.
        page: u16,
        /// Pages.
        len: u16,
    },
    /// The VM changes the pages of an invalidation under way, then ends it.
    End {
        /// Which one, modulo those there are.
        invalidation: u8,
        /// What the VM does.
        change: Change,
    },
    /// A copy.
    Access {
        /// The first page.
        page: u16,
        /// To be written.
        write: bool,
    },
    /// A fault starves; or, if one does, it is over.
    Starve {
        /// The first page.
        page: u16,
    },
    /// The fault that starves loses again.
    Lose {
        /// As its page is held off.
        held_off: bool,
    },
    /// A fault's thread gives up, and leaves its window to itself.
    GiveUp {
        /// Which one, modulo those there are.
        fault: u8,
    },
    /// The owner exits, if `sure` is the highest number: seldom.
    Exit {
        /// Whether it happens: only at the highest number.
        sure: u8,
    },
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
