// SPDX-License-Identifier: GPL-2.0

//! The EMM notifier: who is told when the VM takes pages away.
//!
//! There is one [`Hub`] for each address space with subscriptions. It is an `mmu_notifier`, and
//! passes each event on to the subscriptions whose range it hits, found in an interval tree. It
//! knows nothing of RDMA.
//!
//! A subscription that begins while an invalidation is under way must hear of it: the pages are
//! still mapped, a fault would find them, and they would go without a further word. So the hub
//! remembers the ranges under way, and tells a newcomer. Sequence numbers make each subscription
//! hear each start, and each end of a start that it heard, exactly once.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

// Lock order:
//
//  1. the list of regions (sight.c), held over a region's counts
//  2. locks of the VM (mmap_lock, i_mmap_rwsem, anon_vma, page table lock); a fault holds the
//     mmap_lock for reading over 4, and may give it back under it
//  3. Hub::inner (spinlock), held over `emm_referenced` and over the starts told to a newcomer,
//     not over other callbacks
//  4. what a client locks in its callbacks (`Region::state`, gate.rs)
//  5. the wait queues of 3 and 4; the list of waits (wait.c) and siglock; what folio_mark_dirty()
//     takes
//
// Nothing is allocated under 3, 4 or 5.
//
// Those of rxe (kernel/rxe) are outside of these: `modify_lock`, which sleeps, over a QP's
// `state_lock`, over a task's lock; and `rxe_emm_awaited_lock` over the list of waits.

use crate::emm::{HoldOff, PageRange, PAGE_SHIFT, PAGE_SIZE};
use core::{
    cell::UnsafeCell,
    mem::offset_of,
    ptr::{self, NonNull},
};
use kernel::{
    bindings, ffi, new_condvar, new_spinlock, pr_warn_once,
    prelude::*,
    sync::{lock::spinlock::SpinLockBackend, lock::Guard, CondVar, SpinLock},
    types::Opaque,
};

/// What a subscriber is told. Ranges are user addresses [`start`, `end`).
///
/// `include/emm.h` states the same contract for C.
pub(crate) trait EmmNotifier: Sync {
    /// The address space goes away. May sleep.
    fn emm_release(&self);

    /// The VM is about to unmap or re-protect pages of the range. On return nothing accesses them,
    /// and nothing begins to until the matching end. May sleep only if `blockable`; never
    /// allocates.
    fn emm_invalidate_start(&self, start: u64, end: u64, blockable: bool);

    /// The invalidation with the same range is over. Must not sleep.
    fn emm_invalidate_end(&self, start: u64, end: u64);

    /// Whether a page of the range was used since the last call with `clear`. Must not sleep.
    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool;
}

/// One subscription, part of the subscriber's own memory.
///
/// # Invariants
///
/// While it is in a hub's tree: it is not moved, `client` is valid, and all fields but `client` are
/// touched under that hub's lock only.
#[repr(C)]
pub(crate) struct Subscription {
    tree: UnsafeCell<bindings::interval_tree_node>,
    /// The hub's sequence number when this was inserted.
    born: UnsafeCell<u64>,
    /// Callbacks that run now.
    active: UnsafeCell<u32>,
    /// Its owner waits for `active` to become 0.
    leaving: UnsafeCell<bool>,
    hub: UnsafeCell<*const Hub>,
    client: UnsafeCell<Option<NonNull<dyn EmmNotifier>>>,
}

// SAFETY: by the type's invariant the fields are touched under the hub's lock.
unsafe impl Send for Subscription {}
// SAFETY: as above.
unsafe impl Sync for Subscription {}

impl Subscription {
    /// A subscription to nothing.
    pub(crate) fn new() -> Self {
        Self {
            tree: UnsafeCell::new(Default::default()),
            born: UnsafeCell::new(0),
            active: UnsafeCell::new(0),
            leaving: UnsafeCell::new(false),
            hub: UnsafeCell::new(ptr::null()),
            client: UnsafeCell::new(None),
        }
    }

