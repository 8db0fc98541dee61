// SPDX-License-Identifier: GPL-2.0

//! What can be seen of the regions: see `sight.c`.
//!
//! C header: `glue.h`.

use crate::glue;
use core::ptr::NonNull;
use kernel::{ffi, prelude::*, types::Opaque};

/// A region's place in the list that debugfs shows, part of the region.
///
/// # Invariants
///
/// `inner` was entered in the list, and is touched under the list's lock only.
#[pin_data(PinnedDrop)]
pub(crate) struct Listed {
    #[pin]
    inner: Opaque<glue::emm_listed>,
}

// SAFETY: the list's code may take it out on any thread.
unsafe impl Send for Listed {}
// SAFETY: `&Listed` allows to take it out, under the list's lock.
unsafe impl Sync for Listed {}

impl Listed {
    /// Enters `region`, which it is part of. Sleeps.
    ///
    /// # Safety
    ///
    /// From now until this is dropped `region` is valid, and can be asked for its range and its
    /// counts.
    pub(crate) unsafe fn new(region: NonNull<glue::emm_region>) -> impl PinInit<Self> {
        // INVARIANT: `emm_listed_add` enters it.
        let region = region.as_ptr();
        pin_init!(Self {
            // SAFETY: `slot` is valid for writing, and pinned: it is dropped before its memory
            // goes. The region is valid meanwhile, by this function's contract.
            inner <- Opaque::ffi_init(move |slot| unsafe { glue::emm_listed_add(slot, region) }),
        })
    }
}

impl Listed {
    /// Takes it out, if it is in the list. Sleeps.
    pub(crate) fn remove(&self) {
        // SAFETY: it was entered, by the type's invariant.
        unsafe { glue::emm_listed_del(self.inner.get()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Listed {
    fn drop(self: Pin<&mut Self>) {
        self.remove();
    }
}

/// The debugfs folder, while it lives.
pub(crate) struct Folder(());

impl Folder {
    /// Makes it. Once, when the module is loaded.
    pub(crate) fn new() -> Self {
        // SAFETY: process context, and nobody made it before.
        unsafe { glue::emm_sight_init() };
        Self(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: `new` made it.
        unsafe { glue::emm_sight_exit() };
    }
}

/// A registration ended with `error` (0 or negative errno).
pub(crate) fn trace_register(start: u64, length: u64, error: ffi::c_int) {
    // SAFETY: records numbers, in any context.
    unsafe { glue::emm_trace_register(start, length, error) };
}

/// The VM was asked for pages at `address`, and `pages` came, or `error` (negative errno).
pub(crate) fn trace_fault(address: u64, pages: u64, write: bool, huge: bool, error: ffi::c_int) {
    // SAFETY: records numbers, in any context.
    unsafe { glue::emm_trace_fault(address, pages, write, huge, error) };
}

/// The VM's answer for the page at `address` was stale before it could be entered: that fault lost
/// so often by now, and begins again.
pub(crate) fn trace_fault_lost(address: u64, losses: u32) {
    // SAFETY: records numbers, in any context.
    unsafe { glue::emm_trace_fault_lost(address, losses) };
}

/// An invalidation of user addresses [`start`, `end`) took `pages` translations.
pub(crate) fn trace_invalidate(start: u64, end: u64, pages: u64, blockable: bool) {
    // SAFETY: records numbers, in any context.
    unsafe { glue::emm_trace_invalidate(start, end, pages, blockable) };
}

/// The owner of the region went away.
pub(crate) fn trace_release(start: u64, length: u64) {
    // SAFETY: records numbers, in any context.
    unsafe { glue::emm_trace_release(start, length) };
}
