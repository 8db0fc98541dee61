// SPDX-License-Identifier: MIT OR Apache-2.0

//! How a fault begins and ends: what it asks the VM for, and whether the answer may be used.

use super::{Entry, Gate, PART_PAGES, PageRange, Pool, RegionState, Window};
use core::{fmt, ops::Deref, pin::Pin};

/// What a thread that met a missing translation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Begin {
    /// Ask the VM for these pages (the window is open), with this many spare nodes at hand.
    Go(PageRange, usize),
    /// Another thread was faster: look again.
    Ready,
    /// An invalidation is between its start and its end: wait for a wake-up, then begin again.
    HeldOff,
    /// Another fault on these pages is in flight: wait for a wake-up, then begin again.
    Wait,
    /// The owner's address space is gone.
    Dead,
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Finish {
    /// The pages are in the table.
    Installed,
    /// An invalidation began meanwhile, or the table lost the nodes that were there: begin again.
    Stale,
    /// The owner's address space is gone.
    Dead,
}

impl<G: Gate> Window<G> {
    /// Takes the region's state, to begin or to finish a fault with this window. The thread has it
    /// from no other place.
    #[must_use]
    pub fn lock(self: Pin<&Self>) -> Held<'_, G> {
        Held::new(self)
    }
}

/// A region's state, held exclusively, and a window for a fault of it.
///
/// Dropped, it lets the state go; the window stays as it is.
///
/// # Invariants
///
/// `guard` is of the window's gate.
pub struct Held<'w, G: Gate> {
    guard: G::Guard<'w>,
    window: Pin<&'w Window<G>>,
}

impl<'w, G: Gate> Held<'w, G> {
    pub(super) fn new(window: Pin<&'w Window<G>>) -> Self {
        // INVARIANT: the window's gate gives it.
        Self {
            guard: window.get_ref().gate().lock(),
            window,
        }
    }

    /// The state, to be changed.
    pub fn as_mut(&mut self) -> Pin<&mut RegionState<G::Mem>> {
        G::state(&mut self.guard)
    }

    /// Wakes all who wait for a change of the state.
    pub fn wake(&self) {
        self.window.gate().wake(&self.guard);
    }