    /// Subscribes `client` to the user addresses [`start`, `last`] of `mm`. Sleeps; takes the
    /// mmap_lock.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    ///
    /// # Safety
    ///
    /// - The caller holds a reference on `mm` (mm_users).
    /// - `self` and `client` stay where they are until [`Self::unregister`], which is called
    ///   before either goes away.
    /// - `self` is not registered now.
    pub(crate) unsafe fn register(
        &self,
        client: NonNull<dyn EmmNotifier>,
        mm: *mut bindings::mm_struct,
        start: u64,
        last: u64,
    ) -> Result {
        // SAFETY: `mm` is alive by this function's contract.
        let hub = unsafe { Hub::get(mm) }?;
        // SAFETY: nobody else knows this subscription yet.
        unsafe {
            *self.client.get() = Some(client);
            *self.hub.get() = hub;
            *self.active.get() = 0;
            *self.leaving.get() = false;
            (*self.tree.get()).start = start as usize;
            (*self.tree.get()).last = last as usize;
        }
        // SAFETY: `Hub::get` took a reference, which is dropped in `unregister`.
        let hub = unsafe { &*hub };
        let mut inner = hub.inner.lock();
        while inner.in_flight.spilled() > 0 {
            // More invalidations at once than are remembered one by one: wait for them to pass.
            hub.changed.wait(&mut inner);
        }
        // SAFETY: the hub's lock is held, and the subscription is valid until unregistered.
        unsafe {
            *self.born.get() = inner.seq;
            bindings::interval_tree_insert(self.tree.get(), &raw mut inner.tree);
        }
        // SAFETY: by this function's contract.
        let client = unsafe { client.as_ref() };
        let own = PageRange::new(start >> PAGE_SHIFT, (last >> PAGE_SHIFT) + 1);
        for range in inner.in_flight.ranges() {
            if range.overlaps(&own) {
                // All of the address space ends with the last byte there is, not behind it.
                let end = range.end.saturating_mul(PAGE_SIZE);
                client.emm_invalidate_start(range.start << PAGE_SHIFT, end, false);
            }
        }
        Ok(())
    }

    /// Ends the subscription. No callback of it runs on return. Sleeps.
    ///
    /// # Safety
    ///
    /// It is registered, and not called from its own callbacks.
    pub(crate) unsafe fn unregister(&self) {
        // SAFETY: registered, so `hub` was set, and this subscription's reference keeps it.
        let hub = unsafe { &**self.hub.get() };
        let mut inner = hub.inner.lock();
        // SAFETY: the hub's lock is held.
        unsafe { *self.leaving.get() = true };
        // SAFETY: the hub's lock is held.
        while unsafe { *self.active.get() } > 0 {
            hub.changed.wait(&mut inner);
        }
        // SAFETY: the hub's lock is held, and the node is in this tree.
        unsafe { bindings::interval_tree_remove(self.tree.get(), &raw mut inner.tree) };
        drop(inner);
        // SAFETY: this is the reference that `register` took.
        unsafe { bindings::mmu_notifier_put(hub.notifier.get()) };
    }

    /// The address space subscribed to.
    ///
    /// # Safety
    ///
    /// It is registered.
    pub(crate) unsafe fn mm(&self) -> *mut bindings::mm_struct {
        // SAFETY: registered, so `hub` is set and alive; its mm never changes.
        unsafe { (*(**self.hub.get()).notifier.get()).mm }
    }
}

/// Invalidations of one address space that are remembered one by one: each is a thread inside the
/// VM. A registration waits while there are more.
const IN_FLIGHT: usize = 64;

struct Inner {
    tree: bindings::rb_root_cached,
    /// Counts starts and ends.
    seq: u64,
    /// Invalidations between start and end, in pages of user address space.
    in_flight: HoldOff<IN_FLIGHT>,
}

// SAFETY: the tree's pointers lead to subscriptions, which are `Send`.
unsafe impl Send for Inner {}

type InnerGuard<'a> = Guard<'a, Inner, SpinLockBackend>;

/// The subscriptions of one address space.
///
/// # Invariants
///
/// Every node in `inner.tree` is a registered [`Subscription`].
#[pin_data]
#[repr(C)]
struct Hub {
    notifier: Opaque<bindings::mmu_notifier>,
    #[pin]
    inner: SpinLock<Inner>,
    /// A subscription that is leaving became idle, or the last spilled invalidation ended.
    #[pin]
    changed: CondVar,
}

