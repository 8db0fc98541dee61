// SPDX-License-Identifier: GPL-2.0

//! The C interface: what `include/emm.h` and `include/emm_region.h` declare. `glue.c` exports it.

use crate::{
    fault::Asks,
    notifier::{EmmNotifier, Subscription},
    region::Region,
};
use core::{ptr, ptr::NonNull};
use kernel::{bindings, ffi, prelude::*};

/// `struct emm_notifier_operations`.
///
/// # Safety
///
/// The driver's promise to `emm_notifier_register()`: each may be called with the notifier that was
/// registered, from then until its release or the end of `emm_notifier_unregister()`.
#[repr(C)]
pub(crate) struct Operations {
    // SAFETY: of each call, by the driver's promise above: the notifier is registered.
    release: Option<unsafe extern "C" fn(*mut CNotifier)>,
    invalidate_start: Option<unsafe extern "C" fn(*mut CNotifier, ffi::c_ulong, ffi::c_ulong, bool)>,
    invalidate_end: Option<unsafe extern "C" fn(*mut CNotifier, ffi::c_ulong, ffi::c_ulong)>,
    referenced:
        Option<unsafe extern "C" fn(*mut CNotifier, ffi::c_ulong, ffi::c_ulong, bool) -> bool>,
}

/// `struct emm_notifier`.
#[repr(C)]
pub(crate) struct CNotifier {
    ops: *const Operations,
    registration: *mut ffi::c_void,
}

/// A C driver's subscription.
///
/// # Invariants
///
/// `notifier` and its operations are valid while the subscription is registered.
struct CClient {
    subscription: Subscription,
    notifier: *mut CNotifier,
}

// SAFETY: the driver's operations may be called from any thread, by their contract.
unsafe impl Sync for CClient {}

impl CClient {
    fn ops(&self) -> &Operations {
        // SAFETY: valid by the type's invariant; the operations are constant.
        unsafe { &*(*self.notifier).ops }
    }
}

impl EmmNotifier for CClient {
    fn emm_release(&self) {
        if let Some(op) = self.ops().release {
            // SAFETY: called as `struct emm_notifier_operations` says.
            unsafe { op(self.notifier) };
        }
    }

    fn emm_invalidate_start(&self, start: u64, end: u64, blockable: bool) {
        if let Some(op) = self.ops().invalidate_start {
            // SAFETY: called as `struct emm_notifier_operations` says.
            unsafe { op(self.notifier, start as usize, end as usize, blockable) };
        }
    }

    fn emm_invalidate_end(&self, start: u64, end: u64) {
        if let Some(op) = self.ops().invalidate_end {
            // SAFETY: called as `struct emm_notifier_operations` says.
            unsafe { op(self.notifier, start as usize, end as usize) };
        }
    }

    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        match self.ops().referenced {
            // SAFETY: called as `struct emm_notifier_operations` says.
            Some(op) => unsafe { op(self.notifier, start as usize, end as usize, clear) },
            None => false,
        }
    }
}

fn errno(result: Result) -> ffi::c_int {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// See `include/emm.h`.
///
/// # Safety
///
/// As declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_register_range(
    notifier: *mut CNotifier,
    mm: *mut bindings::mm_struct,
    start: ffi::c_ulong,
    length: ffi::c_ulong,
) -> ffi::c_int {
    let register = || -> Result {
        let (start, length) = (start as u64, length as u64);
        let last = length.checked_sub(1).and_then(|l| start.checked_add(l));
        let last = last.ok_or(EINVAL)?;
        // SAFETY: the driver passes a valid notifier.
        let CNotifier { ops, registration } = unsafe { notifier.read() };
        if !registration.is_null() {
            return Err(EBUSY);
        }
        // SAFETY: operations, if any, are valid.
        if ops.is_null() || unsafe { (*ops).invalidate_start.is_none() } {
            return Err(EINVAL);
        }
        let client = KBox::new(
            CClient {
                subscription: Subscription::new(),
                notifier,
            },
            GFP_KERNEL,
        )?;
        let dyn_client: NonNull<dyn EmmNotifier> = NonNull::from(&*client);
        // SAFETY: the driver holds `mm`; the client stays in its box until unregistered.
        unsafe { client.subscription.register(dyn_client, mm, start, last) }?;
        // SAFETY: the driver passes a valid notifier.
        unsafe { (*notifier).registration = KBox::into_raw(client).cast() };
        Ok(())
    };
    errno(register())
}

/// See `include/emm.h`.
///
/// # Safety
///
/// As declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_register(
    notifier: *mut CNotifier,
    mm: *mut bindings::mm_struct,
) -> ffi::c_int {
    // SAFETY: the same contract. One byte less than everything keeps the length representable.
    unsafe { emm_notifier_register_range(notifier, mm, 0, ffi::c_ulong::MAX) }
}

