// SPDX-License-Identifier: GPL-2.0

//! Waits that can be cancelled: see `wait.c`. What a region is does not matter here: it is known by
//! its address.
//!
//! C header: `glue.h`.

use crate::glue;
use core::{cell::Cell, pin::Pin, ptr};
use kernel::{prelude::*, types::Opaque};

/// The current thread's wait for a region's sake, on its stack.
///
/// # Invariants
///
/// - If `begun`, `inner` is in the list of waits, entered by this thread: a wait is not `Send`.
/// - Nothing but the list's own code touches `inner`.
pub(crate) struct Wait {
    inner: Opaque<glue::emm_wait>,
    begun: Cell<bool>,
}

impl Wait {
    /// A wait that has not begun.
    pub(crate) const fn new() -> Self {
        // INVARIANT: it has not begun.
        Self {
            inner: Opaque::uninit(),
            begun: Cell::new(false),
        }
    }

    /// From now on the thread's sleeps can be ended for the sake of `region`. Once is enough.
    ///
    /// # Errors
    ///
    /// `EINTR` if they have been.
    pub(crate) fn begin<R>(self: Pin<&Self>, region: &R) -> Result {
        if self.begun.replace(true) {
            return Ok(());
        }
        // INVARIANT: it is entered here, by this thread.
        // SAFETY: not in the list, as it had not begun. Being pinned, it is dropped before its
        // memory goes, and `drop` takes it out. The region's address is compared only.
        if unsafe { glue::emm_wait_begin(self.inner.get(), ptr::from_ref(region).cast()) } {
            Ok(())
        } else {
            Err(EINTR)
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.begun.get() {
            // SAFETY: this thread entered it in the list, by the type's invariant.
            unsafe { glue::emm_wait_end(self.inner.get()) };
        }
    }
}

/// Ends the waits for `region`. The caller has made sure that no other begins.
pub(crate) fn cancel<R>(region: &R) {
    // SAFETY: the region's address is compared only.
    unsafe { glue::emm_wait_cancel_region(ptr::from_ref(region).cast()) };
}