const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
    release: Some(hub_release),
    clear_flush_young: Some(hub_clear_young),
    clear_young: Some(hub_clear_young),
    test_young: Some(hub_test_young),
    invalidate_range_start: Some(hub_invalidate_range_start),
    invalidate_range_end: Some(hub_invalidate_range_end),
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: Some(hub_alloc),
    free_notifier: Some(hub_free),
};

struct Ops(bindings::mmu_notifier_ops);
// SAFETY: function pointers, never changed.
unsafe impl Sync for Ops {}
static HUB_OPS: Ops = Ops(OPS);

#[allow(improper_ctypes, reason = "bindgen's empty structs, behind pointers")]
unsafe extern "C" {
    fn emm_mmu_notifier_get(
        ops: *const bindings::mmu_notifier_ops,
        mm: *mut bindings::mm_struct,
    ) -> *mut bindings::mmu_notifier;
}

impl Hub {
    /// The hub of `mm`, made if it has none, with a reference for the caller.
    ///
    /// # Safety
    ///
    /// The caller holds a reference on `mm` (mm_users) and not its mmap_lock.
    unsafe fn get(mm: *mut bindings::mm_struct) -> Result<*const Hub> {
        // SAFETY: by this function's contract; the operations live as long as the module, which
        // waits in `synchronize` for the last hub.
        let notifier = unsafe { emm_mmu_notifier_get(&raw const HUB_OPS.0, mm) };
        kernel::error::from_err_ptr(notifier).map(|n| n.cast_const().cast())
    }

    /// # Safety
    ///
    /// `notifier` is the first field of a live hub, as it is in every callback of `HUB_OPS`.
    unsafe fn from_notifier<'a>(notifier: *mut bindings::mmu_notifier) -> &'a Hub {
        const { assert!(offset_of!(Hub, notifier) == 0) };
        // SAFETY: by this function's contract.
        unsafe { &*notifier.cast() }
    }

    /// The first subscription in the tree that [`start`, `last`] hits, or the one after `node`.
    fn find(
        inner: &mut Inner,
        node: *mut bindings::interval_tree_node,
        start: u64,
        last: u64,
    ) -> *mut bindings::interval_tree_node {
        let (start, last) = (start as usize, last as usize);
        if node.is_null() {
            // SAFETY: the tree is valid, and locked by whoever has `inner`.
            unsafe { bindings::interval_tree_iter_first(&raw mut inner.tree, start, last) }
        } else {
            // SAFETY: as above, and `node` is in the tree: its subscription is not idle.
            unsafe { bindings::interval_tree_iter_next(node, start, last) }
        }
    }

    /// Calls `tell` for each subscription hit by [`start`, `end`) and inserted before `seq`, with
    /// the lock released meanwhile.
    fn each<'a>(
        &'a self,
        mut inner: InnerGuard<'a>,
        (start, end): (u64, u64),
        seq: u64,
        tell: impl Fn(&dyn EmmNotifier),
    ) {
        let mut node = ptr::null_mut();
        loop {
            node = Self::find(&mut inner, node, start, end - 1);
            if node.is_null() {
                return;
            }
            const { assert!(offset_of!(Subscription, tree) == 0) };
            // SAFETY: nodes in the tree are registered subscriptions, by the hub's invariant.
            let sub = unsafe { &*node.cast::<Subscription>() };
            // SAFETY: the hub's lock is held.
            if unsafe { *sub.born.get() } >= seq {
                continue;
            }
            // SAFETY: the hub's lock is held, and the subscription is registered.
            let client = unsafe {
                *sub.active.get() += 1;
                *sub.client.get()
            };
            drop(inner);
            if let Some(client) = client {
                // SAFETY: `active` is above 0, so `unregister` waits, and the client is valid.
                tell(unsafe { client.as_ref() });
            }
            inner = self.inner.lock();
            // SAFETY: the hub's lock is held; the subscription is still in the tree, as `active`
            // was above 0.
            unsafe {
                *sub.active.get() -= 1;
                if *sub.leaving.get() && *sub.active.get() == 0 {
                    self.changed.notify_all();
                }
            }
        }
    }

    fn start(&self, start: u64, end: u64, blockable: bool) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let seq = inner.seq;
        inner.in_flight.start(pages(start, end));
        self.each(inner, (start, end), seq, |client| {
            client.emm_invalidate_start(start, end, blockable)
        });
    }

    fn end(&self, start: u64, end: u64) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let seq = inner.seq;
        let spilled = inner.in_flight.spilled();
        if !inner.in_flight.end(pages(start, end)) {
            pr_warn_once!("the VM ended an invalidation that it had not begun\n");
        }
        if spilled > 0 && inner.in_flight.spilled() == 0 {
            self.changed.notify_all();
        }
        self.each(inner, (start, end), seq, |client| {
            client.emm_invalidate_end(start, end)
        });
    }

    fn release(&self) {
        let inner = self.inner.lock();
        self.each(inner, (0, u64::MAX), u64::MAX, |client| {
            client.emm_release()
        });
    }

    fn referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        let mut inner = self.inner.lock();
        let mut node = ptr::null_mut();
        let mut young = false;
        loop {
            node = Self::find(&mut inner, node, start, end - 1);
            if node.is_null() || (young && !clear) {
                return young;
            }
            // SAFETY: nodes in the tree are registered subscriptions; the hub's lock is held, so
            // this one stays so.
            let client = unsafe { *(*node.cast::<Subscription>()).client.get() };
            if let Some(client) = client {
                // SAFETY: the client of a registered subscription is valid.
                young |= unsafe { client.as_ref() }.emm_referenced(start, end, clear);
            }
        }
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(start >> PAGE_SHIFT, ((end - 1) >> PAGE_SHIFT) + 1)
}