/// See `include/emm.h`.
///
/// # Safety
///
/// As declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_notifier_unregister(notifier: *mut CNotifier) {
    // SAFETY: the driver passes a valid notifier.
    let registration = unsafe { ptr::replace(&raw mut (*notifier).registration, ptr::null_mut()) };
    if registration.is_null() {
        return;
    }
    // SAFETY: registration stored a boxed client here, and nobody else takes it.
    let client = unsafe { KBox::from_raw(registration.cast::<CClient>()) };
    // SAFETY: a stored client is registered.
    unsafe { client.subscription.unregister() };
}

/// See `include/emm_region.h`.
#[no_mangle]
pub(crate) extern "C" fn emm_region_create(start: u64, length: u64) -> *mut Region {
    match Region::create(start, length) {
        Ok(region) => KBox::into_raw(region),
        Err(error) => error.to_ptr(),
    }
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` came from [`emm_region_create`], is not used by others and not used afterwards.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_destroy(region: *mut Region) {
    // SAFETY: by this function's contract.
    unsafe { Region::destroy(KBox::from_raw(region)) };
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_stop(region: *const Region) {
    // SAFETY: by this function's contract.
    unsafe { &*region }.stop();
}

/// See `glue.h`.
///
/// # Safety
///
/// `region` is alive; `start` and `length` are valid for writing.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_get_range(
    region: *const Region,
    start: *mut u64,
    length: *mut u64,
) {
    // SAFETY: by this function's contract.
    let geometry = unsafe { &*region }.geometry();
    // SAFETY: by this function's contract.
    unsafe { start.write(geometry.start()) };
    // SAFETY: by this function's contract.
    unsafe { length.write(geometry.length()) };
}

type Piece = unsafe extern "C" fn(*mut ffi::c_void, usize, *mut ffi::c_void);

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `each` can be called as declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_apply(
    region: *const Region,
    offset: u64,
    length: usize,
    write: bool,
    each: Piece,
    arg: *mut ffi::c_void,
) -> ffi::c_int {
    // SAFETY: by this function's contract.
    let region = unsafe { &*region };
    errno(region.apply(offset, length, write, |address, bytes| {
        // SAFETY: `address` is a mapped page piece of `bytes` bytes while the gate is held.
        unsafe { each(address.cast(), bytes, arg) }
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `buf` has room for `length` bytes.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_read(
    region: *const Region,
    offset: u64,
    mut buf: *mut u8,
    length: usize,
) -> ffi::c_int {
    // SAFETY: by this function's contract.
    let region = unsafe { &*region };
    errno(region.apply(offset, length, false, |address, bytes| {
        // SAFETY: the pieces add up to `length`. Others (the owner, another queue pair) may write
        // the page meanwhile, as with any RDMA: a plain byte copy like the kernel's own.
        unsafe { bindings::memcpy(buf.cast(), address.cast(), bytes) };
        // SAFETY: as above; at most one past the end.
        buf = unsafe { buf.add(bytes) };
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `buf` holds `length` bytes.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_write(
    region: *const Region,
    offset: u64,
    mut buf: *const u8,
    length: usize,
) -> ffi::c_int {
    // SAFETY: by this function's contract.
    let region = unsafe { &*region };
    errno(region.apply(offset, length, true, |address, bytes| {
        // SAFETY: as in `emm_region_read`; the translation allows writing.
        unsafe { bindings::memcpy(address.cast(), buf.cast(), bytes) };
        // SAFETY: as above; at most one past the end.
        buf = unsafe { buf.add(bytes) };
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_prefetch(
    region: *const Region,
    offset: u64,
    length: u64,
    what: ffi::c_uint,
) -> ffi::c_int {
    // `enum emm_prefetch`.
    let what = match what {
        0 => Asks::Prefetch { write: false },
        1 => Asks::Prefetch { write: true },
        2 => Asks::Present,
        _ => return EINVAL.to_errno(),
    };
    // SAFETY: by this function's contract.
    errno(unsafe { &*region }.prefetch(offset, length, what))
}

/// `struct emm_region_stats`.
#[repr(C)]
pub(crate) struct CStats {
    page_faults: u64,
    page_invalidations: u64,
    page_prefetch: u64,
    resident: u64,
    table_bytes: u64,
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive, `stats` valid for writing.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_get_stats(region: *const Region, stats: *mut CStats) {
    // SAFETY: by this function's contract.
    let filled = unsafe { &*region }.with_state(|state| CStats {
        page_faults: state.stats().page_faults,
        page_invalidations: state.stats().page_invalidations,
        page_prefetch: state.stats().page_prefetch,
        resident: state.table().len(),
        table_bytes: state.table().bytes(),
    });
    // SAFETY: by this function's contract.
    unsafe { stats.write(filled) };
}
