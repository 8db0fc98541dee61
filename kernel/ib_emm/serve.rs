// SPDX-License-Identifier: GPL-2.0

//! What a worker does: faults for accesses that are parked, one job after the other.

use crate::{
    emm::{Asks, Need},
    mem,
    parked::Cookie,
    region::Region,
    workers::{Name, Then, Workers},
};
use kernel::{
    ffi,
    prelude::*,
    sync::{Arc, ArcBorrow},
};

/// Does what is needed of `region`. Sleeps for as long as it takes, or until a signal.
fn serve(region: &Region, need: &Need<Name>) -> Result {
    match need.asks {
        Asks::Access { .. } => region.fault(need.range, need.asks).map(drop),
        Asks::Prefetch { .. } | Asks::Present => region.bring_in(need.range, need.asks),
    }
}

/// See `glue.h`.
///
/// # Safety
///
/// `owner` is what `Workers` handed out for a worker that it started, and its reference. `at` is
/// that worker's number.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_worker_run(owner: *const ffi::c_void, at: ffi::c_uint) {
    // SAFETY: by this function's contract.
    let workers = unsafe { Arc::from_raw(owner.cast::<Workers>()) };
    let at = at as usize;
    loop {
        let begun = workers.begin(at, |name| -> Arc<Region> {
            // SAFETY: a region's name is that of an `Arc`, and valid here.
            unsafe { ArcBorrow::from_raw(name.0.as_ptr().cast::<Region>()) }.into()
        });
        let result = match &begun {
            Some((need, region)) => serve(region, need),
            None => Err(EINTR),
        };
        // SAFETY: it is called under the lock, for accesses that ended there.
        let then = workers.end(at, result, |access| unsafe { Cookie::tell(access) });
        // Not under the lock: the last reference to a region sleeps.
        drop(begun);
        if then == Then::Leave {
            return;
        }
        mem::cond_resched();
    }
}