/// Waits until the memory of every hub without subscriptions is given back. The module may go
/// then.
pub(crate) fn synchronize() {
    // SAFETY: callable at any time from process context.
    unsafe { bindings::mmu_notifier_synchronize() };
}

extern "C" fn hub_alloc(_mm: *mut bindings::mm_struct) -> *mut bindings::mmu_notifier {
    let hub = KBox::pin_init(
        pin_init!(Hub {
            notifier: Opaque::zeroed(),
            inner <- new_spinlock!(
                Inner {
                    tree: Default::default(),
                    seq: 1,
                    in_flight: HoldOff::new(),
                },
                "emm_hub"
            ),
            changed <- new_condvar!("emm_hub_changed"),
        }),
        GFP_KERNEL,
    );
    match hub {
        // SAFETY: the hub is not moved from here until `hub_free`.
        Ok(hub) => KBox::into_raw(unsafe { Pin::into_inner_unchecked(hub) }).cast(),
        Err(_) => Error::to_ptr(ENOMEM),
    }
}

extern "C" fn hub_free(notifier: *mut bindings::mmu_notifier) {
    // SAFETY: `hub_alloc` made it, and mmu_notifier_put() saw the last reference go.
    drop(unsafe { Pin::new_unchecked(KBox::from_raw(notifier.cast::<Hub>())) });
}

extern "C" fn hub_release(notifier: *mut bindings::mmu_notifier, _mm: *mut bindings::mm_struct) {
    // SAFETY: a callback of `HUB_OPS`.
    unsafe { Hub::from_notifier(notifier) }.release();
}

extern "C" fn hub_invalidate_range_start(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> ffi::c_int {
    // SAFETY: the VM passes a valid range.
    let range = unsafe { &*range };
    if range.start < range.end {
        let blockable = range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
        // SAFETY: a callback of `HUB_OPS`.
        unsafe { Hub::from_notifier(notifier) }.start(
            range.start as u64,
            range.end as u64,
            blockable,
        );
    }
    0
}

extern "C" fn hub_invalidate_range_end(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: the VM passes a valid range.
    let range = unsafe { &*range };
    if range.start < range.end {
        // SAFETY: a callback of `HUB_OPS`.
        unsafe { Hub::from_notifier(notifier) }.end(range.start as u64, range.end as u64);
    }
}

extern "C" fn hub_clear_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    start: ffi::c_ulong,
    end: ffi::c_ulong,
) -> bool {
    // SAFETY: a callback of `HUB_OPS`.
    unsafe { Hub::from_notifier(notifier) }.referenced(start as u64, end as u64, true)
}

extern "C" fn hub_test_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    address: ffi::c_ulong,
) -> bool {
    // The page: a region may begin behind the address that it is asked by.
    let start = address as u64 & !(PAGE_SIZE - 1);
    // SAFETY: a callback of `HUB_OPS`.
    unsafe { Hub::from_notifier(notifier) }.referenced(start, start + PAGE_SIZE, false)
}
