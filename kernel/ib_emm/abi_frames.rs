// SPDX-License-Identifier: GPL-2.0

//! Regions for drivers in C with tables of their own: what `include/emm_frames.h` declares. `glue.c`
//! exports it.

use crate::{abi::cookie, abi::from_c, driver::Driver, frames::Found, glue, region::Region};
use core::mem::ManuallyDrop;
use kernel::{bindings, error::to_result, ffi, mm::MmWithUser, prelude::*, sync::Arc};

as_declared!(
    emm_region_create_for,
    emm_region_frame,
    emm_region_frame_at_hand,
    emm_region_frame_beside,
    emm_region_get,
    emm_region_mark,
    emm_region_put,
);

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// - The caller holds a reference on `mm` (mm_users), and not its mmap_lock.
/// - `ops` are null or valid, and can be called with `private` as declared there until
///   `emm_region_destroy()` returns, if this succeeds, and else until this returns.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_create_for(
    mm: *mut bindings::mm_struct,
    start: u64,
    length: u64,
    ops: *const glue::emm_region_operations,
    private: *mut ffi::c_void,
) -> *mut glue::emm_region {
    if mm.is_null() || ops.is_null() {
        return EINVAL.to_ptr();
    }
    // SAFETY: not null, hence valid.
    if unsafe { (*ops).invalidate_start }.is_none() {
        return EINVAL.to_ptr();
    }
    // SAFETY: by this function's contract.
    let driver = unsafe { Driver::new(ops, private) };
    // SAFETY: the caller holds a reference, by this function's contract.
    let mm = unsafe { MmWithUser::from_raw(mm) };
    match Region::create_for(mm, start, length, Some(driver)) {
        Ok(region) => Arc::into_raw(region).cast_mut().cast(),
        Err(error) => error.to_ptr(),
    }
}

// SAFETY: to be called with a page that is held off from invalidation meanwhile, and the argument
// that the driver gave with it.
/// What C is given a frame by.
type Each = unsafe extern "C" fn(*const glue::emm_page, *mut ffi::c_void) -> ffi::c_int;

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// `region` is alive; `each`, if any, can be called with `arg` as declared there; `fault` is null or
/// initialised, and used by no other access now.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_frame(
    region: *mut glue::emm_region,
    offset: u64,
    write: bool,
    each: Option<Each>,
    arg: *mut ffi::c_void,
    fault: *mut glue::emm_fault,
) -> ffi::c_int {
    let Some(each) = each else {
        return EINVAL.to_errno();
    };
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    // SAFETY: by this function's contract.
    let cookie = unsafe { cookie(fault) };
    let result = region.frame(offset, write, cookie, |found| {
        let frame = to_c(&found);
        // SAFETY: by this function's contract.
        to_result(unsafe { each(&raw const frame, arg) })
    });
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// `region` is alive; `each`, if any, can be called with `arg` as declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_frame_at_hand(
    region: *mut glue::emm_region,
    offset: u64,
    write: bool,
    each: Option<Each>,
    arg: *mut ffi::c_void,
) -> ffi::c_int {
    let Some(each) = each else {
        return EINVAL.to_errno();
    };
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    let result = region.frame_at_hand(offset, write, |found| {
        let frame = to_c(&found);
        // SAFETY: by this function's contract.
        to_result(unsafe { each(&raw const frame, arg) })
    });
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// `region` is alive; `each`, if any, can be called with `arg` as declared there.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_frame_beside(
    region: *mut glue::emm_region,
    offset: u64,
    each: Option<Each>,
    arg: *mut ffi::c_void,
) -> ffi::c_int {
    let Some(each) = each else {
        return EINVAL.to_errno();
    };
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    let result = region.frame_beside(offset, |found| {
        let frame = to_c(&found);
        // SAFETY: by this function's contract.
        to_result(unsafe { each(&raw const frame, arg) })
    });
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

fn to_c(found: &Found) -> glue::emm_page {
    glue::emm_page {
        pfn: found.entry.pfn(),
        order: found.order,
        writable: found.entry.writable(),
    }
}

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// `region` is alive.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_mark(
    region: *mut glue::emm_region,
    offset: u64,
    length: u64,
    dirty: bool,
) {
    // SAFETY: by this function's contract.
    unsafe { from_c(region) }.mark(offset, length, dirty);
}

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// The caller has a reference on `region`.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_get(region: *mut glue::emm_region) {
    // SAFETY: by this function's contract: it was made by `Arc::into_raw`. The caller's reference
    // stays the caller's.
    let region = ManuallyDrop::new(unsafe { Arc::from_raw(region.cast::<Region>()) });
    // The new one is C's.
    let _ = Arc::into_raw(Arc::clone(&region));
}

/// See `include/emm_frames.h`.
///
/// # Safety
///
/// `region` has a reference of [`emm_region_get`], which the caller gives back here.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_put(region: *mut glue::emm_region) {
    // SAFETY: by this function's contract.
    drop(unsafe { Arc::from_raw(region.cast::<Region>()) });
}
