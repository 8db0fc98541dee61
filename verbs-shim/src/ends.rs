// SPDX-License-Identifier: MIT OR Apache-2.0

//! The entry points of libibverbs by which regions change and end, replaced.

use crate::{
    abi::{
        CHANGE_ACCESS, CHANGE_PD, CHANGE_TRANSLATION, CloseDevice, Context, DeallocPd, DeregMr, Mr,
        Pd, RegMrIova2, ReregMr, UnimportPd,
    },
    absent::absent,
    device, devx,
    implicit::{self, Ways},
    maker::Maker,
    outermost::Outermost,
    policy::Request,
    real::Real,
    register::{change, met_at_its_end},
    sys::set_errno,
};
use core::{
    ffi::{c_int, c_uint, c_void},
    mem,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static DEREG_MR: Real = Real::new(c"ibv_dereg_mr");
static REG_MR_IOVA2: Real = Real::new(c"ibv_reg_mr_iova2");

/// `IBV_REREG_MR_ERR_CMD`
const ERR_CMD: c_int = -4;

/// Hook of `ibv_rereg_mr(3)`.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_rereg_mr(
    mr: *mut Mr,
    flags: c_int,
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    static REAL: Real = Real::new(c"ibv_rereg_mr");
    let outermost = Outermost::enter();
    // SAFETY: the program's region.
    let maker = unsafe { Maker::of_region(mr) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"ibv_rereg_mr");
        return ERR_CMD;
    }
    // SAFETY: the address is that of `ibv_rereg_mr`.
    let real: ReregMr = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let call = |access: c_uint| unsafe { real(mr, flags, pd, addr, length, access as c_int) };
    let access = access as c_uint;
    let mut request = Request {
        addr: addr as usize,
        iova: addr as u64,
        length,
        access,
    };
    if flags & CHANGE_TRANSLATION == 0 && !mr.is_null() {
        // SAFETY: the program's region.
        request.addr = unsafe { (*mr).addr } as usize;
        request.iova = request.addr as u64;
        // SAFETY: the program's region.
        request.length = unsafe { (*mr).length };
    }
    if implicit::is_served(mr) {
        // SAFETY: a region of the implicit ones.
        return unsafe { change_served(mr, flags, pd, request) };
    }
    if flags & CHANGE_ACCESS == 0 || mr.is_null() {
        return call(access);
    }
    // SAFETY: the program's region.
    unsafe { change(mr, request, outermost.as_ref(), call) }
}

/// Changes a region that an implicit one serves.
///
/// # Safety
///
/// `mr` is such a region, and `pd` a protection domain if the flags say so.
unsafe fn change_served(mr: *mut Mr, flags: c_int, pd: *mut Pd, mut request: Request) -> c_int {
    let pd = if flags & CHANGE_PD == 0 {
        // SAFETY: by this function's contract.
        unsafe { (*mr).pd }
    } else {
        pd
    };
    if flags & CHANGE_ACCESS == 0 {
        // SAFETY: by this function's contract.
        request.access = unsafe { implicit::access_of(mr) };
    }
    // SAFETY: by this function's contract.
    if unsafe { implicit::change(mr, pd, request, WAYS) } {
        return 0;
    }
    // `IBV_REREG_MR_ERR_INPUT`: the region is what it was.
    set_errno(libc::EINVAL);
    -1
}

/// Hook of `ibv_dereg_mr(3)`: ends what has no region of its own, and counts what has no address.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dereg_mr(mr: *mut Mr) -> c_int {
    if let Some(status) = implicit::release(mr) {
        if status != 0 {
            set_errno(status);
        }
        return status;
    }
    let outermost = Outermost::enter();
    if !mr.is_null() && outermost.is_some() {
        // SAFETY: the program's region.
        unsafe { meet(mr) };
    }
    // SAFETY: the program's region.
    let maker = unsafe { Maker::of_region(mr) };
    // SAFETY: the program's argument.
    unsafe { end_by(DEREG_MR.get(outermost.as_ref(), maker), mr) }
}

/// Ends a region by libibverbs' own function.
///
/// # Safety
///
/// As for `ibv_dereg_mr`.
pub(crate) unsafe fn end(mr: *mut Mr) -> c_int {
    // SAFETY: by this function's contract.
    let maker = unsafe { Maker::of_region(mr) };
    // SAFETY: by this function's contract.
    unsafe { end_by(DEREG_MR.own(maker), mr) }
}

