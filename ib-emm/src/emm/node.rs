// SPDX-License-Identifier: MIT OR Apache-2.0

//! The nodes of the translation table, where they come from, and spare ones.

use core::{ptr::NonNull, sync::atomic::AtomicU64};

/// Bits of page index that one level takes.
pub(super) const BITS: u32 = 9;
/// Slots of a node.
pub(super) const SLOTS: usize = 1 << BITS;
/// Levels that a table can have: 6 × 9 bits of page index are more than an address space.
pub const MAX_LEVELS: u32 = 6;

/// One node: 512 slots, entries in a leaf, children elsewhere. Zeroed when empty.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Node(pub(super) [AtomicU64; SLOTS]);

/// Where nodes come from and go to.
///
/// # Safety
///
/// `alloc` returns a zeroed [`Node`] that nobody else uses until it is handed to `free`.
pub unsafe trait NodeMem {
    /// A zeroed node, or `None` when there is no memory. May sleep; never called under a lock.
    fn alloc(&self) -> Option<NonNull<Node>>;

    /// The same, without sleeping.
    fn alloc_at_once(&self) -> Option<NonNull<Node>> {
        self.alloc()
    }

    /// Gives `node` back. Never sleeps.
    ///
    /// # Safety
    ///
    /// `node` came from `alloc` and is not used afterwards.
    unsafe fn free(&self, node: NonNull<Node>);
}

/// Spare nodes for one insertion.
///
/// # Invariants
///
/// Each node in `nodes` came from `mem` and is owned by the pool.
#[derive(Debug)]
pub struct Pool<'a, M: NodeMem> {
    mem: &'a M,
    nodes: [Option<NonNull<Node>>; MAX_LEVELS as usize],
    len: usize,
}

impl<'a, M: NodeMem> Pool<'a, M> {
    /// A pool without nodes.
    #[must_use]
    pub const fn new(mem: &'a M) -> Self {
        Self {
            mem,
            nodes: [None; MAX_LEVELS as usize],
            len: 0,
        }
    }

    /// Brings the pool to `want` nodes. May sleep.
    ///
    /// # Returns
    ///
    /// Whether there was memory for it.
    #[must_use]
    pub fn fill(&mut self, want: usize) -> bool {
        self.fill_with(want, M::alloc)
    }

    /// The same, without sleeping.
    #[must_use]
    pub fn fill_at_once(&mut self, want: usize) -> bool {
        self.fill_with(want, M::alloc_at_once)
    }

    fn fill_with(&mut self, want: usize, alloc: impl Fn(&M) -> Option<NonNull<Node>>) -> bool {
        while self.len < want.min(self.nodes.len()) {
            let Some(node) = alloc(self.mem) else {
                return false;
            };
            self.nodes[self.len] = Some(node);
            self.len += 1;
        }
        true
    }

    /// Nodes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes one out.
    pub(super) fn take(&mut self) -> Option<NonNull<Node>> {
        self.len = self.len.checked_sub(1)?;
        self.nodes[self.len].take()
    }
}

impl<M: NodeMem> Drop for Pool<'_, M> {
    fn drop(&mut self) {
        while let Some(node) = self.take() {
            // SAFETY: by the type's invariant the node came from `mem`, and it is ours.
            unsafe { self.mem.free(node) };
        }
    }
}