    /// Closes the window if it is open, and keeps the state.
    #[must_use]
    pub fn release(mut self) -> G::Guard<'w> {
        self.abandon();
        self.guard
    }

    fn state(&mut self) -> &mut RegionState<G::Mem> {
        G::state(&mut self.guard).this()
    }

    fn open(&mut self, range: PageRange) {
        let window = self.window;
        // SAFETY: the state is that of the window's gate, by the type's invariant.
        unsafe { window.open(&mut self.state().windows, range) };
    }

    fn close(&mut self) -> bool {
        let window = self.window;
        // SAFETY: the state is that of the window's gate, by the type's invariant.
        unsafe { window.close(&mut self.state().windows) }
    }

    /// The pages that the window was opened for.
    #[must_use]
    pub fn range(&self) -> PageRange {
        // SAFETY: its region's state is held exclusively, by the type's invariant.
        unsafe { self.window.range() }
    }

    /// Begins a fault: an access of the given kind needs all of `want`. With `ahead` it may ask for
    /// pages behind them as well; a fault that lost a race does without: the fewer pages, the
    /// shorter it takes, and the fewer invalidations it can lose against.
    ///
    /// # Preconditions
    ///
    /// `want` is not empty, lies inside the region and inside one part.
    pub fn begin_fault(&mut self, want: PageRange, write: bool, ahead: bool) -> Begin {
        self.abandon();
        let state = self.state();
        if state.dead {
            return Begin::Dead;
        }
        let has = |page| state.has(page, write);
        let Some(first) = (want.start..want.end).find(|page| !has(*page)) else {
            return Begin::Ready;
        };
        let want = PageRange::new(first, want.end);
        if state.holds.blocks(&want) {
            return Begin::HeldOff;
        }
        if state.windows.busy(&want) {
            return Begin::Wait;
        }
        let plan = if ahead {
            state.ahead.plan(&want).intersect(&state.geometry.pages())
        } else {
            want
        };
        let mut plan = state.holds.trim(plan, &want);
        // What is beyond `want` is a guess: stop at the first page that is there or on its way.
        let beyond = (want.end..plan.end)
            .find(|page| has(*page) || state.windows.busy(&PageRange::one(*page)));
        plan.end = beyond.unwrap_or(plan.end);
        let nodes = state.table.missing(plan.start);
        self.open(plan);
        Begin::Go(plan, nodes)
    }

    /// The fault is going to wait for somebody, and asks for its window's first page only: other
    /// faults need not wait with it for the rest.
    pub fn narrow_fault(&mut self) {
        // SAFETY: its region's state is held exclusively, by the type's invariant.
        unsafe { self.window.narrow() };
    }

    /// Begins a fault for the whole part of `page`, because the VM has a huge page there.
    ///
    /// # Returns
    ///
    /// The window's range and the spare nodes that [`finish_huge`](Self::finish_huge) may need.
    /// `None` if one entry can't stand for the part now: it sticks out of the region, it is held
    /// off, or another fault is in flight in it.
    pub fn begin_huge(&mut self, page: u64) -> Option<(PageRange, usize)> {
        self.abandon();
        let state = self.state();
        let part = PageRange::part_of(page);
        let inside = part.intersect(&state.geometry.pages()) == part;
        if state.dead || !inside || state.holds.blocks(&part) || state.windows.busy(&part) {
            return None;
        }
        let nodes = state.table.missing(page);
        self.open(part);
        Some((part, nodes))
    }

    /// Ends a fault of a whole part: `pfn` is the first of its frames, if the VM has them in a row
    /// from a multiple of [`PART_PAGES`] on. The window is closed.
    ///
    /// # Returns
    ///
    /// [`Finish::Stale`] also if `pfn` is none: one entry can't stand for the part after all.
    pub fn finish_huge(
        &mut self,
        pfn: Option<u64>,
        write: bool,
        prefetch: bool,
        pool: &mut Pool<'_, G::Mem>,
    ) -> Finish {
        let part = self.range();
        let fresh = self.close();
        let state = self.state();
        if state.dead {
            return Finish::Dead;
        }
        let Some(pfn) = pfn.filter(|pfn| fresh && pfn % PART_PAGES == 0) else {
            return Finish::Stale;
        };
        let entry = Entry::new_huge(pfn, write);
        if state.table.insert_huge(part.start, entry, pool).is_err() {
            return Finish::Stale;
        }
        state.brought(PART_PAGES, prefetch);
        Finish::Installed
    }

    /// Ends a fault: `pfns` are the frames of the first pages of the window, in order (fewer than
    /// asked for when the VM had fewer). The window is closed.
    pub fn finish_fault(
        &mut self,
        want: PageRange,
        pfns: impl ExactSizeIterator<Item = u64>,
        write: bool,
        prefetch: bool,
        pool: &mut Pool<'_, G::Mem>,
    ) -> Finish {
        let range = self.range();
        let fresh = self.close();
        let state = self.state();
        if state.dead {
            return Finish::Dead;
        }
        if !fresh {
            return Finish::Stale;
        }
        let got = PageRange::new(range.start, range.start + pfns.len() as u64);
        if state.table.fill(got, pfns, write, pool).is_err() {
            return Finish::Stale;
        }
        state.brought(got.len(), prefetch);
        if !prefetch {
            let want = PageRange::new(range.start, want.end.max(range.start));
            state.ahead.learn(&want, &got);
        }
        Finish::Installed
    }

    /// Ends a fault that the VM could not serve, if one has begun. The window is closed.
    pub fn abandon(&mut self) {
        let _fresh = self.close();
    }
}

impl<'w, G: Gate> Deref for Held<'w, G> {
    type Target = RegionState<G::Mem>;

    fn deref(&self) -> &Self::Target {
        &self.guard
    }
}

impl<G: Gate> fmt::Debug for Held<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
