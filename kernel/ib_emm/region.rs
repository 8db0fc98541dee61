// SPDX-License-Identifier: GPL-2.0

//! A memory region: the core's state, an EMM subscription on its range, and faults through the VM.
//!
//! Copies hold the region's gate shared, a page at a time, so an invalidation that takes it
//! exclusively waits for at most one page's copy on each CPU and never sleeps.

use crate::{
    emm::{Begin, Entry, Finish, Geometry, PageRange, Pool, RegionState, Window},
    gate::{Gated, WriteGuard},
    mem::{self, KernelNodes},
    notifier::{EmmNotifier, Subscription},
};
use core::{pin::pin, ptr::NonNull};
use kernel::{bindings, pr_warn_once, prelude::*};

/// How often a fault is begun again because the VM took the pages away meanwhile.
const MAX_TRIES: u32 = 10_000;

type State = RegionState<KernelNodes>;

/// One memory region.
///
/// # Invariants
///
/// Boxed, with `subscription` registered for the region's range from [`Region::create`] to
/// [`Region::destroy`].
pub(crate) struct Region {
    subscription: Subscription,
    geometry: Geometry,
    state: Gated<State>,
}

impl Region {
    /// A region of `length` bytes at `start` of the current process.
    pub(crate) fn create(start: u64, length: u64) -> Result<KBox<Self>> {
        let geometry = Geometry::new(start, length).ok_or(EINVAL)?;
        if start + length > mem::task_size() {
            return Err(EINVAL);
        }
        // SAFETY: reads a field of the current task.
        let mm = unsafe { (*bindings::get_current()).mm };
        if mm.is_null() {
            return Err(EINVAL);
        }
        let region = KBox::new(
            Self {
                subscription: Subscription::new(),
                geometry,
                state: Gated::new(State::new(geometry, KernelNodes)),
            },
            GFP_KERNEL,
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
        Ok(region)
    }

    /// Ends the region.
    ///
    /// # Safety
    ///
    /// No other method runs or begins.
    pub(crate) unsafe fn destroy(this: KBox<Self>) {
        // What was written is passed on while the VM still tells us of every page that goes.
        this.drop_translations(this.geometry.pages(), true, State::kill);
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
                let last = self.geometry.locate(offset + (left as u64 - 1)).0;
                let want = PageRange::new(page, last + 1).intersect(&PageRange::part_of(page));
                // The fault's own lock is kept, so that no invalidation comes between.
                let state = self.fault(want, write, false)?;
                use_entry(state.access(page, write).ok_or(EFAULT)?);
            }
            offset += bytes as u64;
            left -= bytes;
        }
        Ok(())
    }

    /// Brings in the translations of `length` bytes at `offset`.
    pub(crate) fn prefetch(&self, offset: u64, length: u64, write: bool) -> Result {
        if length == 0 || !self.geometry.holds(offset, length) {
            return Err(EINVAL);
        }
        let last = self.geometry.locate(offset + (length - 1)).0;
        let mut rest = PageRange::new(self.geometry.locate(offset).0, last + 1);
        while !rest.is_empty() {
            let want = rest.intersect(&PageRange::part_of(rest.start));
            let state = self.fault(want, write, true)?;
            while rest.start < want.end && has(&state, rest.start, write) {
                rest.start += 1;
            }
            drop(state);
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
    fn fault(
        &self,
        want: PageRange,
        write: bool,
        prefetch: bool,
    ) -> Result<WriteGuard<'_, State>> {
        let first = PageRange::one(want.start);
        let mut pool = Pool::new(&KernelNodes);
        let mut want = want;
        let mut tries = 0;
        while tries < MAX_TRIES {
            let mut window = pin!(Window::new());
            let mut state = self.state.write();
            // SAFETY: `resolve`, below, finishes or abandons the fault.
            let begun = unsafe { state.begin_fault(want, write, window.as_mut()) };
            match begun {
                Begin::Ready => return Ok(state),
                Begin::Dead => return Err(ESRCH),
                Begin::Wait if want != first => want = first,
                Begin::Wait => state.wait(),
                Begin::Go(range, nodes) => {
                    drop(state);
                    let found = if pool.fill(nodes) {
                        let address = self.geometry.address(range.start);
                        // SAFETY: the subscription keeps the mm's structure.
                        unsafe {
                            let mm = self.subscription.mm();
                            mem::get_pfns(mm, address, range.len() as usize, write)
                        }
                    } else {
                        Err(ENOMEM)
                    };
                    let mut state = self.state.write();
                    let finish = match found {
                        Ok(pfns) => state.finish_fault(
                            window.as_mut(),
                            want,
                            pfns.iter().copied(),
                            write,
                            prefetch,
                            &mut pool,
                        ),
                        Err(error) => {
                            state.abandon_fault(window.as_mut());
                            state.wake();
                            return Err(error);
                        }
                    };
                    state.wake();
                    match finish {
                        // Present from `want.start` on, or from a later page if the first ones
                        // were there already.
                        Finish::Installed if has(&state, first.start, write) => {
                            return Ok(state)
                        }
                        Finish::Dead => return Err(ESRCH),
                        Finish::Installed | Finish::Stale => {
                            tries += 1;
                            want = first;
                            drop(state);
                            mem::cond_resched();
                        }
                    }
                }
            }
        }
        pr_warn_once!(
            "page at {:#x} was taken away {} times while it was faulted in; giving up\n",
            self.geometry.address(first.start),
            tries
        );
        Err(EAGAIN)
    }

    /// Runs `begin` on the state and takes the translations of `range`, passing on what was
    /// written. Sleeps only if `blockable`.
    fn drop_translations(&self, range: PageRange, blockable: bool, begin: impl FnOnce(&mut State)) {
        let mut rest = range;
        let mut state = self.state.write();
        begin(&mut state);
        loop {
            let more = state.clear_next(&mut rest, |entry| {
                if entry.dirty() {
                    // SAFETY: a translation stands in the table only while the page is mapped by
                    // the owner: each way to unmap it begins with a start, which takes the
                    // translation and this same lock.
                    unsafe { mem::pfn_mark_dirty(entry.pfn()) };
                }
            });
            if !more {
                state.wake();
                return;
            }
            drop(state);
            if blockable {
                mem::cond_resched();
            }
            state = self.state.write();
        }
    }
}

fn has(state: &State, page: u64, write: bool) -> bool {
    state.table().get(page).is_some_and(|e| e.allows(write))
}

impl EmmNotifier for Region {
    fn emm_release(&self) {
        self.drop_translations(self.geometry.pages(), true, State::kill);
    }

    fn emm_invalidate_start(&self, start: u64, end: u64, blockable: bool) {
        let range = self.geometry.clip(start, end);
        self.drop_translations(range, blockable, |state| state.hold(range));
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
