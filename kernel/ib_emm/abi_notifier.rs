// SPDX-License-Identifier: GPL-2.0

//! The notifier for drivers in C: what `include/emm.h` declares. `glue.c` exports it.

use crate::{
    driver::{answered, to_c},
    glue,
    notifier::{EmmNotifier, Invalidation, Subscription},
};
use core::{
    mem,
    pin::Pin,
    ptr::{self, NonNull},
};
use kernel::{bindings, ffi, mm::MmWithUser, prelude::*, types::ForeignOwnable};

as_declared!(
    emm_notifier_register,
    emm_notifier_register_range,
    emm_notifier_unregister,
);

/// A C driver that is told.
///
/// # Invariants
///
/// `0` is valid, and so are its operations, which may be called, as `include/emm.h` says, from any
/// thread: the driver promises this from `emm_notifier_register()` to the end of
/// `emm_notifier_unregister()`, the time in which there is such a client.
struct CClient(NonNull<glue::emm_notifier>);

// SAFETY: the driver's operations may be called from any thread, by the type's invariant.
unsafe impl Send for CClient {}
// SAFETY: they may be called by several threads at once, by the type's invariant.
unsafe impl Sync for CClient {}

impl CClient {
    fn ops(&self) -> &glue::emm_notifier_operations {
        // SAFETY: the notifier is valid, by the type's invariant. What else it has changes at
        // its registration and after its end only.
        let ops = unsafe { (*self.0.as_ptr()).ops };
        // SAFETY: the operations are valid, by the type's invariant, and constant.
        unsafe { &*ops }
    }
}

impl EmmNotifier for CClient {
    fn emm_release(&self) {
        if let Some(op) = self.ops().release {
            // SAFETY: the driver lets it be called, by the type's invariant.
            unsafe { op(self.0.as_ptr()) };
        }
    }

    fn emm_invalidate_start(&self, event: &Invalidation<'_>) -> Result {
        let Some(op) = self.ops().invalidate_start else {
            return Ok(());
        };
        let event_c = to_c(event);
        // SAFETY: the driver lets it be called, by the type's invariant.
        let answer = unsafe { op(self.0.as_ptr(), &raw const event_c) };
        answered(answer, self.ops().may_refuse && !event.blockable)
    }

    fn emm_invalidate_end(&self, event: &Invalidation<'_>) {
        if let Some(op) = self.ops().invalidate_end {
            let event = to_c(event);
            // SAFETY: the driver lets it be called, by the type's invariant.
            unsafe { op(self.0.as_ptr(), &raw const event) };
        }
    }

    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        match self.ops().referenced {
            // SAFETY: the driver lets it be called, by the type's invariant.
            Some(op) => unsafe { op(self.0.as_ptr(), start as usize, end as usize, clear) },
            None => false,
        }
    }
}

/// See `include/emm.h`.
///
/// # Safety
///
/// - `emm` is valid, and used by no other call of this interface now.
/// - If it is not registered, its operations are null or valid; if this succeeds, they can be
///   called as declared there until [`emm_notifier_unregister`] returns, and `emm` is neither moved
///   nor freed before.
/// - The caller holds a reference on `mm` (mm_users), and not its mmap_lock.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_register_range(
    emm: *mut glue::emm_notifier,
    mm: *mut bindings::mm_struct,
    start: ffi::c_ulong,
    length: ffi::c_ulong,
) -> ffi::c_int {
    let register = || -> Result {
        let (start, length) = (start as u64, length as u64);
        let last = length.checked_sub(1).and_then(|l| start.checked_add(l));
        let last = last.ok_or(EINVAL)?;
        let emm = NonNull::new(emm).ok_or(EINVAL)?;
        // SAFETY: `emm` is valid, by this function's contract.
        let glue::emm_notifier {
            ops, registration, ..
        } = unsafe { emm.read() };
        if !registration.is_null() {
            return Err(EBUSY);
        }
        // SAFETY: operations are null or valid, by this function's contract.
        let ops = unsafe { ops.as_ref() }.ok_or(EINVAL)?;
        if ops.invalidate_start.is_none() {
            return Err(EINVAL);
        }
        // SAFETY: `emm` is valid, by this function's contract. Calls begin before this returns.
        unsafe { (*emm.as_ptr()).mm = mm };
        // SAFETY: the caller holds a reference, by this function's contract.
        let mm = unsafe { MmWithUser::from_raw(mm) };
        // INVARIANT: by this function's contract.
        let client = CClient(emm);
        let subscription = if ops.may_refuse {
            KBox::pin_init(Subscription::refusing(mm, start, last, client), GFP_KERNEL)
        } else {
            KBox::pin_init(Subscription::new(mm, start, last, client), GFP_KERNEL)
        }?;
        // SAFETY: `emm` is valid, by this function's contract.
        unsafe { (*emm.as_ptr()).registration = subscription.into_foreign() };
        Ok(())
    };
    register().map_or_else(|error| error.to_errno(), |()| 0)
}

/// See `include/emm.h`.
///
/// # Safety
///
/// As of [`emm_notifier_register_range`].
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_register(
    emm: *mut glue::emm_notifier,
    mm: *mut bindings::mm_struct,
) -> ffi::c_int {
    // One byte less than everything keeps the length representable.
    // SAFETY: the same contract.
    unsafe { emm_notifier_register_range(emm, mm, 0, ffi::c_ulong::MAX) }
}

/// See `include/emm.h`.
///
/// # Safety
///
/// `emm` is valid, and used by no other call of this interface now. This is not one of its own
/// callbacks.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_unregister(emm: *mut glue::emm_notifier) {
    // SAFETY: `emm` is valid, by this function's contract.
    let registration = unsafe { &mut (*emm).registration };
    let registration = mem::replace(registration, ptr::null_mut());
    if registration.is_null() {
        return;
    }
    // SAFETY: registration stored this there by `into_foreign`, and nobody else takes it.
    drop(unsafe { Pin::<KBox<Subscription<CClient>>>::from_foreign(registration) });
    // SAFETY: `emm` is valid, by this function's contract, and no callback runs any more.
    unsafe { (*emm).mm = ptr::null_mut() };
}
