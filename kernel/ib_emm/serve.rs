// SPDX-License-Identifier: GPL-2.0

//! What a worker does: faults for accesses that are parked, one job after the other.

use crate::{
    emm::{Asks, Losses, Need},
    fault::Fault,
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
///
/// # Returns
///
/// What the fault for an access lost, which is to come.
fn serve(region: &Region, need: &Need<Name>) -> Result<Option<Losses>> {
    match need.asks {
        Asks::Access { .. } => {
            let fault = Fault::again(region, need.range, need.asks, need.rounds);
            let (mut state, losses) = fault.run_for()?;
            state.as_mut().served(&losses);
            Ok(Some(losses))
        }
        Asks::Prefetch { .. } | Asks::Present => {
            region.bring_in(need.range, need.asks)?;
            Ok(None)
        }
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
        let (result, losses) = match result {
            Ok(losses) => (Ok(()), losses),
            Err(error) => (Err(error), None),
        };
        // SAFETY: it is called under the lock, for accesses that ended there.
        let tell = |access| unsafe { Cookie::tell(access) };
        let then = match (&begun, losses) {
            (Some((need, region)), Some(losses)) => {
                workers.tell(at, 0, tell);
                region.settle(need.range.start, losses);
                workers.end(at, Ok(()), tell)
            }
            _ => workers.end(at, result, tell),
        };
        // Not under the lock: the last reference to a region sleeps.
        drop(begun);
        if then == Then::Leave {
            return;
        }
        mem::cond_resched();
    }
}
