// SPDX-License-Identifier: GPL-2.0

//! A driver in C that has tables of its own for a region: `include/emm_frames.h`.

use crate::{
    glue,
    notifier::{Invalidation, Kind},
};
use kernel::{ffi, pr_warn_once, prelude::*};

/// What such a driver is told by.
///
/// # Invariants
///
/// `ops` are valid, never change, and may be called with `private` from any thread as
/// `include/emm_frames.h` says, while there is one of these.
pub(crate) struct Driver {
    ops: *const glue::emm_region_operations,
    private: *mut ffi::c_void,
}

// SAFETY: its operations may be called from any thread, by the type's invariant.
unsafe impl Send for Driver {}
// SAFETY: … by several at once, too.
unsafe impl Sync for Driver {}

impl Driver {
    /// # Safety
    ///
    /// As the type's invariant has it.
    pub(crate) unsafe fn new(
        ops: *const glue::emm_region_operations,
        private: *mut ffi::c_void,
    ) -> Self {
        // INVARIANT: by this function's contract.
        Self { ops, private }
    }

    fn ops(&self) -> &glue::emm_region_operations {
        // SAFETY: valid, by the type's invariant.
        unsafe { &*self.ops }
    }

    /// Whether it may say "not now".
    pub(crate) fn refuses(&self) -> bool {
        self.ops().may_refuse
    }

    /// The owner's address space goes. May sleep.
    pub(crate) fn release(&self) {
        if let Some(op) = self.ops().release {
            // SAFETY: may be called, by the type's invariant.
            unsafe { op(self.private) };
        }
    }

    /// Pages go: it takes them out of its tables.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it may say so.
    pub(crate) fn start(&self, event: &Invalidation<'_>) -> Result {
        let Some(op) = self.ops().invalidate_start else {
            return Ok(());
        };
        let told = to_c(event);
        // SAFETY: may be called, by the type's invariant.
        let answer = unsafe { op(self.private, &raw const told) };
        answered(answer, self.refuses() && !event.blockable)
    }

    /// They may come again.
    pub(crate) fn end(&self, event: &Invalidation<'_>) {
        if let Some(op) = self.ops().invalidate_end {
            let told = to_c(event);
            // SAFETY: may be called, by the type's invariant.
            unsafe { op(self.private, &raw const told) };
        }
    }

    /// Whether a page of [`start`, `end`) was used by way of its tables.
    pub(crate) fn referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        match self.ops().referenced {
            // SAFETY: may be called, by the type's invariant.
            Some(op) => unsafe { op(self.private, start as usize, end as usize, clear) },
            None => false,
        }
    }
}

/// What a driver in C answered to a start. Who may not say "not now" is taken to be done.
pub(crate) fn answered(answer: ffi::c_int, may_refuse: bool) -> Result {
    if answer == 0 {
        return Ok(());
    }
    if may_refuse && answer == EAGAIN.to_errno() {
        return Err(EAGAIN);
    }
    pr_warn_once!(
        "a driver answered a start with {answer}, which it may not: it is taken for done\n"
    );
    Ok(())
}

/// As C has it.
pub(crate) fn to_c(event: &Invalidation<'_>) -> glue::emm_invalidation {
    glue::emm_invalidation {
        start: event.start as usize,
        end: event.end as usize,
        event: match event.kind {
            Kind::Unmap => glue::emm_event_EMM_UNMAP,
            Kind::Clear => glue::emm_event_EMM_CLEAR,
            Kind::ProtectionVma => glue::emm_event_EMM_PROTECTION_VMA,
            Kind::ProtectionPage => glue::emm_event_EMM_PROTECTION_PAGE,
            Kind::SoftDirty => glue::emm_event_EMM_SOFT_DIRTY,
            Kind::Migrate => glue::emm_event_EMM_MIGRATE,
            Kind::Exclusive => glue::emm_event_EMM_EXCLUSIVE,
        },
        blockable: event.blockable,
        owner: event.owner,
    }
}
