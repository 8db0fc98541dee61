// SPDX-License-Identifier: GPL-2.0

//! The subscriptions of one address space, and who of them is told what.
//!
//! A subscription that begins while an invalidation is under way must hear of it: the pages are
//! still mapped, a fault would find them, and they would go without a further word. So the hub
//! remembers the ranges under way, and tells a newcomer. Sequence numbers make each subscription
//! hear each start, and each end of a start that it heard, exactly once.

use super::contract::{EmmNotifier, Invalidation, Kind, Patience};
use crate::{
    emm::{HoldOff, PageRange, PAGE_SHIFT, PAGE_SIZE},
    glue,
    workers::Workers,
};
use core::{cell::Cell, ops::Deref, ptr, ptr::NonNull};
use kernel::{
    bindings, container_of,
    error::to_result,
    mm::Mm,
    new_condvar, new_spinlock, pr_warn_once,
    prelude::*,
    sync::{
        lock::{spinlock::SpinLockBackend, Guard},
        Arc, CondVar, LockedBy, SpinLock,
    },
    types::Opaque,
};

/// What a hub's tree has of a subscription.
///
/// # Invariants
///
/// - While `tree` is in a hub's tree, this is pinned, and `client` is valid. It never changes: it
///   is read without a lock too.
/// - `tree` is touched under the lock of its hub only.
#[pin_data]
pub(super) struct Entry {
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
    /// It is told nothing more: its owner waits for `active` to become 0, or the address space has
    /// gone.
    leaving: bool,
    /// It is in the tree no more.
    left: bool,
}

impl Entry {
    /// For [`start`, `last`] of `hub`'s address space; in no tree yet.
    pub(super) fn new(
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
                left: false,
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

/// Invalidations of one address space that are remembered one by one: each is a thread inside the
/// VM. A registration waits while there are more.
const IN_FLIGHT: usize = 64;

/// The sequence number of a hub that was told of nothing yet.
const FIRST: u64 = 1;

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
    /// Whether there is no subscription.
    fn is_empty(&self) -> bool {
        self.tree.rb_root.rb_node.is_null()
    }

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
/// - `node` is that of `hubs.c`, which alone touches it, but for its `mm`: that never changes once
///   the hub is in use, and is kept (mm_count) until the hub is freed.
#[pin_data]
pub(super) struct Hub {
    #[pin]
    node: Opaque<glue::emm_hub_node>,
    #[pin]
    inner: SpinLock<Inner>,
    /// A subscription that is leaving became idle.
    #[pin]
    changed: CondVar,
    /// For faults of clients; they go with the last who uses them.
    workers: Arc<Workers>,
}

// SAFETY: `node` belongs to no thread; the rest is `Send`.
unsafe impl Send for Hub {}
// SAFETY: what touches `node` may be called by any thread; the rest is `Sync`.
unsafe impl Sync for Hub {}

/// A reference on a hub.
///
/// # Invariants
///
/// Owns one of the users that the hub's node counts.
pub(super) struct HubRef(NonNull<Hub>);

// SAFETY: a reference may be put by any thread, and the hub is `Sync`.
unsafe impl Send for HubRef {}
// SAFETY: `&HubRef` gives `&Hub`, which is `Sync`.
unsafe impl Sync for HubRef {}

impl HubRef {
    /// # Safety
    ///
    /// It is the node of a hub, and one of its users is given to this.
    pub(super) unsafe fn new(node: NonNull<glue::emm_hub_node>) -> Self {
        // SAFETY: by this function's contract.
        let hub = unsafe { Hub::of(node.as_ptr()) };
        // INVARIANT: by this function's contract.
        // SAFETY: a hub's address is not null.
        Self(unsafe { NonNull::new_unchecked(hub) })
    }
}

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
        unsafe { glue::emm_hub_put(self.node.get()) };
    }
}

