// SPDX-License-Identifier: GPL-2.0

//! Waits that can be cancelled: see `wait.c`.

use core::{cell::UnsafeCell, marker::PhantomPinned, pin::Pin};
use kernel::{bindings, ffi, prelude::*};

/// `struct emm_wait`.
#[repr(C)]
struct CWait {
    node: bindings::list_head,
    task: *mut bindings::task_struct,
    work: *mut bindings::work_struct,
    region: *const ffi::c_void,
}

// SAFETY: the declarations are those of `glue.h`.
#[allow(improper_ctypes, reason = "bindgen's empty structs, behind pointers")]
unsafe extern "C" {
    fn emm_wait_begin(wait: *mut CWait, region: *const ffi::c_void) -> bool;
    fn emm_wait_end(wait: *mut CWait);
    fn emm_wait_cancel_region(region: *const ffi::c_void);
}

/// The current thread's wait for a region's sake, on its stack.
///
/// # Invariants
///
/// While `begun`, it is in the list of waits and not moved.
pub(crate) struct Wait {
    inner: UnsafeCell<CWait>,
    begun: bool,
    _pin: PhantomPinned,
}

impl Wait {
    /// A wait that has not begun.
    pub(crate) const fn new() -> Self {
        Self {
            // SAFETY: all zero is valid for pointers, which `emm_wait_begin` sets.
            inner: UnsafeCell::new(unsafe { core::mem::zeroed() }),
            begun: false,
            _pin: PhantomPinned,
        }
    }

    /// From now on the thread's sleeps can be ended for the sake of `region`. Once is enough.
    ///
    /// # Errors
    ///
    /// `EINTR` if they have been.
    pub(crate) fn begin<T>(self: Pin<&mut Self>, region: *const T) -> Result {
        if self.begun {
            return Ok(());
        }
        // SAFETY: not moved out of: only a flag is set, and the address is passed on.
        let this = unsafe { self.get_unchecked_mut() };
        this.begun = true;
        // SAFETY: pinned, and taken out of the list before it goes.
        if unsafe { emm_wait_begin(this.inner.get(), region.cast()) } {
            Ok(())
        } else {
            Err(EINTR)
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.begun {
            // SAFETY: it is in the list, by the type's invariant.
            unsafe { emm_wait_end(self.inner.get()) };
        }
    }
}

/// Ends the waits for `region`. The caller has made sure that no other begins.
pub(crate) fn cancel<T>(region: *const T) {
    // SAFETY: the address is compared only.
    unsafe { emm_wait_cancel_region(region.cast()) };
}
