// SPDX-License-Identifier: GPL-2.0

//! A memory region: the core's state, an EMM subscription on its range, and faults through the VM.
//!
//! Copies hold the region's gate shared, a page at a time, so an invalidation that takes it
//! exclusively waits for at most one page's copy on each CPU and never sleeps.

use crate::{
    emm::{Entry, Geometry, PageRange, RegionState},
    fault::{Asks, Fault},
    gate::{Gated, WriteGuard},
    mem::{self, KernelNodes, Payer},
    notifier::{EmmNotifier, Subscription},
    sight::{self, Listed},
    wait,
};
use core::ptr::NonNull;
use kernel::{bindings, pr_warn_once, prelude::*};

/// The unit of [`RegionState::patience`]. Nanoseconds.
const PATIENCE_NS: u64 = 2_000_000;

pub(crate) type State = RegionState<KernelNodes>;

/// One memory region.
///
/// # Invariants
///
/// Boxed, with `subscription` registered for the region's range, and `listed` in its list, from
/// [`Region::create`] to [`Region::destroy`].
pub(crate) struct Region {
    subscription: Subscription,
    listed: Listed,
    geometry: Geometry,
    state: Gated<State>,
    // Outlives `state`: fields go in order.
    payer: Payer,
}

impl Region {
    /// A region of `length` bytes at `start` of the current process; of all its address space, now
    /// and later, if they are 0 and `u64::MAX`.
    pub(crate) fn create(start: u64, length: u64) -> Result<KBox<Self>> {
        let region = Self::register(start, length);
        let error = region.as_ref().map_or_else(|e| e.to_errno(), |_| 0);
        sight::trace_register(start, length, error);
        region
    }

    fn register(start: u64, length: u64) -> Result<KBox<Self>> {
        let length = if start == 0 && length == u64::MAX {
            mem::task_size()
        } else {
            length
        };
        let geometry = Geometry::new(start, length).ok_or(EINVAL)?;
        if start + length > mem::task_size() {
            return Err(EINVAL);
        }
        // SAFETY: reads a field of the current task.
        let mm = unsafe { (*bindings::get_current()).mm };
        if mm.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: the current process holds its own mm.
        let payer = unsafe { Payer::new(mm) };
        // SAFETY: the payer goes into the same region, and goes after the state.
        let nodes = unsafe { payer.nodes() };
        let region = KBox::new(
            Self {
                subscription: Subscription::new(),
                listed: Listed::new(),
                geometry,
                state: Gated::new(State::new(geometry, nodes)),
                payer,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: the region is at its final place and not shared yet.
        unsafe { region.state.init() };
        let client: NonNull<dyn EmmNotifier> = NonNull::from(&*region);
        // SAFETY: the current process holds its own mm. The region stays in its box, and `destroy`
        // unregisters before the box goes.
        unsafe {
            region
                .subscription
                .register(client, mm, start, start + (length - 1))
        }?;
        // SAFETY: new, and `destroy` takes it out.
        unsafe { region.listed.add(&region) };
        Ok(region)
    }

    /// Where it lies.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Its state.
    pub(crate) fn state(&self) -> &Gated<State> {
        &self.state
    }

    /// Nodes for its table. Not to be kept longer than the borrow of the region.
    pub(crate) fn nodes(&self) -> KernelNodes {
        // SAFETY: callers have the region, hence the payer.
        unsafe { self.payer.nodes() }
    }

    /// The owner's address space.
    pub(crate) fn mm(&self) -> *mut bindings::mm_struct {
        // SAFETY: registered, by the type's invariant.
        unsafe { self.subscription.mm() }
    }

    /// From now on no access succeeds; one that waits is woken and fails.
    pub(crate) fn stop(&self) {
        self.kill();
        wait::cancel(self);
    }

    /// Ends the region.
    ///
    /// # Safety
    ///
    /// No other method runs or begins.
    pub(crate) unsafe fn destroy(this: KBox<Self>) {
        // SAFETY: in the list, by the type's invariant.
        unsafe { this.listed.del() };
        // What was written is passed on while the VM still tells us of every page that goes.
        this.kill();
        // SAFETY: registered, by the type's invariant.
        unsafe { this.subscription.unregister() };
    }

    /// Calls `each` with the kernel address of each page piece of `length` bytes at `offset`.
    /// `each` runs under the gate. Sleeps between pieces.
    pub(crate) fn apply(
        &self,
        mut offset: u64,
        length: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, usize),
    ) -> Result {
        if !self.geometry.holds(offset, length as u64) {
            return Err(EINVAL);
        }
        let mut left = length;
        while left > 0 {
            let (page, at) = self.geometry.locate(offset);
            let bytes = left.min(crate::emm::PAGE_SIZE as usize - at);
            let mut use_entry = |entry: Entry| {
                // SAFETY: `at` is below the size of a page.
                each(unsafe { mem::pfn_address(entry.pfn()).add(at) }, bytes)
            };
            let state = self.state.read();
            if let Some(entry) = state.access(page, write) {
                use_entry(entry);
            } else {
                drop(state);
                let state = self.fault_in(page, offset + (left as u64 - 1), write)?;
                use_entry(state.access(page, write).ok_or(EFAULT)?);
            }
            offset += bytes as u64;
            left -= bytes;
        }
        Ok(())
    }

    /// As [`Self::fault`], for an access from `page` to the byte at `last` of the region. The
    /// fault's own lock is kept, so that no invalidation comes between it and the access.
    #[cold]
    #[inline(never)]
    fn fault_in(&self, page: u64, last: u64, write: bool) -> Result<WriteGuard<'_, State>> {
        let end = self.geometry.locate(last).0 + 1;
        let want = PageRange::new(page, end).intersect(&PageRange::part_of(page));
        self.fault(want, Asks::Access { write })
    }

