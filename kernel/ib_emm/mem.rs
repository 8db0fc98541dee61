// SPDX-License-Identifier: GPL-2.0

//! The core's environment: memory for table nodes, and page frames from the VM.
//!
//! C header: `glue.h`.

use crate::emm::{Node, NodeMem, PART_PAGES};
use core::ptr::NonNull;
use kernel::{bindings, error::to_result, ffi, prelude::*};

// SAFETY: the declarations are those of `glue.h`.
#[allow(improper_ctypes, reason = "bindgen's empty structs, behind pointers")]
unsafe extern "C" {
    fn emm_mm_lock(mm: *mut bindings::mm_struct) -> ffi::c_int;
    fn emm_mm_unlock(mm: *mut bindings::mm_struct);
    fn emm_get_pfns(
        mm: *mut bindings::mm_struct,
        address: usize,
        nr: usize,
        write: bool,
        how: How,
        pfns: *mut u64,
        huge: *mut bool,
    ) -> isize;
    fn emm_node_alloc(memcg: *mut bindings::mem_cgroup) -> *mut ffi::c_void;
    fn emm_node_free(node: *mut ffi::c_void);
    fn emm_memcg_get(mm: *mut bindings::mm_struct) -> *mut bindings::mem_cgroup;
    fn emm_memcg_put(memcg: *mut bindings::mem_cgroup);
    fn emm_pfn_address(pfn: u64) -> *mut ffi::c_void;
    fn emm_pfn_mark_dirty(pfn: u64);
    fn emm_task_size() -> usize;
    fn emm_cond_resched();
    fn emm_killed() -> bool;
}

/// The memory cgroup of a region's owner, which pays for its table. Faults run in the driver's
/// threads, which have none of their own.
///
/// # Invariants
///
/// Holds a reference on the cgroup, if it is not null.
#[derive(Debug)]
pub(crate) struct Payer(*mut bindings::mem_cgroup);

// SAFETY: a memory cgroup may be used and put from any thread.
unsafe impl Send for Payer {}
// SAFETY: as above.
unsafe impl Sync for Payer {}

impl Payer {
    /// The owner of `mm` pays.
    ///
    /// # Safety
    ///
    /// The caller holds a reference on `mm`.
    pub(crate) unsafe fn new(mm: *mut bindings::mm_struct) -> Self {
        // INVARIANT: the reference is taken here.
        // SAFETY: by this function's contract.
        Self(unsafe { emm_memcg_get(mm) })
    }

    /// Nodes at its cost.
    ///
    /// # Safety
    ///
    /// They are not asked for memory after the payer is gone.
    pub(crate) const unsafe fn nodes(&self) -> KernelNodes {
        KernelNodes(self.0)
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, by the type's invariant.
        unsafe { emm_memcg_put(self.0) };
    }
}

/// Table nodes, charged to a memory cgroup.
///
/// # Invariants
///
/// The [`Payer`] that it came from is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelNodes(*mut bindings::mem_cgroup);

// SAFETY: as for `Payer`.
unsafe impl Send for KernelNodes {}
// SAFETY: as for `Payer`.
unsafe impl Sync for KernelNodes {}

// SAFETY: each node is a zeroed page of its own, freed only by `free`.
unsafe impl NodeMem for KernelNodes {
    fn alloc(&self) -> Option<NonNull<Node>> {
        const { assert!(size_of::<Node>() == bindings::PAGE_SIZE) };
        // SAFETY: the cgroup is alive, by the type's invariant; callers may sleep.
        NonNull::new(unsafe { emm_node_alloc(self.0) }.cast())
    }

    unsafe fn free(&self, node: NonNull<Node>) {
        // SAFETY: by this function's contract the node came from `alloc` and is not used any more.
        unsafe { emm_node_free(node.as_ptr().cast()) };
    }
}

/// How far the VM may go to have a page. `enum emm_how` of `glue.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) enum How {
    /// What is mapped now.
    Present,
    /// Faults that need no userfaultfd handler, but maybe a disk; until a signal comes.
    AtOnce,
    /// Also those that a userfaultfd handler has to answer; until a signal comes.
    Waiting,
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
        let row = self.pfns.iter().zip(first..).all(|(pfn, next)| *pfn == next);
        (row && self.pfns.len() as u64 == PART_PAGES).then_some(first)
    }
}

/// An address space whose mmap_lock is held for reading: no invalidation begins whose caller holds
/// it for writing.
///
/// # Invariants
///
/// Holds the lock, and a reference on the mm (mm_users).
pub(crate) struct MmLock(*mut bindings::mm_struct);

impl MmLock {
    /// Takes the lock, sleeping.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the owner is exiting, `EINTR` if a signal ended the wait.
    ///
    /// # Safety
    ///
    /// `mm` is valid (a reference on `mm_count` suffices).
    pub(crate) unsafe fn take(mm: *mut bindings::mm_struct) -> Result<Self> {
        // SAFETY: by this function's contract.
        to_result(unsafe { emm_mm_lock(mm) })?;
        // INVARIANT: the reference and the lock were taken.
        Ok(Self(mm))
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
        let (to, address) = (pfns.as_mut_ptr(), address as usize);
        // SAFETY: the lock is held, by the type's invariant, and the vector has room for `nr`.
        let got = unsafe { emm_get_pfns(self.0, address, nr, write, how, to, &mut huge) };
        let got = usize::try_from(got).map_err(|_| Error::from_errno(got as i32))?;
        // SAFETY: the first `got` elements were written, and `got` is at most `nr`.
        unsafe { pfns.inc_len(got) };
        Ok(Found { pfns, huge })
    }
}

impl Drop for MmLock {
    fn drop(&mut self) {
        // SAFETY: the lock and the reference are held, by the type's invariant.
        unsafe { emm_mm_unlock(self.0) };
    }
}

/// The kernel's address of page frame `pfn`.
pub(crate) fn pfn_address(pfn: u64) -> *mut u8 {
    // SAFETY: an address computation; frames come from the VM only, so they have a `struct page`.
    unsafe { emm_pfn_address(pfn) }.cast()
}

/// Tells the VM that the page was written.
///
/// # Safety
///
/// The page is mapped in an address space that the VM is not allowed to take it from now.
pub(crate) unsafe fn pfn_mark_dirty(pfn: u64) {
    // SAFETY: this function's contract.
    unsafe { emm_pfn_mark_dirty(pfn) };
}

/// The first address behind user space.
pub(crate) fn task_size() -> u64 {
    // SAFETY: reads a property of the current task.
    unsafe { emm_task_size() as u64 }
}

/// Lets others run. May sleep.
pub(crate) fn cond_resched() {
    // SAFETY: callers are in process context and hold no lock.
    unsafe { emm_cond_resched() };
}

/// The current thread, by a number that no other one has while it lives.
pub(crate) fn thread() -> usize {
    // SAFETY: reads the current task's address.
    unsafe { bindings::get_current() as usize }
}

/// Whether the current task was killed, and has to come to an end.
pub(crate) fn killed() -> bool {
    // SAFETY: reads the current task.
    unsafe { emm_killed() }
}
