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
//  4. what a client locks in its callbacks (`Memory::state` of region.rs, by gate.rs)
//  5. the wait queues of 3 and 4; the list of waits (wait.c) and siglock; what folio_mark_dirty()
//     takes
//
// Nothing is allocated under 3, 4 or 5.
//
// Those of rxe (kernel/rxe) are outside of these: `modify_lock`, which sleeps, over a QP's
// `state_lock`, over a task's lock; and `rxe_emm_awaited_lock` over the list of waits.

use crate::{
    emm::{HoldOff, PageRange, PAGE_SHIFT, PAGE_SIZE},
    glue,
};
use core::{marker::PhantomPinned, ops::Deref, ptr::NonNull};
use kernel::{
    bindings, container_of,
    error::from_err_ptr,
    ffi,
    mm::{Mm, MmWithUser},
    new_condvar, new_spinlock, pr_warn_once,
    prelude::*,
    sync::{
        lock::{spinlock::SpinLockBackend, Guard},
        CondVar, LockedBy, SpinLock,
    },
    types::Opaque,
};

/// What a subscriber is told. Ranges are user addresses [`start`, `end`).
///
/// `include/emm.h` states the same contract for C.
pub(crate) trait EmmNotifier: Send + Sync + 'static {
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

/// What a hub's tree has of a subscription.
///
/// # Invariants
///
/// - While `tree` is in a hub's tree, this is pinned, and `client` is valid. It never changes: it
///   is read without a lock too.
/// - `tree` is touched under the lock of its hub only.
#[pin_data]
struct Entry {
    #[pin]
    tree: Opaque<bindings::interval_tree_node>,
    told: LockedBy<Told, Inner>,
    client: NonNull<dyn EmmNotifier>,
}

/// What a subscription heard, and hears.
struct Told {
    /// The hub's sequence number when it was entered.
    born: u64,
    /// Callbacks that run now.
    active: u32,
    /// Its owner waits for `active` to become 0.
    leaving: bool,
}

impl Entry {
    /// For [`start`, `last`] of `hub`'s address space; in no tree yet.
    fn new(
        hub: &Hub,
        start: u64,
        last: u64,
        client: NonNull<dyn EmmNotifier>,
    ) -> impl PinInit<Self> {
        let told = LockedBy::new(
            &hub.inner,
            Told {
                born: 0,
                active: 0,
                leaving: false,
            },
        );
        let node = bindings::interval_tree_node {
            start: start as usize,
            last: last as usize,
            ..Default::default()
        };
        pin_init!(Self {
            tree: Opaque::new(node),
            told,
            client,
        })
    }
}

/// A client that is told of what happens to a range of an address space, from its construction to
/// its end.
///
/// # Invariants
///
/// `entry` is in the tree of `hub`, and its client is this one's.
#[pin_data(PinnedDrop)]
pub(crate) struct Subscription<T: EmmNotifier> {
    #[pin]
    entry: Entry,
    hub: HubRef,
    #[pin]
    client: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: what is touched is touched under the hub's lock, by any thread, and the client is `Send`.
unsafe impl<T: EmmNotifier> Send for Subscription<T> {}
// SAFETY: `&Subscription` gives the client, which is `Sync`, and the hub's mm, which is too.
unsafe impl<T: EmmNotifier> Sync for Subscription<T> {}

impl<T: EmmNotifier> Subscription<T> {
    /// Subscribes `client` to the user addresses [`start`, `last`] of `mm`. Sleeps; takes the
    /// mmap_lock, which the caller does not hold.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`, and those of `client`.
    pub(crate) fn new<'a, E>(
        mm: &'a MmWithUser,
        start: u64,
        last: u64,
        client: impl PinInit<T, E> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        Error: From<E>,
        E: 'a,
    {
        let pages = PageRange::new(start >> PAGE_SHIFT, (last >> PAGE_SHIFT) + 1);
        // INVARIANT: the last step enters it in the hub's tree.
        try_pin_init!(Self {
            client <- client,
            hub: Hub::get(mm)?,
            entry <- Entry::new(hub, start, last, NonNull::<T>::from(&*client)),
            _pin: PhantomPinned,
            _: {
                // SAFETY: the client is initialised, and pinned as the entry is. `drop` takes the
                // entry out before either goes.
                unsafe { hub.enter(entry.as_ref(), pages) };
            },
        }? Error)
    }

    /// Who is told.
    pub(crate) fn client(&self) -> &T {
        &self.client
    }

