// SPDX-License-Identifier: GPL-2.0

//! The core's environment: memory for table nodes, and page frames from the VM.
//!
//! C header: `glue.h`.

use crate::emm::{table::Node, NodeMem};
use core::{mem::MaybeUninit, ptr::NonNull};
use kernel::{bindings, ffi, prelude::*};

#[allow(improper_ctypes, reason = "bindgen's empty structs, behind pointers")]
unsafe extern "C" {
    fn emm_get_pfns(
        mm: *mut bindings::mm_struct,
        address: usize,
        nr: usize,
        write: bool,
        pfns: *mut u64,
    ) -> isize;
    fn emm_pfn_address(pfn: u64) -> *mut ffi::c_void;
    fn emm_pfn_mark_dirty(pfn: u64);
    fn emm_task_size() -> usize;
    fn emm_cond_resched();
}

/// Table nodes from kmalloc.
#[derive(Debug)]
pub(crate) struct KernelNodes;

// SAFETY: each node is a zeroed allocation of its own, freed only by `free`.
unsafe impl NodeMem for KernelNodes {
    fn alloc(&self) -> Option<NonNull<Node>> {
        let node = KBox::<MaybeUninit<Node>>::new_uninit(GFP_KERNEL | __GFP_ZERO).ok()?;
        NonNull::new(KBox::into_raw(node).cast())
    }

    unsafe fn free(&self, node: NonNull<Node>) {
        // SAFETY: by this function's contract the node came from `alloc`, that is, from a
        // `KBox<MaybeUninit<Node>>`, and is not used any more.
        drop(unsafe { KBox::from_raw(node.as_ptr().cast::<MaybeUninit<Node>>()) });
    }
}

/// The frames of up to `nr` pages at user address `address` of `mm`, appended to `pfns`. At least
/// one, on success. Sleeps.
///
/// # Safety
///
/// `mm` is valid (a reference on `mm_count` suffices).
pub(crate) unsafe fn get_pfns(
    mm: *mut bindings::mm_struct,
    address: u64,
    nr: usize,
    write: bool,
) -> Result<KVec<u64>> {
    let mut pfns = KVec::with_capacity(nr, GFP_KERNEL)?;
    // SAFETY: `mm` is valid by this function's contract, and the vector has room for `nr`.
    let got = unsafe { emm_get_pfns(mm, address as usize, nr, write, pfns.as_mut_ptr()) };
    let got = usize::try_from(got).map_err(|_| Error::from_errno(got as i32))?;
    // SAFETY: the first `got` elements were written, and `got` is at most `nr`.
    unsafe { pfns.inc_len(got) };
    Ok(pfns)
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