    /// Brings in the translations of `length` bytes at `offset`.
    pub(crate) fn prefetch(&self, offset: u64, length: u64, what: Asks) -> Result {
        if length == 0 || !self.geometry.holds(offset, length) {
            return Err(EINVAL);
        }
        let last = self.geometry.locate(offset + (length - 1)).0;
        let mut rest = PageRange::new(self.geometry.locate(offset).0, last + 1);
        while !rest.is_empty() {
            let want = rest.intersect(&PageRange::part_of(rest.start));
            match self.fault(want, what) {
                Ok(state) => {
                    while rest.start < want.end && state.has(rest.start, what.writes()) {
                        rest.start += 1;
                    }
                }
                // Not there: the next one may be.
                Err(error) if what == Asks::Present && error == EFAULT => rest.start += 1,
                Err(error) => return Err(error),
            }
            if mem::killed() {
                return Err(EINTR);
            }
            mem::cond_resched();
        }
        Ok(())
    }

    /// Runs `f` on the state, held shared.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.state.read())
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    fn fault(&self, want: PageRange, asks: Asks) -> Result<WriteGuard<'_, State>> {
        let nodes = self.nodes();
        Fault::new(self, &nodes, want, asks).run()
    }

    /// Takes the translations of `range`, passing on what was written. Sleeps only if `blockable`.
    ///
    /// # Returns
    ///
    /// How many pages were translated there.
    fn drop_translations<'a>(
        &'a self,
        mut state: WriteGuard<'a, State>,
        range: PageRange,
        blockable: bool,
    ) -> u64 {
        let mut rest = range;
        let mut pages = 0;
        loop {
            let more = state.clear_next(&mut rest, |entry| {
                pages += entry.pages();
                if entry.dirty() {
                    // SAFETY: a translation stands in the table only while the page is mapped by
                    // the owner: each way to unmap it begins with a start, which takes the
                    // translation and this same lock.
                    unsafe { mem::pfn_mark_dirty(entry.pfn()) };
                }
            });
            if !more {
                state.wake();
                return pages;
            }
            drop(state);
            if blockable {
                mem::cond_resched();
            }
            state = self.state.write();
        }
    }

    /// The owner is gone, or the region goes.
    fn kill(&self) {
        let mut state = self.state.write();
        state.kill();
        self.drop_translations(state, self.geometry.pages(), true);
    }
}

impl EmmNotifier for Region {
    fn emm_release(&self) {
        sight::trace_release(self.geometry.start(), self.geometry.length());
        self.kill();
    }

    fn emm_invalidate_start(&self, start: u64, end: u64, blockable: bool) {
        let range = self.geometry.clip(start, end);
        let mut state = self.state.write();
        // A fault that lost too often gets its turn. Bounded: the fault may need a lock that this
        // invalidation's caller holds.
        let mut waited = 0;
        while blockable {
            let patience = u64::from(state.patience(&range, mem::thread())) * PATIENCE_NS;
            let Some(ns @ 1..) = patience.checked_sub(waited) else {
                break;
            };
            waited += ns - state.wait_for(ns);
        }
        state.hold(range);
        let pages = self.drop_translations(state, range, blockable);
        sight::trace_invalidate(start, end, pages, blockable);
    }

    fn emm_invalidate_end(&self, start: u64, end: u64) {
        let range = self.geometry.clip(start, end);
        let mut state = self.state.write();
        if !state.unhold(range) {
            pr_warn_once!("an invalidation of a region ended that had not begun\n");
        }
        state.wake();
    }

    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        let range = self.geometry.clip(start, end);
        self.state.read().young(range, clear)
    }
}
