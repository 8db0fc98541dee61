// SPDX-License-Identifier: GPL-2.0

//! The core's environment: memory for table nodes, and page frames from the VM.
//!
//! C header: `glue.h`.

use crate::{
    emm::{Node, NodeMem, PART_PAGES},
    glue,
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    mm::{Mm, MmWithUser},
    prelude::*,
    task::Task,
    types::NotThreadSafe,
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
        const { assert!(size_of::<Node>() == bindings::PAGE_SIZE) };
        // SAFETY: the cgroup is alive, by the type's invariant; callers may sleep.
        NonNull::new(unsafe { glue::emm_node_alloc(self.0) }.cast())
    }

    unsafe fn free(&self, node: NonNull<Node>) {
        // SAFETY: by this function's contract the node came from `alloc` and is not used any more.
        unsafe { glue::emm_node_free(node.as_ptr().cast()) };
    }
}

/// How far the VM may go to have a page.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum How {
    /// What is mapped now.
    Present = glue::emm_how_EMM_PRESENT,
    /// Faults that need no userfaultfd handler, but maybe a disk; until a signal comes.
    AtOnce = glue::emm_how_EMM_AT_ONCE,
    /// Also those that a userfaultfd handler has to answer; until a signal comes.
    Waiting = glue::emm_how_EMM_WAITING,
}

/// What the VM has at an address.
#[derive(Debug)]
pub(crate) struct Found {
    /// The frames of the first pages, at least one.
    pub(crate) pfns: KVec<u64>,
    /// The first page is part of a huge page that is mapped as one.
    pub(crate) huge: bool,
}

impl Found {
    /// The first frame, if all of a part's frames are there, in a row.
    pub(crate) fn in_a_row(&self) -> Option<u64> {
        let first = *self.pfns.first()?;
        let row = self
            .pfns
            .iter()
            .zip(first..)
            .all(|(pfn, next)| *pfn == next);
        (row && self.pfns.len() as u64 == PART_PAGES).then_some(first)
    }
}

/// An address space whose mmap_lock is held for reading: no invalidation begins whose caller holds
/// it for writing.
///
/// Not `kernel::mm::MmapReadGuard`: it lets a kill end the wait for the lock, and can be dropped
/// under a spinlock.
///
/// # Invariants
///
/// Owns the lock for reading, taken by this thread, and a reference on the mm (mm_users).
#[must_use = "the mmap_lock is given back when the guard is dropped"]
pub(crate) struct MmLock<'a> {
    mm: &'a Mm,
    // The lock is given back by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<'a> MmLock<'a> {
    /// Takes the lock, sleeping.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the owner is exiting, `EINTR` if a signal ended the wait.
    pub(crate) fn take(mm: &'a Mm) -> Result<Self> {
        // SAFETY: `mm` is valid, as it is a reference.
        to_result(unsafe { glue::emm_mm_lock(mm.as_raw()) })?;
        // INVARIANT: the reference and the lock were taken, by this thread.
        Ok(Self {
            mm,
            _not_send: NotThreadSafe,
        })
    }

    /// The frames of up to `nr` pages at user address `address`. Sleeps; lets go of the lock while
    /// it waits for somebody.
    pub(crate) fn get_pfns(
        &mut self,
        address: u64,
        nr: usize,
        write: bool,
        how: How,
    ) -> Result<Found> {
        let mut pfns = KVec::with_capacity(nr, GFP_KERNEL)?;
        let mut huge = false;
        let (mm, to, address) = (self.mm.as_raw(), pfns.as_mut_ptr(), address as usize);
        // INVARIANT: the lock is held again where C let go of it.
        // SAFETY: the lock is held, by the type's invariant, and the vector has room for `nr`.
        let got =
            unsafe { glue::emm_get_pfns(mm, address, nr, write, how as u32, to, &raw mut huge) };
        let got = usize::try_from(got).map_err(|_| Error::from_errno(got as i32))?;
        // SAFETY: the first `got` elements were written, and `got` is at most `nr`.
        unsafe { pfns.inc_len(got) };
        Ok(Found { pfns, huge })
    }
}

impl Drop for MmLock<'_> {
    fn drop(&mut self) {
        // SAFETY: the lock and the reference are ours, by the type's invariant.
        unsafe { glue::emm_mm_unlock(self.mm.as_raw()) };
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

/// Whether the current task was killed, and has to come to an end.
pub(crate) fn killed() -> bool {
    // SAFETY: reads flags of the current task.
    unsafe { glue::emm_killed() }
}
