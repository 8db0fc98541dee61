// SPDX-License-Identifier: GPL-2.0

//! The process that a region's memory belongs to: what a fault brings in is charged to it, and
//! placed as it wants, whichever thread faults. See `owner.c` and `hand.c`.
//!
//! C header: `glue.h`.

use crate::glue;
use core::{cell::Cell, pin::Pin};
use kernel::{error::to_result, mm::Mm, prelude::*, types::Opaque};

/// The owner of an address space.
///
/// # Invariants
///
/// `inner` is initialised, and its address space is alive.
pub(crate) struct Owner {
    inner: Opaque<glue::emm_owner>,
}

// SAFETY: C code reads and writes what changes atomically.
unsafe impl Send for Owner {}
// SAFETY: as for `Send`.
unsafe impl Sync for Owner {}

impl Owner {
    /// The owner of `mm`.
    ///
    /// # Safety
    ///
    /// A reference on `mm` (mm_count) outlives the result.
    pub(crate) unsafe fn new(mm: &Mm) -> Self {
        let inner = Opaque::uninit();
        // SAFETY: there is room for it, and `mm` is valid, as it is a reference.
        unsafe { glue::emm_owner_init(inner.get(), mm.as_raw()) };
        // INVARIANT: initialised above; the caller keeps the address space.
        Self { inner }
    }

    /// As C has it.
    pub(crate) fn as_raw(&self) -> *mut glue::emm_owner {
        self.inner.get()
    }

    /// Whether what is at user address `address` can't be brought in for it by this thread, whatever
    /// that enters, but by a hand. Called with the mmap_lock held.
    pub(crate) fn needs_hand(&self, address: u64) -> bool {
        // SAFETY: the owner is alive, by the type's invariant.
        unsafe { glue::emm_hand_needed(self.as_raw(), address as usize) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the owner is alive, by the type's invariant.
        unsafe { glue::emm_hands_gone(self.as_raw()) };
    }
}

/// The current thread, faulting as an owner would; left when it is dropped.
///
/// # Invariants
///
/// - If `entered`, `env` was entered by this thread: an `AsOwner` is not `Send`.
/// - Nothing but C code touches `env`.
pub(crate) struct AsOwner<'a> {
    owner: &'a Owner,
    env: Opaque<glue::emm_owner_env>,
    entered: Cell<bool>,
}

impl<'a> AsOwner<'a> {
    /// As `owner`, not entered yet.
    pub(crate) const fn new(owner: &'a Owner) -> Self {
        // INVARIANT: it is not entered.
        Self {
            owner,
            env: Opaque::uninit(),
            entered: Cell::new(false),
        }
    }

    /// From now on the current thread faults as the owner would. Once is enough.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the owner is gone.
    pub(crate) fn enter(self: Pin<&Self>) -> Result<&'a Owner> {
        if !self.entered.get() {
            // SAFETY: not entered yet. Being pinned, it is dropped before its memory goes, and `drop`
            // leaves it. The owner is alive, as it is a reference.
            to_result(unsafe { glue::emm_owner_enter(self.env.get(), self.owner.as_raw()) })?;
            // INVARIANT: it was entered, by this thread.
            self.entered.set(true);
        }
        Ok(self.owner)
    }
}

impl Drop for AsOwner<'_> {
    fn drop(&mut self) {
        if self.entered.get() {
            // SAFETY: this thread entered it, by the type's invariant.
            unsafe { glue::emm_owner_leave(self.env.get(), self.owner.as_raw()) };
        }
    }
}

/// The module's part of all hands (`hand.c`), while it is loaded.
pub(crate) struct Hands(());

impl Hands {
    /// Once, when the module is loaded.
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl Drop for Hands {
    /// Waits until they have gone. To be dropped when nothing faults any more.
    fn drop(&mut self) {
        // SAFETY: who could use one has gone, as whoever drops this has made sure of.
        unsafe { glue::emm_hands_exit() };
    }
}
