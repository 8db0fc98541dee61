// SPDX-License-Identifier: GPL-2.0

//! A hub as the VM knows it: an `mmu_notifier`, and what the VM calls.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

use super::{
    contract::{Invalidation, Kind, Patience},
    hub::{Hub, HubRef},
};
use crate::{emm::PAGE_SIZE, glue};
use core::ptr::NonNull;
use kernel::{bindings, error::from_err_ptr, ffi, mm::MmWithUser, prelude::*};

/// What one invalidation may wait for faults. Nanoseconds.
const PATIENCE_NS: u64 = 64_000_000;

struct Ops(bindings::mmu_notifier_ops);
// SAFETY: function pointers, never changed.
unsafe impl Sync for Ops {}

static HUB_OPS: Ops = Ops(bindings::mmu_notifier_ops {
    release: Some(hub_release),
    clear_flush_young: Some(hub_clear_young),
    clear_young: Some(hub_clear_young),
    test_young: Some(hub_test_young),
    invalidate_range_start: Some(hub_invalidate_range_start),
    invalidate_range_end: Some(hub_invalidate_range_end),
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: Some(hub_alloc),
    free_notifier: Some(hub_free),
});

/// The hub of `mm`, made if it has none. Sleeps; takes the mmap_lock, which the caller does not
/// hold.
pub(super) fn get(mm: &MmWithUser) -> Result<HubRef> {
    // SAFETY: `mm` has users, as it is such a reference. The operations live as long as the
    // module, which waits in `synchronize` for the last hub.
    let notifier = unsafe { glue::emm_mmu_notifier_get(&raw const HUB_OPS.0, mm.as_raw()) };
    // SAFETY: notifiers with our operations were made by `hub_alloc`.
    let hub = unsafe { Hub::of(from_err_ptr(notifier)?) };
    // SAFETY: a hub's address is not null; `mmu_notifier_get()` took a reference.
    Ok(unsafe { HubRef::new(NonNull::new_unchecked(hub)) })
}

/// Waits until the memory of every hub without subscriptions is given back. The module may go
/// then.
pub(crate) fn synchronize() {
    // SAFETY: callable at any time from process context.
    unsafe { bindings::mmu_notifier_synchronize() };
}

/// # Safety
///
/// To be called by `mmu_notifier_get()` only: the caller owns what it returns, and gives it to
/// [`hub_free`].
unsafe extern "C" fn hub_alloc(_mm: *mut bindings::mm_struct) -> *mut bindings::mmu_notifier {
    // `mmu_notifier_get()` goes on to register it.
    let hub = KBox::pin_init(Hub::new(), GFP_KERNEL);
    let Ok(hub) = hub else {
        return ENOMEM.to_ptr();
    };
    // SAFETY: it is still treated as pinned: it is not moved from here until `hub_free`.
    let hub = KBox::into_raw(unsafe { Pin::into_inner_unchecked(hub) });
    // SAFETY: just made, and valid.
    unsafe { &*hub }.notifier()
}

/// # Safety
///
/// `notifier` came from [`hub_alloc`], and nobody uses it any more.
unsafe extern "C" fn hub_free(notifier: *mut bindings::mmu_notifier) {
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::of(notifier) };
    // SAFETY: `hub_alloc` took the hub out of a box, which is given back here, and only here.
    drop(unsafe { KBox::from_raw(hub) });
}

/// # Safety
///
/// As all callbacks of `HUB_OPS`: to be called by the VM with a hub's notifier, which it keeps
/// meanwhile.
unsafe extern "C" fn hub_release(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
) {
    // SAFETY: this function's contract.
    unsafe { Hub::from_notifier(notifier) }.release();
}

/// # Safety
///
/// As [`hub_release`], and with a valid range.
unsafe extern "C" fn hub_invalidate_range_start(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> ffi::c_int {
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::from_notifier(notifier) };
    // SAFETY: this function's contract.
    let range = unsafe { &*range };
    if range.start < range.end {
        // Not now: nobody says so yet.
        let _ = hub.start(&told(hub, range, &Patience::new(PATIENCE_NS)));
    }
    0
}

/// # Safety
///
/// As [`hub_release`], and with a valid range.
unsafe extern "C" fn hub_invalidate_range_end(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::from_notifier(notifier) };
    // SAFETY: this function's contract.
    let range = unsafe { &*range };
    if range.start < range.end {
        hub.end(&told(hub, range, &Patience::new(0)));
    }
}

/// `range` of the VM, as clients hear of it.
fn told<'a>(
    hub: &'a Hub,
    range: &bindings::mmu_notifier_range,
    patience: &'a Patience,
) -> Invalidation<'a> {
    Invalidation {
        mm: hub.mm(),
        start: range.start as u64,
        end: range.end as u64,
        blockable: range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0,
        kind: Kind::of(range.event),
        owner: range.owner,
        patience,
    }
}

/// # Safety
///
/// As [`hub_release`].
unsafe extern "C" fn hub_clear_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    start: ffi::c_ulong,
    end: ffi::c_ulong,
) -> bool {
    // SAFETY: this function's contract.
    unsafe { Hub::from_notifier(notifier) }.referenced(start as u64, end as u64, true)
}

/// # Safety
///
/// As [`hub_release`].
unsafe extern "C" fn hub_test_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    address: ffi::c_ulong,
) -> bool {
    // The page: a region may begin behind the address that it is asked by.
    let start = address as u64 & !(PAGE_SIZE - 1);
    // SAFETY: this function's contract.
    unsafe { Hub::from_notifier(notifier) }.referenced(start, start + PAGE_SIZE, false)
}
