// SPDX-License-Identifier: MIT OR Apache-2.0

//! mlx5's DevX: contexts whose regions stay as the program asks.
//!
//! A program that opens a context for DevX makes queue pairs by commands of its own to the device's firmware. The kernel, which does not
//! know them, resolves no page faults of theirs: their traffic to an on-demand page would wait for ever. UCX turns its own on-demand
//! paging off there for that reason. mlx5's steering (`mlx5dv_dr_domain_create`) has such a queue pair inside, with memory that the
//! provider registers by `ibv_reg_mr`: the only registration by a provider in rdma-core 65.
//!
//! Source: `infiniband/mlx5dv.h`, `mlx5dv_open_device(3)`; `drivers/infiniband/hw/mlx5/odp.c` (`odp_get_rsc`). Not tried on hardware.

use crate::{
    abi::Context,
    absent::absent,
    maker::Maker,
    outermost::Outermost,
    real::{Library, Real},
};
use core::{
    ffi::{c_uint, c_void},
    mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr,
        Ordering::{AcqRel, Relaxed, Release},
    },
};

/// `MLX5DV_CONTEXT_FLAGS_DEVX`
const DEVX: u32 = 1;

/// `struct mlx5dv_context_attr`, as far as it is read.
#[repr(C)]
pub struct ContextAttr {
    flags: u32,
}

// SAFETY: to be called with what the program passed. The types are those of mlx5dv.h.
type OpenDevice = unsafe extern "C" fn(*mut c_void, *mut ContextAttr) -> *mut Context;
// SAFETY: as above.
type DomainCreate = unsafe extern "C" fn(*mut Context, c_uint) -> *mut c_void;

/// Contexts that were opened for DevX.
static OPEN: [AtomicPtr<Context>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];
/// Whether there was ever one, so that others need not look.
static ANY: AtomicBool = AtomicBool::new(false);
/// Whether there was no room for one: all are taken for such, from then on.
static MORE: AtomicBool = AtomicBool::new(false);

/// Whether `context` was opened for DevX.
pub(crate) fn is(context: *mut Context) -> bool {
    ANY.load(Relaxed)
        && (MORE.load(Relaxed) || OPEN.iter().any(|slot| slot.load(Relaxed) == context))
}

fn remember(context: *mut Context) {
    let enter = |slot: &AtomicPtr<Context>| {
        slot.compare_exchange(ptr::null_mut(), context, AcqRel, Relaxed)
            .is_ok()
    };
    if !is(context) && !OPEN.iter().any(enter) {
        MORE.store(true, Relaxed);
    }
    ANY.store(true, Release);
}

/// Forgets `context`, which is about to be closed.
pub(crate) fn forget(context: *mut Context) {
    for slot in &OPEN {
        // Only what is still this one's goes.
        let _ = slot.compare_exchange(context, ptr::null_mut(), Release, Relaxed);
    }
}

/// Hook of `mlx5dv_open_device(3)`.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx5dv_open_device(
    device: *mut c_void,
    attr: *mut ContextAttr,
) -> *mut Context {
    static REAL: Real = Real::of(Library::Mlx5, c"mlx5dv_open_device");
    let outermost = Outermost::enter();
    // SAFETY: the program's device.
    let maker = unsafe { Maker::provider_of_device(device) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"mlx5dv_open_device");
        return ptr::null_mut();
    }
    // SAFETY: the address is that of `mlx5dv_open_device`.
    let real: OpenDevice = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments.
    let context = unsafe { real(device, attr) };
    // SAFETY: the program's attributes, which have this field in every version.
    let devx = !attr.is_null() && unsafe { (*attr).flags } & DEVX != 0;
    if devx && !context.is_null() {
        remember(context);
    }
    context
}

/// Hook of `mlx5dv_dr_domain_create(3)`: what it registers inside stays as it asks, since its call is an inner one.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx5dv_dr_domain_create(
    context: *mut Context,
    kind: c_uint,
) -> *mut c_void {
    static REAL: Real = Real::of(Library::Mlx5, c"mlx5dv_dr_domain_create");
    let outermost = Outermost::enter();
    // SAFETY: the program's context.
    let maker = unsafe { Maker::provider_of_context(context) };
    let real = REAL.get(outermost.as_ref(), maker);
    if real.is_null() {
        absent(c"mlx5dv_dr_domain_create");
        return ptr::null_mut();
    }
    // SAFETY: the address is that of `mlx5dv_dr_domain_create`.
    let real: DomainCreate = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments.
    unsafe { real(context, kind) }
}
