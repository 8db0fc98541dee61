// SPDX-License-Identifier: GPL-2.0

//! A memory region: the core's state, and an EMM subscription on its range.

use crate::{
    ask,
    driver::Driver,
    emm::{Geometry, LetPass, Losses, PageRange, RegionState},
    gate::{Gated, WriteGuard},
    glue,
    mem::{self, KernelNodes},
    notifier::{EmmNotifier, Invalidation, Kind, Subscription},
    owner::Owner,
    parked::Cookie,
    sight::{self, Listed},
    workers::{Name, Workers},
};
use core::{pin::Pin, ptr::NonNull};
use kernel::{
    mm::{Mm, MmWithUser},
    pr_warn_once,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// The unit of [`RegionState::patience`]. Nanoseconds.
const PATIENCE_NS: u64 = 2_000_000;

/// How long a worker waits for the access that it brought a page in for, if that came too late too
/// often. Nanoseconds.
const SETTLE_NS: u64 = 64_000_000;

pub(crate) type State = RegionState<KernelNodes>;

/// One memory region, from [`Region::create`] until it is dropped: by its driver, and by the last
/// worker that is in a fault of it.
#[pin_data(PinnedDrop)]
pub(crate) struct Region {
    // Goes first: who looks at the list sees a whole region.
    #[pin]
    listed: Listed,
    /// Nothing is parked for it any more. Set before its owner's lock is taken to end what is, and
    /// looked at under that lock.
    stopped: Atomic<bool>,
    // Its address space is the subscription's.
    owner: Owner,
    #[pin]
    subscription: Subscription<Memory>,
    nodes: KernelNodes,
}

/// What is told of the VM's events: the range, and what is translated of it.
#[pin_data]
pub(crate) struct Memory {
    geometry: Geometry,
    /// Has tables of its own.
    driver: Option<Driver>,
    #[pin]
    state: Gated<State>,
}

/// Drivers use a region from any thread.
const _: fn() = || {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<Region>();
};

/// The name that C has for `region`, which is in an `Arc`.
fn to_c(region: NonNull<Region>) -> NonNull<glue::emm_region> {
    region.cast()
}

impl Region {
    /// A region of `length` bytes at `start` of the current process; of all its address space, now
    /// and later, if they are 0 and `u64::MAX`.
    pub(crate) fn create(start: u64, length: u64) -> Result<Arc<Self>> {
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        Self::create_for(mm, start, length, None)
    }

    /// The same of `mm`, for a driver with tables of its own.
    pub(crate) fn create_for(
        mm: &MmWithUser,
        start: u64,
        length: u64,
        driver: Option<Driver>,
    ) -> Result<Arc<Self>> {
        let region = Self::register(mm, start, length, driver);
        let error = region.as_ref().map_or_else(|e| e.to_errno(), |_| 0);
        sight::trace_register(start, length, error);
        region
    }

    fn register(
        mm: &MmWithUser,
        start: u64,
        length: u64,
        driver: Option<Driver>,
    ) -> Result<Arc<Self>> {
        let length = if start == 0 && length == u64::MAX {
            mem::task_size()
        } else {
            length
        };
        let geometry = Geometry::new(start, length).ok_or(EINVAL)?;
        if start + length > mem::task_size() {
            mem::not_in_user_space(start, length);
            return Err(EINVAL);
        }
        let nodes = KernelNodes::new(mm);
        let refuses = driver.as_ref().is_some_and(Driver::refuses);
        let memory = Memory::new(geometry, nodes.clone(), driver);
        let region = try_pin_init!(&this in Self {
            nodes,
            stopped: Atomic::new(false),
            // SAFETY: the subscription keeps `mm`, and the owner goes before it.
            owner: unsafe { Owner::new(mm) },
            subscription <- Subscription::with(refuses, mm, start, start + (length - 1), memory),
            // SAFETY: all other fields are initialised, and this one goes before the others do.
            listed <- unsafe { Listed::new(to_c(this)) },
        }? Error);
        Arc::pin_init(region, GFP_KERNEL_ACCOUNT)
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

    /// Whose memory it is.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The owner's address space.
    pub(crate) fn mm(&self) -> &Mm {
        self.subscription.mm()
    }

    /// Whose faults they are.
    pub(crate) fn workers(&self) -> &Arc<Workers> {
        self.subscription.workers()
    }

    /// Its name, for the workers. It is in an `Arc`, as all regions are.
    pub(crate) fn name(&self) -> Name {
        Name(to_c(NonNull::from(self)))
    }

    /// Whether it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// From now on no access succeeds, and what is parked ends. Workers that are in a fault of it are
    /// told to end, and not waited for.
    pub(crate) fn stop(&self) {
        self.memory().kill();
        self.stopped.store(true, Relaxed);
        // SAFETY: it is called under the lock, for accesses that ended there.
        let tell = |access| unsafe { Cookie::tell(access) };
        self.workers().stop(self.name(), tell);
    }

    /// Its driver has no more use for it, and is told nothing more when this returns. Sleeps.
    pub(crate) fn retire(&self) {
        if !self.is_stopped() {
            self.stop();
        }
        self.subscription.end();
        self.listed.remove();
    }

    /// A fault for `page` is over, which lost `losses`, and the driver was told to try its access
    /// again. If it came too late too often, invalidations let it pass until it has come. Sleeps, for
    /// [`SETTLE_NS`] at most.
    pub(crate) fn settle(&self, page: u64, losses: Losses) {
        if !losses.starving() {
            return;
        }
        let mut state = self.state().write();
        let mut left = SETTLE_NS;
        while left > 0 && state.unused(page) && !self.is_stopped() {
            left = state.wait_for(left);
        }
        if state.as_mut().sated(losses) {
            state.wake();
        }
    }

    /// An access that others may wait for has been made.
    #[cold]
    pub(crate) fn used(&self) {
        self.state().nudge();
    }

    /// Runs `f` on the state, held shared.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.state().read())
    }
}

#[pinned_drop]
impl PinnedDrop for Region {
    fn drop(self: Pin<&mut Self>) {
        // What was written is passed on while the VM still tells us of every page that goes. Who
        // stopped it has done so.
        if !self.is_stopped() {
            self.memory().kill();
        }
    }
}

impl Memory {
    fn new(geometry: Geometry, nodes: KernelNodes, driver: Option<Driver>) -> impl PinInit<Self> {
        let state = State::new(geometry, nodes);
        pin_init!(Self {
            geometry,
            driver,
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
    /// fault may need a lock that the invalidation's caller holds, and others wait for the caller.
    /// Not at all where it can't help: where the memory goes for good, and while somebody has the
    /// mmap_lock for writing, most often the caller. Sleeps.
    fn let_pass(state: &mut WriteGuard<'_, State>, range: &PageRange, event: &Invalidation<'_>) {
        if event.kind == Kind::Unmap {
            return;
        }
        let (number, me) = (state.as_mut().come(), mem::thread());
        let mut turn = LetPass::new(event.patience.left());
        loop {
            let patience = u64::from(state.patience(range, me, number)) * PATIENCE_NS;
            let ns = turn.rest(patience);
            if ns == 0 && patience > 0 && turn.has_waited() {
                state.as_mut().turn_over();
            }
            if ns == 0 || ask::write_locked(event.mm) {
                return;
            }
            let waited = ns - state.wait_for(ns);
            turn.waited(waited);
            event.patience.spend(waited);
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
        if let Some(driver) = &self.driver {
            driver.release();
        }
    }

    fn emm_invalidate_start(&self, event: &Invalidation<'_>) -> Result {
        let &Invalidation {
            start,
            end,
            blockable,
            ..
        } = event;
        let range = self.geometry.clip(start, end);
        let mut state = self.state.write();
        if blockable {
            Self::let_pass(&mut state, &range, event);
        }
        state.as_mut().hold(range);
        if let Some(driver) = &self.driver {
            // No frame of the range is given out any more, and those that were are still marked by
            // way of the table.
            drop(state);
            driver.start(event)?;
            state = self.state.write();
        }
        let pages = self.drop_translations(state, range, blockable);
        sight::trace_invalidate(start, end, pages, blockable);
        // A region by itself never says "not now".
        Ok(())
    }

    fn emm_invalidate_end(&self, event: &Invalidation<'_>) {
        let range = self.geometry.clip(event.start, event.end);
        let mut state = self.state.write();
        if !state.as_mut().unhold(range) {
            pr_warn_once!("an invalidation of a region ended that had not begun\n");
        }
        state.wake();
        drop(state);
        if let Some(driver) = &self.driver {
            driver.end(event);
        }
    }

    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool {
        let range = self.geometry.clip(start, end);
        let young = self.state.read().young(range, clear);
        // Both are asked, so that both forget.
        match &self.driver {
            Some(driver) if clear || !young => driver.referenced(start, end, clear) || young,
            _ => young,
        }
    }
}
