// SPDX-License-Identifier: GPL-2.0

//! Regions for drivers in C: what `include/emm_region.h` declares. `glue.c` exports it.

use crate::{
    access::Span, emm::Asks, glue, parked::Cookie, region::Region, serve::emm_worker_run,
    workers::emm_hire_run,
};
use core::{
    mem,
    pin::Pin,
    ptr::{self, NonNull},
};
use kernel::{bindings, ffi, prelude::*, sync::Arc, types::ForeignOwnable};

as_declared!(
    emm_fault_cancel,
    emm_fault_destroy,
    emm_fault_init,
    emm_region_apply,
    emm_region_create,
    emm_region_destroy,
    emm_region_get_range,
    emm_region_get_stats,
    emm_region_prefetch,
    emm_region_read,
    emm_region_stop,
    emm_region_write,
    emm_hire_run,
    emm_worker_run,
);

/// The region that a C driver names.
///
/// # Safety
///
/// It came from [`emm_region_create`], and [`emm_region_destroy`] is not called for the time `'a`.
pub(crate) unsafe fn from_c<'a>(region: *const glue::emm_region) -> &'a Region {
    // SAFETY: by this function's contract; `emm_region_create` made it by `Arc::into_raw`.
    unsafe { &*region.cast::<Region>() }
}

/// The cookie of a C driver's `fault`, if there is one.
///
/// # Safety
///
/// `fault` is null, or was given to [`emm_fault_init`], which succeeded, and [`emm_fault_destroy`] is
/// not called for the time `'a`.
pub(crate) unsafe fn cookie<'a>(fault: *const glue::emm_fault) -> Option<&'a Cookie> {
    // SAFETY: null or valid, by this function's contract.
    let fault = unsafe { fault.as_ref() }?;
    // SAFETY: null, or what `emm_fault_init` made by `into_foreign`.
    let cookie = unsafe { fault.cookie.cast::<Cookie>().as_ref() };
    cookie
}