impl Hub {
    /// One without subscriptions, of no address space yet.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        // INVARIANT: no node is in the tree.
        try_pin_init!(Self {
            node: Opaque::zeroed(),
            // In its place: it is too much to be moved about.
            inner <- new_spinlock!(
                init!(Inner {
                    tree: Default::default(),
                    seq: FIRST,
                    in_flight: HoldOff::new(),
                }),
                "emm_hub"
            ),
            changed <- new_condvar!("emm_hub_changed"),
            workers: Workers::new()?,
        }? Error)
    }

    /// The workers of its address space.
    pub(super) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// What the table of hubs knows it by.
    pub(super) fn node(&self) -> *mut glue::emm_hub_node {
        self.node.get()
    }

    /// The hub that `node` is part of.
    ///
    /// # Safety
    ///
    /// It is, and the hub was not freed.
    pub(super) unsafe fn of(node: *mut glue::emm_hub_node) -> *mut Self {
        let node = Opaque::cast_from(node).cast_mut();
        // SAFETY: it is part of a hub, by this function's contract.
        unsafe { container_of!(node, Self, node) }
    }

    /// Its address space.
    pub(super) fn mm(&self) -> &Mm {
        // SAFETY: set, and never changed, by the type's invariant.
        let mm = unsafe { (*self.node.get()).mm };
        // SAFETY: kept until the hub is freed, by the type's invariant.
        unsafe { Mm::from_raw(mm) }
    }

    /// Enters `entry`, for `pages`, and tells it of the invalidations under way. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR` if the thread was killed while it waited for a flood of invalidations to pass.
    ///
    /// # Safety
    ///
    /// It is in no tree, its client is valid, and [`Self::leave`] follows before either goes away.
    pub(super) unsafe fn enter(&self, entry: Pin<&Entry>, pages: PageRange) -> Result {
        let mut inner = self.inner.lock();
        while inner.in_flight.spilled() > 0 {
            // More invalidations at once than are remembered one by one: wait for them to pass.
            drop(inner);
            // SAFETY: the node was initialised when this became the hub of an address space.
            to_result(unsafe { glue::emm_hub_wait_calm(self.node.get()) }).map_err(|_| EINTR)?;
            inner = self.inner.lock();
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
                // Why, is not remembered: as if the pages went. It has none of them yet, so there is
                // nothing that it could not do now.
                let _ = client.emm_invalidate_start(&Invalidation {
                    mm: self.mm(),
                    start: range.start << PAGE_SHIFT,
                    end,
                    blockable: false,
                    kind: Kind::Clear,
                    owner: ptr::null(),
                    patience: &Patience::new(0),
                });
            }
        }
        Ok(())
    }

    /// Takes `entry` out, if it is not yet. No callback of it begins any more, and none runs on
    /// return. Sleeps.
    ///
    /// # Safety
    ///
    /// It was entered here. This is not called from its own callbacks.
    pub(super) unsafe fn leave(&self, entry: &Entry) {
        let mut inner = self.inner.lock();
        let told = entry.told.access_mut(&mut inner);
        told.leaving = true;
        if told.left {
            return;
        }
        while entry.told.access_mut(&mut inner).active > 0 {
            self.changed.wait(&mut inner);
        }
        let told = entry.told.access_mut(&mut inner);
        if core::mem::replace(&mut told.left, true) {
            // Somebody else waited, too.
            return;
        }
        // SAFETY: the hub's lock is held, and the node is in this tree.
        unsafe { bindings::interval_tree_remove(entry.tree.get(), &raw mut inner.tree) };
    }

    /// Calls `tell` for each subscription hit by [`start`, `end`) and inserted before `seq`, with
    /// the lock released meanwhile. After the `last_word` it is told nothing more.
    fn each<'a>(
        &'a self,
        mut inner: InnerGuard<'a>,
        (start, end): (u64, u64),
        seq: u64,
        last_word: bool,
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
            if told.born >= seq || told.leaving {
                continue;
            }
            told.active += 1;
            drop(inner);
            // SAFETY: `active` is above 0, so `leave` waits, and the client is valid.
            tell(unsafe { entry.client.as_ref() });
            inner = self.inner.lock();
            let told = entry.told.access_mut(&mut inner);
            told.active -= 1;
            told.leaving |= last_word;
            if told.leaving && told.active == 0 {
                self.changed.notify_all();
            }
        }
    }

    /// An invalidation begins. All whom it hits are told, also behind one that says "not now": the
    /// VM tells all of them the end.
    pub(super) fn start(&self, event: &Invalidation<'_>) -> Result {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let seq = inner.seq;
        let spilled = inner.in_flight.spilled();
        inner.in_flight.start(pages(event.start, event.end));
        if spilled == 0 && inner.in_flight.spilled() > 0 {
            self.flood(true);
        }
        let result = Cell::new(Ok(()));
        self.each(inner, (event.start, event.end), seq, false, |client| {
            if let Err(error) = client.emm_invalidate_start(event) {
                result.set(Err(error));
            }
        });
        result.get()
    }

    /// It is over.
    pub(super) fn end(&self, event: &Invalidation<'_>) {
        let mut inner = self.inner.lock();
        let spilled = inner.in_flight.spilled();
        if !inner.in_flight.end(pages(event.start, event.end)) {
            // Where starts and ends come by different ways, the ends are the first: such a one has
            // begun before there was a way for starts.
            if inner.seq > FIRST {
                pr_warn_once!("the VM ended an invalidation that it had not begun\n");
            }
            return;
        }
        inner.seq += 1;
        let seq = inner.seq;
        if spilled > 0 && inner.in_flight.spilled() == 0 {
            self.flood(false);
        }
        if inner.is_empty() {
            drop(inner);
            // SAFETY: the node was initialised when this became the hub of an address space.
            unsafe { glue::emm_hub_told_nobody(self.node.get()) };
            return;
        }
        self.each(inner, (event.start, event.end), seq, false, |client| {
            client.emm_invalidate_end(event)
        });
    }

    /// More invalidations are under way than are remembered one by one, or no more. Called under
    /// the lock, so that they come in order.
    fn flood(&self, flood: bool) {
        // SAFETY: the node was initialised when this became the hub of an address space.
        unsafe { glue::emm_hub_flood(self.node.get(), flood) };
    }

    /// The address space goes.
    pub(super) fn release(&self) {
        let inner = self.inner.lock();
        self.each(inner, (0, u64::MAX), u64::MAX, true, |client| {
            client.emm_release()
        });
        // SAFETY: the node was initialised when this became the hub of an address space.
        unsafe { glue::emm_hub_released(self.node.get()) };
    }

    /// Whether a page of [`start`, `end`) was used.
    pub(super) fn referenced(&self, start: u64, end: u64, clear: bool) -> bool {
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
            if entry.told.access_mut(&mut inner).leaving {
                continue;
            }
            // SAFETY: the client of an entry in the tree is valid.
            young |= unsafe { entry.client.as_ref() }.emm_referenced(start, end, clear);
        }
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(start >> PAGE_SHIFT, ((end - 1) >> PAGE_SHIFT) + 1)
}
