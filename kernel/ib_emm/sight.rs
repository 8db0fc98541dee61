// SPDX-License-Identifier: GPL-2.0

//! What can be seen of the regions: see `sight.c`.

use crate::region::Region;
use kernel::{bindings, ffi, types::Opaque};

/// `struct emm_listed`.
#[repr(C)]
struct CListed {
    node: bindings::list_head,
    region: *const Region,
    owner: bindings::pid_t,
}

// SAFETY: the declarations are those of `glue.h`.
#[allow(improper_ctypes, reason = "regions are opaque to C")]
unsafe extern "C" {
    fn emm_listed_add(listed: *mut CListed, region: *const Region);
    fn emm_listed_del(listed: *mut CListed);
    fn emm_sight_init();
    fn emm_sight_exit();
    fn emm_trace_register(start: u64, length: u64, error: ffi::c_int);
    fn emm_trace_fault(address: u64, pages: u64, write: bool, huge: bool, error: ffi::c_int);
    fn emm_trace_invalidate(start: u64, end: u64, pages: u64, blockable: bool);
    fn emm_trace_release(start: u64, length: u64);
}

/// A region's place in the list that debugfs shows, part of the region.
pub(crate) struct Listed(Opaque<CListed>);

// SAFETY: touched under the list's lock only, by `sight.c`.
unsafe impl Send for Listed {}
// SAFETY: as above.
unsafe impl Sync for Listed {}

impl Listed {
    /// Not in the list.
    pub(crate) const fn new() -> Self {
        Self(Opaque::uninit())
    }

    /// Enters `region`, which this is part of.
    ///
    /// # Safety
    ///
    /// It is not in the list. `region` can be asked for its counts, and stays where it is, until
    /// [`Self::del`].
    pub(crate) unsafe fn add(&self, region: &Region) {
        // SAFETY: by this function's contract.
        unsafe { emm_listed_add(self.0.get(), region) };
    }

    /// Takes the region out. Nobody looks at it on return.
    ///
    /// # Safety
    ///
    /// It is in the list.
    pub(crate) unsafe fn del(&self) {
        // SAFETY: by this function's contract.
        unsafe { emm_listed_del(self.0.get()) };
    }
}

/// The debugfs folder, while it lives.
pub(crate) struct Folder(());

impl Folder {
    /// Makes it. Once, when the module is loaded.
    pub(crate) fn new() -> Self {
        // SAFETY: process context, and nobody made it before.
        unsafe { emm_sight_init() };
        Self(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: `new` made it.
        unsafe { emm_sight_exit() };
    }
}

/// A registration ended with `error` (0 or negative errno).
pub(crate) fn trace_register(start: u64, length: u64, error: ffi::c_int) {
    // SAFETY: records numbers.
    unsafe { emm_trace_register(start, length, error) };
}

/// The VM was asked for pages at `address`, and `pages` came, or `error` (negative errno).
pub(crate) fn trace_fault(address: u64, pages: u64, write: bool, huge: bool, error: ffi::c_int) {
    // SAFETY: records numbers.
    unsafe { emm_trace_fault(address, pages, write, huge, error) };
}

/// An invalidation of user addresses [`start`, `end`) took `pages` translations.
pub(crate) fn trace_invalidate(start: u64, end: u64, pages: u64, blockable: bool) {
    // SAFETY: records numbers.
    unsafe { emm_trace_invalidate(start, end, pages, blockable) };
}

/// The owner of the region went away.
pub(crate) fn trace_release(start: u64, length: u64) {
    // SAFETY: records numbers.
    unsafe { emm_trace_release(start, length) };
}
