// SPDX-License-Identifier: GPL-2.0

//! A memory region: the core's state, an EMM subscription on its range, and faults through the VM.
//!
//! Copies hold the region's gate shared, a page at a time, so an invalidation that takes it
//! exclusively waits for at most one page's copy on each CPU and never sleeps.

use crate::{
    emm::{Entry, Geometry, PageRange, RegionState},
    fault::{Asks, Fault},
    gate::{Gated, WriteGuard},
    mem::{self, KernelNodes},
    notifier::{EmmNotifier, Subscription},
    sight::{self, Listed},
    wait,
};
use core::pin::Pin;
use kernel::{mm::Mm, pr_warn_once, prelude::*};

/// The unit of [`RegionState::patience`]. Nanoseconds.
const PATIENCE_NS: u64 = 2_000_000;

pub(crate) type State = RegionState<KernelNodes>;

/// One memory region, from [`Region::create`] until it is dropped. Its owner makes sure that no
/// access of it runs or begins then.
#[pin_data(PinnedDrop)]
pub(crate) struct Region {
    // Goes first: who looks at the list sees a whole region.
    #[pin]
    listed: Listed,
    #[pin]
    subscription: Subscription<Memory>,
    nodes: KernelNodes,
}

/// What is told of the VM's events: the range, and what is translated of it.
#[pin_data]
pub(crate) struct Memory {
    geometry: Geometry,
    #[pin]
    state: Gated<State>,
}

/// Drivers use a region from any thread.
const _: fn() = || {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<Region>();
};

impl Region {
    /// A region of `length` bytes at `start` of the current process; of all its address space, now
    /// and later, if they are 0 and `u64::MAX`.
    pub(crate) fn create(start: u64, length: u64) -> Result<Pin<KBox<Self>>> {
        let region = Self::register(start, length);
        let error = region.as_ref().map_or_else(|e| e.to_errno(), |_| 0);
        sight::trace_register(start, length, error);
        region
    }

    fn register(start: u64, length: u64) -> Result<Pin<KBox<Self>>> {
        let length = if start == 0 && length == u64::MAX {
            mem::task_size()
        } else {
            length
        };
        let geometry = Geometry::new(start, length).ok_or(EINVAL)?;
        if start + length > mem::task_size() {
            return Err(EINVAL);
        }
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        let nodes = KernelNodes::new(mm);
        let memory = Memory::new(geometry, nodes.clone());
        let region = try_pin_init!(&this in Self {
            nodes,
            subscription <- Subscription::new(mm, start, start + (length - 1), memory),
            // SAFETY: all other fields are initialised, and this one goes before the others do.
            listed <- unsafe { Listed::new(this) },
        }? Error);
        KBox::pin_init(region, GFP_KERNEL_ACCOUNT)
    }

    fn memory(&self) -> &Memory {
        self.subscription.client()
    }

    /// Where it lies.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.memory().geometry
    }

    /// Its state.
    pub(crate) fn state(&self) -> &Gated<State> {
        &self.memory().state
    }

    /// Nodes for its table.
    pub(crate) fn nodes(&self) -> &KernelNodes {
        &self.nodes
    }

    /// The owner's address space.
    pub(crate) fn mm(&self) -> &Mm {
        self.subscription.mm()
    }

    /// From now on no access succeeds; one that waits is woken and fails.
    pub(crate) fn stop(&self) {
        self.memory().kill();
        wait::cancel(self);
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
        if !self.geometry().holds(offset, length as u64) {
            return Err(EINVAL);
        }
        let mut left = length;
        while left > 0 {
            let (page, at) = self.geometry().locate(offset);
            let bytes = left.min(crate::emm::PAGE_SIZE as usize - at);
            let mut use_entry = |entry: Entry| {
                // SAFETY: frames in the table are those that the VM named.
                let page = unsafe { mem::pfn_address(entry.pfn()) };
                // SAFETY: `at` is below the size of a page.
                each(unsafe { page.add(at) }, bytes)
            };
            let state = self.state().read();
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
        let end = self.geometry().locate(last).0 + 1;
        let want = PageRange::new(page, end).intersect(&PageRange::part_of(page));
        self.fault(want, Asks::Access { write })
    }

    /// Brings in the translations of `length` bytes at `offset`.
    pub(crate) fn prefetch(&self, offset: u64, length: u64, what: Asks) -> Result {
        if length == 0 || !self.geometry().holds(offset, length) {
            return Err(EINVAL);
        }
        let last = self.geometry().locate(offset + (length - 1)).0;
        let mut rest = PageRange::new(self.geometry().locate(offset).0, last + 1);
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
        f(&self.state().read())
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    fn fault(&self, want: PageRange, asks: Asks) -> Result<WriteGuard<'_, State>> {
        Fault::new(self, want, asks).run()
    }
}

#[pinned_drop]
impl PinnedDrop for Region {
    fn drop(self: Pin<&mut Self>) {
        // What was written is passed on while the VM still tells us of every page that goes.
        self.memory().kill();
    }
}

impl Memory {
    fn new(geometry: Geometry, nodes: KernelNodes) -> impl PinInit<Self> {
        let state = State::new(geometry, nodes);
        pin_init!(Self {
            geometry,
            state <- Gated::new(state),
        })
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
            let more = state.as_mut().clear_next(&mut rest, |entry| {
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

    /// A fault that lost too often gets its turn before an invalidation of `range`. Bounded: the
    /// fault may need a lock that the invalidation's caller holds. Sleeps.
    fn let_pass(state: &mut WriteGuard<'_, State>, range: &PageRange) {
        let mut waited = 0;
        loop {
            let patience = u64::from(state.patience(range, mem::thread())) * PATIENCE_NS;
            let Some(ns @ 1..) = patience.checked_sub(waited) else {
                return;
            };
            waited += ns - state.wait_for(ns);
        }
    }

    /// The owner is gone, or the region goes.
    fn kill(&self) {
        let mut state = self.state.write();
        state.as_mut().kill();
        self.drop_translations(state, self.geometry.pages(), true);
    }
}

impl EmmNotifier for Memory {
    fn emm_release(&self) {
        sight::trace_release(self.geometry.start(), self.geometry.length());
        self.kill();
    }

    fn emm_invalidate_start(&self, start: u64, end: u64, blockable: bool) {
        let range = self.geometry.clip(start, end);
        let mut state = self.state.write();
        if blockable {
            Self::let_pass(&mut state, &range);
        }
        state.as_mut().hold(range);
        let pages = self.drop_translations(state, range, blockable);
        sight::trace_invalidate(start, end, pages, blockable);
    }

    fn emm_invalidate_end(&self, start: u64, end: u64) {
        let range = self.geometry.clip(start, end);
        let mut state = self.state.write();
        if !state.as_mut().unhold(range) {
            pr_warn_once!("an invalidation of a region ended that had not begun\n");
        }
        state.wake();
    }

    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        let range = self.geometry.clip(start, end);
        self.state.read().young(range, clear)
    }
}