    /// The address space subscribed to.
    pub(crate) fn mm(&self) -> &Mm {
        self.hub.mm()
    }
}

#[pinned_drop]
impl<T: EmmNotifier> PinnedDrop for Subscription<T> {
    /// No callback runs on return. Sleeps. Not called from callbacks.
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: the entry is in the hub's tree, by the type's invariant.
        unsafe { self.hub.leave(&self.entry) };
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

impl Inner {
    /// The first subscription in the tree that [`start`, `last`] hits, or the next one after
    /// `after`.
    ///
    /// # Safety
    ///
    /// `after` is in this tree.
    unsafe fn find(
        &mut self,
        after: Option<NonNull<Entry>>,
        start: u64,
        last: u64,
    ) -> Option<NonNull<Entry>> {
        let (start, last) = (start as usize, last as usize);
        let node = if let Some(after) = after {
            // SAFETY: in the tree, hence valid, by this function's contract.
            let node = unsafe { after.as_ref() }.tree.get();
            // SAFETY: the node is in the tree, which is locked by whoever has `&mut self`.
            unsafe { bindings::interval_tree_iter_next(node, start, last) }
        } else {
            // SAFETY: the tree is valid, and locked by whoever has `&mut self`.
            unsafe { bindings::interval_tree_iter_first(&raw mut self.tree, start, last) }
        };
        if node.is_null() {
            return None;
        }
        let node = Opaque::cast_from(node).cast_mut();
        // SAFETY: nodes in the tree are those of entries, by the hub's invariant.
        NonNull::new(unsafe { container_of!(node, Entry, tree) })
    }
}

/// The subscriptions of one address space.
///
/// # Invariants
///
/// - Every node in `inner.tree` is that of an [`Entry`], which `enter` put there.
/// - `notifier` is registered, from the end of [`Hub::get`] until it is freed.
#[pin_data]
struct Hub {
    #[pin]
    notifier: Opaque<bindings::mmu_notifier>,
    #[pin]
    inner: SpinLock<Inner>,
    /// A subscription that is leaving became idle, or the last spilled invalidation ended.
    #[pin]
    changed: CondVar,
}

// SAFETY: `notifier` belongs to the VM, which any thread may call; the rest is `Send`.
unsafe impl Send for Hub {}
// SAFETY: `notifier` is touched by the VM only, but for `mm`, which never changes; the rest is
// `Sync`.
unsafe impl Sync for Hub {}

/// A reference on a hub.
///
/// # Invariants
///
/// Owns one of the references that `mmu_notifier_get()` counts.
struct HubRef(NonNull<Hub>);

// SAFETY: a reference may be put by any thread, and the hub is `Sync`.
unsafe impl Send for HubRef {}
// SAFETY: `&HubRef` gives `&Hub`, which is `Sync`.
unsafe impl Sync for HubRef {}

impl Deref for HubRef {
    type Target = Hub;

    fn deref(&self) -> &Hub {
        // SAFETY: the reference keeps the hub, by the type's invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for HubRef {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, by the type's invariant, and not used any more.
        unsafe { bindings::mmu_notifier_put(self.notifier.get()) };
    }
}

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

impl Hub {
    /// The hub of `mm`, made if it has none. Sleeps; takes the mmap_lock, which the caller does not
    /// hold.
    fn get(mm: &MmWithUser) -> Result<HubRef> {
        // SAFETY: `mm` has users, as it is such a reference. The operations live as long as the
        // module, which waits in `synchronize` for the last hub.
        let notifier = unsafe { glue::emm_mmu_notifier_get(&raw const HUB_OPS.0, mm.as_raw()) };
        // SAFETY: notifiers with our operations were made by `hub_alloc`.
        let hub = unsafe { Hub::of(from_err_ptr(notifier)?) };
        // INVARIANT: `mmu_notifier_get()` took a reference.
        // SAFETY: a hub's address is not null.
        Ok(HubRef(unsafe { NonNull::new_unchecked(hub) }))
    }

    /// The hub that `notifier` is part of.
    ///
    /// # Safety
    ///
    /// [`hub_alloc`] made it, and [`hub_free`] did not free it.
    unsafe fn of(notifier: *mut bindings::mmu_notifier) -> *mut Hub {
        let notifier = Opaque::cast_from(notifier).cast_mut();
        // SAFETY: `hub_alloc` makes them as part of a hub.
        unsafe { container_of!(notifier, Hub, notifier) }
    }

    /// The hub of a callback.
    ///
    /// # Safety
    ///
    /// `notifier` is that of a hub, which stays valid for `'a`.
    unsafe fn from_notifier<'a>(notifier: *mut bindings::mmu_notifier) -> &'a Hub {
        // SAFETY: this function's contract.
        let hub = unsafe { Hub::of(notifier) };
        // SAFETY: this function's contract.
        unsafe { &*hub }
    }

