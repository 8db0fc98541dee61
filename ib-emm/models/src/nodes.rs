// SPDX-License-Identifier: MIT OR Apache-2.0

//! Nodes of the translation table from the host's allocator.

use ib_emm::emm::{Node, NodeMem};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    cell::Cell,
    ptr::NonNull,
    rc::Rc,
};

/// Nodes from the host's allocator. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct HostNodes {
    live: Rc<Cell<usize>>,
    refuse: Rc<Cell<bool>>,
}

impl HostNodes {
    /// Nodes that were handed out and not given back.
    pub fn live(&self) -> usize {
        self.live.get()
    }

    /// Whether the next allocations fail.
    pub fn refuse(&self, refuse: bool) {
        self.refuse.set(refuse);
    }
}

// SAFETY: each node is a zeroed allocation of its own.
unsafe impl NodeMem for HostNodes {
    fn alloc(&self) -> Option<NonNull<Node>> {
        if self.refuse.get() {
            return None;
        }
        self.live.set(self.live.get() + 1);
        // SAFETY: a node is not zero-sized.
        NonNull::new(unsafe { alloc_zeroed(Layout::new::<Node>()) }.cast())
    }

    unsafe fn free(&self, node: NonNull<Node>) {
        self.live.set(self.live.get() - 1);
        // SAFETY: by this function's contract it came from `alloc`, with this layout.
        unsafe { dealloc(node.as_ptr().cast(), Layout::new::<Node>()) };
    }
}