/// # Safety
///
/// As for `ibv_dereg_mr`, and `real` is the address of such a function, or null.
unsafe fn end_by(real: *mut c_void, mr: *mut Mr) -> c_int {
    if real.is_null() {
        absent(c"ibv_dereg_mr");
        return libc::EOPNOTSUPP;
    }
    // SAFETY: the address is that of `ibv_dereg_mr`.
    let real: DeregMr = unsafe { mem::transmute(real) };
    // SAFETY: by this function's contract.
    unsafe { real(mr) }
}

/// Hook of `ibv_dealloc_pd(3)`: an implicit region would keep the domain busy.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dealloc_pd(pd: *mut Pd) -> c_int {
    static REAL: Real = Real::new(c"ibv_dealloc_pd");
    let outermost = Outermost::enter();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"ibv_dealloc_pd");
        return libc::EOPNOTSUPP;
    }
    // SAFETY: `end` ends regions.
    unsafe { implicit::leave_domain(pd, end) };
    // SAFETY: the address is that of `ibv_dealloc_pd`.
    let real: DeallocPd = unsafe { mem::transmute(real) };
    // SAFETY: the program's argument.
    let status = unsafe { real(pd) };
    if status == 0 {
        implicit::forget_domain(pd);
    }
    status
}

/// Hook of `ibv_unimport_pd(3)`: the domain lives on elsewhere, without the implicit regions of this process.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_unimport_pd(pd: *mut Pd) {
    static REAL: Real = Real::new(c"ibv_unimport_pd");
    let outermost = Outermost::enter();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"ibv_unimport_pd");
        return;
    }
    // SAFETY: `end` ends regions.
    unsafe { implicit::leave_domain(pd, end) };
    implicit::forget_domain(pd);
    // SAFETY: the address is that of `ibv_unimport_pd`.
    let real: UnimportPd = unsafe { mem::transmute(real) };
    // SAFETY: the program's argument.
    unsafe { real(pd) };
}

/// Hook of `ibv_close_device(3)`: the implicit regions of the context end with it, and what is known of it.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_close_device(context: *mut Context) -> c_int {
    static REAL: Real = Real::new(c"ibv_close_device");
    let outermost = Outermost::enter();
    // SAFETY: the program's context.
    let maker = unsafe { Maker::of_context(context) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"ibv_close_device");
        return -1;
    }
    // SAFETY: `end` ends regions.
    unsafe { implicit::leave_context(context, end) };
    device::forget(context);
    devx::forget(context);
    // SAFETY: the address is that of `ibv_close_device`.
    let real: CloseDevice = unsafe { mem::transmute(real) };
    // SAFETY: the program's argument.
    unsafe { real(context) }
}

/// Counts a region that ends if its registration did not come by here: device memory, the NULL MR.
///
/// # Safety
///
/// `mr` is a region of libibverbs.
unsafe fn meet(mr: *const Mr) {
    // SAFETY: by this function's contract.
    let addr = unsafe { (*mr).addr };
    // SAFETY: by this function's contract.
    let length = unsafe { (*mr).length };
    // An implicit region has no address either, but all of the length there is.
    if !addr.is_null() || length == usize::MAX {
        return;
    }
    if !was_counted_without_address() {
        met_at_its_end(length);
    }
}

/// Regions that were counted at their registration, but have no address, as a dma-buf from offset 0.
static COUNTED_WITHOUT_ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// Remembers a counted region that `ibv_dereg_mr` would take for device memory.
pub(crate) fn without_address(mr: *mut Mr) -> *mut Mr {
    // SAFETY: a region that was just registered.
    if !mr.is_null() && unsafe { (*mr).addr }.is_null() {
        COUNTED_WITHOUT_ADDRESS.fetch_add(1, Relaxed);
    }
    mr
}

/// Whether a region without an address that ends is one of those.
fn was_counted_without_address() -> bool {
    COUNTED_WITHOUT_ADDRESS
        .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

/// How implicit regions are made and ended.
pub(crate) const WAYS: Ways = Ways { make, end };

/// Makes an implicit region by libibverbs' own function.
///
/// # Safety
///
/// As for `ibv_reg_mr_iova2`.
unsafe fn make(pd: *mut Pd, addr: *mut c_void, length: usize, access: c_uint) -> *mut Mr {
    // SAFETY: by this function's contract.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REG_MR_IOVA2.own(maker);
    if real.is_null() {
        return absent(c"ibv_reg_mr_iova2");
    }
    // SAFETY: the address is that of `ibv_reg_mr_iova2`.
    let real: RegMrIova2 = unsafe { mem::transmute(real) };
    // SAFETY: by this function's contract.
    unsafe { real(pd, addr, length, addr as u64, access) }
}