    /// Its address space.
    fn mm(&self) -> &Mm {
        // SAFETY: registered, by the type's invariant: the field is set, and never changes.
        let mm = unsafe { (*self.notifier.get()).mm };
        // SAFETY: a notifier holds a reference on its mm (mm_count) until it is freed.
        unsafe { Mm::from_raw(mm) }
    }

    /// Enters `entry`, for `pages`, and tells it of the invalidations under way. Sleeps.
    ///
    /// # Safety
    ///
    /// It is in no tree, its client is valid, and [`Self::leave`] follows before either goes away.
    unsafe fn enter(&self, entry: Pin<&Entry>, pages: PageRange) {
        let mut inner = self.inner.lock();
        while inner.in_flight.spilled() > 0 {
            // More invalidations at once than are remembered one by one: wait for them to pass.
            self.changed.wait(&mut inner);
        }
        let seq = inner.seq;
        entry.told.access_mut(&mut inner).born = seq;
        // INVARIANT: this is an entry's node, and valid until `leave` took it out.
        // SAFETY: the hub's lock is held, and the node is in no tree.
        unsafe { bindings::interval_tree_insert(entry.tree.get(), &raw mut inner.tree) };
        // SAFETY: by this function's contract.
        let client = unsafe { entry.client.as_ref() };
        for range in inner.in_flight.ranges() {
            if range.overlaps(&pages) {
                // All of the address space ends with the last byte there is, not behind it.
                let end = range.end.saturating_mul(PAGE_SIZE);
                client.emm_invalidate_start(range.start << PAGE_SHIFT, end, false);
            }
        }
    }

    /// Takes `entry` out. No callback of it runs on return. Sleeps.
    ///
    /// # Safety
    ///
    /// It is in the tree. This is not called from its own callbacks.
    unsafe fn leave(&self, entry: &Entry) {
        let mut inner = self.inner.lock();
        entry.told.access_mut(&mut inner).leaving = true;
        while entry.told.access_mut(&mut inner).active > 0 {
            self.changed.wait(&mut inner);
        }
        // SAFETY: the hub's lock is held, and the node is in this tree.
        unsafe { bindings::interval_tree_remove(entry.tree.get(), &raw mut inner.tree) };
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
        let mut last = None;
        loop {
            // SAFETY: the last one is in the tree still: the lock was held since it was found, or
            // it counted as active, and was so when the lock was taken again.
            last = unsafe { inner.find(last, start, end - 1) };
            let Some(entry) = last else { return };
            // SAFETY: entries in the tree are valid; this one stays there as said above.
            let entry = unsafe { entry.as_ref() };
            let told = entry.told.access_mut(&mut inner);
            if told.born >= seq {
                continue;
            }
            told.active += 1;
            drop(inner);
            // SAFETY: `active` is above 0, so `leave` waits, and the client is valid.
            tell(unsafe { entry.client.as_ref() });
            inner = self.inner.lock();
            let told = entry.told.access_mut(&mut inner);
            told.active -= 1;
            if told.leaving && told.active == 0 {
                self.changed.notify_all();
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
        let mut last = None;
        let mut young = false;
        loop {
            // SAFETY: the last one is in the tree still: the lock is held since it was found.
            last = unsafe { inner.find(last, start, end - 1) };
            let Some(entry) = last.filter(|_| clear || !young) else {
                return young;
            };
            // SAFETY: entries in the tree are valid; the hub's lock is held, so it stays so.
            let entry = unsafe { entry.as_ref() };
            // SAFETY: the client of an entry in the tree is valid.
            young |= unsafe { entry.client.as_ref() }.emm_referenced(start, end, clear);
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

/// # Safety
///
/// To be called by `mmu_notifier_get()` only: the caller owns what it returns, and gives it to
/// [`hub_free`].
unsafe extern "C" fn hub_alloc(_mm: *mut bindings::mm_struct) -> *mut bindings::mmu_notifier {
    let hub = KBox::pin_init(
        // INVARIANT: no node is in the tree. `mmu_notifier_get()` goes on to register it.
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
    let Ok(hub) = hub else {
        return ENOMEM.to_ptr();
    };
    // SAFETY: it is still treated as pinned: it is not moved from here until `hub_free`.
    let hub = KBox::into_raw(unsafe { Pin::into_inner_unchecked(hub) });
    // SAFETY: a projection to a field of a valid hub.
    Opaque::cast_into(unsafe { &raw const (*hub).notifier })
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
    let range = unsafe { &*range };
    if range.start < range.end {
        let blockable = range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
        // SAFETY: this function's contract.
        unsafe { Hub::from_notifier(notifier) }.start(
            range.start as u64,
            range.end as u64,
            blockable,
        );
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
    let range = unsafe { &*range };
    if range.start < range.end {
        // SAFETY: this function's contract.
        unsafe { Hub::from_notifier(notifier) }.end(range.start as u64, range.end as u64);
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
