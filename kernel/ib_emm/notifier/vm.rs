// SPDX-License-Identifier: GPL-2.0

//! A hub as the VM knows it: an `mmu_notifier`, and what the VM calls.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

use super::{
    contract::{Invalidation, Kind, Patience},
    hub::{Hub, HubRef},
};
use crate::{emm::PAGE_SIZE, glue};
use core::{ptr, ptr::NonNull};
use kernel::{bindings, container_of, error::from_err_ptr, ffi, mm::MmWithUser, prelude::*};

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
    alloc_notifier: None,
    free_notifier: Some(glue::emm_hub_starts_free),
});

/// Of a hub whose starts can be refused: all but the ends. When one is, the VM tells all ends there
/// are, at once, and would warn of a notifier that has both: it can't know whether that one's own
/// start was.
static STARTS_OPS: Ops = Ops(bindings::mmu_notifier_ops {
    release: Some(hub_release),
    clear_flush_young: Some(hub_clear_young),
    clear_young: Some(hub_clear_young),
    test_young: Some(hub_test_young),
    invalidate_range_start: Some(hub_invalidate_range_start),
    invalidate_range_end: None,
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: None,
    free_notifier: Some(glue::emm_hub_starts_free),
});

/// … and the ends.
static ENDS_OPS: Ops = Ops(bindings::mmu_notifier_ops {
    release: None,
    clear_flush_young: None,
    clear_young: None,
    test_young: None,
    invalidate_range_start: None,
    invalidate_range_end: Some(ends_invalidate_range_end),
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: None,
    free_notifier: Some(glue::emm_hub_ends_free),
});

/// The hub of `mm`, for clients that can refuse a start or for those that can't, made if it has none. Sleeps; takes the mmap_lock to make one, which the caller
/// does not hold.
///
/// # Errors
///
/// `ENOMEM`, `EINTR`.
pub(super) fn get(mm: &MmWithUser, refuses: bool) -> Result<HubRef> {
    // SAFETY: `mm` is valid, as it is a reference.
    let found = unsafe { glue::emm_hub_find(mm.as_raw(), refuses) };
    let node = match NonNull::new(found) {
        Some(node) => node,
        None => make(mm, refuses)?,
    };
    // SAFETY: nodes in the table are those of hubs; one more user of this one was counted for us.
    Ok(unsafe { HubRef::new(node) })
}

#[cold]
fn make(mm: &MmWithUser, refuses: bool) -> Result<NonNull<glue::emm_hub_node>> {
    let (starts, ends) = if refuses {
        (&raw const STARTS_OPS.0, &raw const ENDS_OPS.0)
    } else {
        (&raw const HUB_OPS.0, ptr::null())
    };
    let hub = KBox::pin_init(Hub::new(), GFP_KERNEL)?;
    // SAFETY: it is still treated as pinned: it is not moved from here until `emm_hub_free`.
    let hub = KBox::into_raw(unsafe { Pin::into_inner_unchecked(hub) });
    // SAFETY: just made, and valid.
    let node = unsafe { &*hub }.node();
    // SAFETY: `mm` has users, as it is such a reference. The node is all zero, and part of a hub,
    // which is given away here. The operations live as long as the module, which waits in `exit`
    // for the last hub.
    let node = unsafe { glue::emm_hub_add(node, mm.as_raw(), starts, ends) };
    NonNull::new(from_err_ptr(node)?).ok_or(ENOMEM)
}

/// Ends all hubs, which have no subscriptions any more, and waits until they are given back: the
/// module may go then.
pub(crate) fn exit() {
    // SAFETY: callable from process context, when nobody can subscribe: who could has the module.
    unsafe { glue::emm_hubs_exit() };
}

/// Gives a hub's memory back.
///
/// # Safety
///
/// `node` is that of a hub which [`make`] made, and nobody uses it any more.
#[no_mangle]
unsafe extern "C" fn emm_hub_free(node: *mut glue::emm_hub_node) {
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::of(node) };
    // SAFETY: `make` took the hub out of a box, which is given back here, and only here.
    drop(unsafe { KBox::from_raw(hub) });
}

const _: () = {
    // Fails to compile if it is not what its C header declares.
    if true {
        glue::emm_hub_free
    } else {
        emm_hub_free
    };
};

/// The hub of a callback.
///
/// # Safety
///
/// `notifier` is the first one of a hub's node; the hub stays valid for `'a`.
unsafe fn hub_of<'a>(notifier: *mut bindings::mmu_notifier) -> &'a Hub {
    // SAFETY: this function's contract.
    let node = unsafe { container_of!(notifier, glue::emm_hub_node, starts) };
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::of(node) };
    // SAFETY: this function's contract.
    unsafe { &*hub }
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
    unsafe { hub_of(notifier) }.release();
}

/// # Safety
///
/// As [`hub_release`], and with a valid range.
unsafe extern "C" fn hub_invalidate_range_start(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> ffi::c_int {
    // SAFETY: this function's contract.
    let hub = unsafe { hub_of(notifier) };
    // SAFETY: this function's contract.
    let range = unsafe { &*range };
    if range.start >= range.end {
        return 0;
    }
    match hub.start(&told(hub, range, &Patience::new(PATIENCE_NS))) {
        Ok(()) => 0,
        // What the VM takes for it.
        Err(_) => EAGAIN.to_errno(),
    }
}

/// # Safety
///
/// As [`hub_release`], and with a valid range.
unsafe extern "C" fn hub_invalidate_range_end(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: this function's contract.
    let hub = unsafe { hub_of(notifier) };
    // SAFETY: this function's contract.
    end(hub, unsafe { &*range });
}

/// # Safety
///
/// To be called by the VM with the second notifier of a hub, which it keeps meanwhile, and a valid
/// range.
unsafe extern "C" fn ends_invalidate_range_end(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: this function's contract.
    let node = unsafe { container_of!(notifier, glue::emm_hub_node, ends) };
    // SAFETY: this function's contract.
    let hub = unsafe { Hub::of(node) };
    // SAFETY: this function's contract.
    let hub = unsafe { &*hub };
    // SAFETY: this function's contract.
    end(hub, unsafe { &*range });
}

fn end(hub: &Hub, range: &bindings::mmu_notifier_range) {
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
    unsafe { hub_of(notifier) }.referenced(start as u64, end as u64, true)
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
    unsafe { hub_of(notifier) }.referenced(start, start + PAGE_SIZE, false)
}
