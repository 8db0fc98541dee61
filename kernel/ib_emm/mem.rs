// SPDX-License-Identifier: GPL-2.0

//! The core's environment: memory for table nodes, and what can be done with a page frame.
//!
//! C header: `glue.h`.

use crate::{
    emm::{Entry, Node, NodeMem, PAGE_SHIFT, PART_PAGES},
    glue,
};
use core::ptr::NonNull;
use kernel::{bindings, mm::MmWithUser, prelude::*, task::Task};

/// What the core takes for granted of the machine: pages of 4 KiB, and huge ones of a part's size.
const _: () = {
    assert!(glue::emm_assumed_EMM_PAGE_SHIFT == PAGE_SHIFT);
    assert!(1_u64 << glue::emm_assumed_EMM_PMD_ORDER == PART_PAGES);
    // An entry has a frame's number above its flags: all that 52 bits of physical address have.
    assert!(52 - PAGE_SHIFT + Entry::FLAG_BITS <= u64::BITS);
    assert!(size_of::<Node>() == bindings::PAGE_SIZE && size_of::<usize>() == size_of::<u64>());
};

/// Table nodes, charged to the memory cgroup of a region's owner. Faults run in the driver's
/// threads, which have none of their own.
///
/// # Invariants
///
/// Owns a reference on the cgroup, if it is not null (the kernel has no such cgroups, or was told
/// to do without).
#[derive(Debug)]
pub(crate) struct KernelNodes(*mut bindings::mem_cgroup);

// SAFETY: a memory cgroup may be charged and put from any thread.
unsafe impl Send for KernelNodes {}
// SAFETY: a memory cgroup may be charged by several threads at once.
unsafe impl Sync for KernelNodes {}

impl KernelNodes {
    /// The owner of `mm` pays.
    pub(crate) fn new(mm: &MmWithUser) -> Self {
        // INVARIANT: the reference is taken here.
        // SAFETY: `mm` is valid, as it is a reference.
        Self(unsafe { glue::emm_memcg_get(mm.as_raw()) })
    }
}

impl Clone for KernelNodes {
    fn clone(&self) -> Self {
        // SAFETY: this one's reference keeps the cgroup, by the type's invariant.
        unsafe { glue::emm_memcg_hold(self.0) };
        // INVARIANT: the reference was taken above.
        Self(self.0)
    }
}

impl Drop for KernelNodes {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, by the type's invariant, and not used any more.
        unsafe { glue::emm_memcg_put(self.0) };
    }
}

// SAFETY: each node is a zeroed page of its own, freed only by `free`.
unsafe impl NodeMem for KernelNodes {
    fn alloc(&self) -> Option<NonNull<Node>> {
        // SAFETY: the cgroup is alive, by the type's invariant; callers may sleep.
        NonNull::new(unsafe { glue::emm_node_alloc(self.0, true) }.cast())
    }

    fn alloc_at_once(&self) -> Option<NonNull<Node>> {
        // SAFETY: the cgroup is alive, by the type's invariant.
        NonNull::new(unsafe { glue::emm_node_alloc(self.0, false) }.cast())
    }

    unsafe fn free(&self, node: NonNull<Node>) {
        // SAFETY: by this function's contract the node came from `alloc` and is not used any more.
        unsafe { glue::emm_node_free(node.as_ptr().cast()) };
    }
}

/// The kernel's address of page frame `pfn`.
///
/// # Safety
///
/// The VM named the frame: it has a `struct page`, and is in the kernel's direct map.
pub(crate) unsafe fn pfn_address(pfn: u64) -> *mut u8 {
    // SAFETY: this function's contract.
    unsafe { glue::emm_pfn_address(pfn) }.cast()
}

/// Tells the VM that the page was written.
///
/// # Safety
///
/// The page is mapped in an address space that the VM can't take it from meanwhile.
pub(crate) unsafe fn pfn_mark_dirty(pfn: u64) {
    // SAFETY: this function's contract.
    unsafe { glue::emm_pfn_mark_dirty(pfn) };
}

/// Says that no region is made there, and why. Not too often.
pub(crate) fn not_in_user_space(start: u64, length: u64) {
    // SAFETY: numbers only.
    unsafe { glue::emm_not_in_user_space(start, length) };
}

/// The first address behind user space.
pub(crate) fn task_size() -> u64 {
    // SAFETY: reads a property of the current task.
    unsafe { glue::emm_task_size() as u64 }
}

/// Lets others run. May sleep: to be called with no lock held.
pub(crate) fn cond_resched() {
    // SAFETY: no memory is touched but the scheduler's own; where it must not sleep it warns.
    unsafe { glue::emm_cond_resched() };
}

/// The current thread, by a number that no other one has while it lives.
pub(crate) fn thread() -> usize {
    Task::current_raw().addr()
}

/// Whether page tables may be looked at in this context.
pub(crate) fn may_look() -> bool {
    // SAFETY: reads what the context is.
    unsafe { glue::emm_may_look() }
}

/// Whether the current task was killed, and has to come to an end.
pub(crate) fn killed() -> bool {
    // SAFETY: reads flags of the current task.
    unsafe { glue::emm_killed() }
}