fn errno(result: Result) -> ffi::c_int {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// To be called in process context, with no lock held: it sleeps.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_create(
    start: u64,
    length: u64,
) -> *mut glue::emm_region {
    match Region::create(start, length) {
        Ok(region) => Arc::into_raw(region).cast_mut().cast(),
        Err(error) => error.to_ptr(),
    }
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` came from [`emm_region_create`], is not used by others and not used afterwards.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_destroy(region: *mut glue::emm_region) {
    // SAFETY: by this function's contract; `emm_region_create` made it by `Arc::into_raw`.
    let region = unsafe { Arc::from_raw(region.cast::<Region>()) };
    // A worker that is in a fault of it keeps the memory.
    region.retire();
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive: it came from [`emm_region_create`], and is not destroyed before this returns.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_stop(region: *mut glue::emm_region) {
    // SAFETY: by this function's contract.
    unsafe { from_c(region) }.stop();
}

/// See `glue.h`.
///
/// # Safety
///
/// `region` is alive; `start` and `length` are valid for writing.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_get_range(
    region: *const glue::emm_region,
    start: *mut u64,
    length: *mut u64,
) {
    // SAFETY: by this function's contract.
    let geometry = unsafe { from_c(region) }.geometry();
    // SAFETY: by this function's contract.
    unsafe { start.write(geometry.start()) };
    // SAFETY: by this function's contract.
    unsafe { length.write(geometry.length()) };
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `fault` is valid for writing, and stays where it is, and valid, until [`emm_fault_destroy`] for it
/// returns; `done` can be called as declared there until then. May sleep.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_fault_init(
    fault: *mut glue::emm_fault,
    done: Option<unsafe extern "C" fn(*mut glue::emm_fault)>,
) -> ffi::c_int {
    let init = || -> Result {
        let driver = NonNull::new(fault).ok_or(EINVAL)?;
        // SAFETY: by this function's contract.
        let cookie = unsafe { Cookie::new(driver) };
        let (cookie, result) = match cookie {
            Ok(cookie) => (cookie.into_foreign(), Ok(())),
            Err(error) => (ptr::null_mut(), Err(error)),
        };
        // SAFETY: valid for writing, by this function's contract.
        unsafe { driver.write(glue::emm_fault { done, cookie }) };
        result
    };
    errno(init())
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `fault` is zeroed, or was given to [`emm_fault_init`], and is not destroyed before this returns.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_fault_cancel(fault: *mut glue::emm_fault) {
    // SAFETY: by this function's contract.
    if let Some(cookie) = unsafe { cookie(fault) } {
        cookie.cancel();
    }
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `fault` is zeroed, or was given to [`emm_fault_init`]. Nobody uses it any more.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_fault_destroy(fault: *mut glue::emm_fault) {
    // SAFETY: valid, by this function's contract.
    let cookie = mem::replace(unsafe { &mut (*fault).cookie }, ptr::null_mut());
    if !cookie.is_null() {
        // SAFETY: `emm_fault_init` made it by `into_foreign`, and nobody else takes it.
        drop(unsafe { Pin::<KBox<Cookie>>::from_foreign(cookie) });
    }
}

type Piece = unsafe extern "C" fn(*mut ffi::c_void, usize, *mut ffi::c_void);

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `each`, if any, can be called with `arg` as declared there; `fault` is null, or
/// alive: given to [`emm_fault_init`], and not destroyed before this returns.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_apply(
    region: *mut glue::emm_region,
    offset: u64,
    length: usize,
    reach: u64,
    write: bool,
    each: Option<Piece>,
    arg: *mut ffi::c_void,
    fault: *mut glue::emm_fault,
) -> ffi::c_int {
    let Some(each) = each else {
        return EINVAL.to_errno();
    };
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    let span = Span {
        offset,
        length,
        reach,
        write,
    };
    // SAFETY: by this function's contract.
    let cookie = unsafe { cookie(fault) };
    errno(region.apply(span, cookie, |address, bytes| {
        // SAFETY: `address` is a mapped page piece of `bytes` bytes while the gate is held.
        unsafe { each(address.cast(), bytes, arg) }
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `buf` has room for `length` bytes; `fault` as of [`emm_region_apply`].
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_read(
    region: *mut glue::emm_region,
    offset: u64,
    mut buf: *mut ffi::c_void,
    length: usize,
    reach: u64,
    fault: *mut glue::emm_fault,
) -> ffi::c_int {
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    let span = Span {
        offset,
        length,
        reach,
        write: false,
    };
    // SAFETY: by this function's contract.
    let cookie = unsafe { cookie(fault) };
    errno(region.apply(span, cookie, |address, bytes| {
        // SAFETY: the pieces add up to `length`. Others (the owner, another queue pair) may write
        // the page meanwhile, as with any RDMA: a plain byte copy like the kernel's own.
        unsafe { bindings::memcpy(buf, address.cast(), bytes) };
        // SAFETY: as above; at most one past the end.
        buf = unsafe { buf.byte_add(bytes) };
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `buf` holds `length` bytes; `fault` as of [`emm_region_apply`].
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_write(
    region: *mut glue::emm_region,
    offset: u64,
    mut buf: *const ffi::c_void,
    length: usize,
    reach: u64,
    fault: *mut glue::emm_fault,
) -> ffi::c_int {
    // SAFETY: by this function's contract.
    let region = unsafe { from_c(region) };
    let span = Span {
        offset,
        length,
        reach,
        write: true,
    };
    // SAFETY: by this function's contract.
    let cookie = unsafe { cookie(fault) };
    errno(region.apply(span, cookie, |address, bytes| {
        // SAFETY: as in `emm_region_read`; the translation allows writing.
        unsafe { bindings::memcpy(address.cast(), buf, bytes) };
        // SAFETY: as above; at most one past the end.
        buf = unsafe { buf.byte_add(bytes) };
    }))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive; `fault` as of [`emm_region_apply`].
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_prefetch(
    region: *mut glue::emm_region,
    offset: u64,
    length: u64,
    what: glue::emm_prefetch,
    fault: *mut glue::emm_fault,
) -> ffi::c_int {
    let what = match what {
        glue::emm_prefetch_EMM_PREFETCH_READ => Asks::Prefetch { write: false },
        glue::emm_prefetch_EMM_PREFETCH_WRITE => Asks::Prefetch { write: true },
        glue::emm_prefetch_EMM_PREFETCH_PRESENT => Asks::Present,
        _ => return EINVAL.to_errno(),
    };
    // SAFETY: by this function's contract.
    let cookie = unsafe { cookie(fault) };
    // SAFETY: by this function's contract.
    errno(unsafe { from_c(region) }.prefetch(offset, length, what, cookie))
}

/// See `include/emm_region.h`.
///
/// # Safety
///
/// `region` is alive, `stats` valid for writing.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_region_get_stats(
    region: *const glue::emm_region,
    stats: *mut glue::emm_region_stats,
) {
    // SAFETY: by this function's contract.
    let filled = unsafe { from_c(region) }.with_state(|state| glue::emm_region_stats {
        page_faults: state.stats().page_faults,
        page_invalidations: state.stats().page_invalidations,
        page_prefetch: state.stats().page_prefetch,
        resident: state.table().len(),
        table_bytes: state.table().bytes(),
    });
    // SAFETY: by this function's contract.
    unsafe { stats.write(filled) };
}
