// SPDX-License-Identifier: MIT OR Apache-2.0

//! How a fault begins and ends: what it asks the VM for, and whether the answer may be used.
//!
//! A fault has two steps. The VM brings in the pages that were named, as for a CPU; that may take
//! long, and is no loss if an invalidation comes between, its own copy on write included. Then the
//! page tables are looked at, and only that must not be interrupted: the window is made
//! [fresh](Held::renew) before it.

use super::{Entry, Frame, Gate, PART_PAGES, PageRange, Pool, RegionState, Window};
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
    fn wake(&self) {
        self.window.gate().wake(&self.guard);
    }

    /// Closes the window if it is open, wakes who waits for it, and keeps the state.
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

    /// Closes the window, and wakes who waits for the faults of its pages. Whether it was open and
    /// stayed fresh.
    fn close(&mut self) -> bool {
        let window = self.window;
        let was_open = window.is_open();
        // SAFETY: the state is that of the window's gate, by the type's invariant.
        let fresh = unsafe { window.close(&mut self.state().windows) };
        if was_open {
            self.wake();
        }
        fresh
    }

    /// The pages that the window was opened for.
    #[must_use]
    pub fn range(&self) -> PageRange {
        // SAFETY: its region's state is held exclusively, by the type's invariant.
        unsafe { self.window.range() }
    }

    /// Begins a fault: an access of the given kind needs all of `want`. With `ahead` its window may
    /// hold pages behind them as well: a guess, for which nothing is to be brought in. A fault that
    /// lost a race does without: the fewer pages, the shorter it takes, and the fewer invalidations
    /// it can lose against.
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
    /// faults need not wait with it for the rest, and are woken.
    pub fn narrow_fault(&mut self) {
        // SAFETY: its region's state is held exclusively, by the type's invariant.
        unsafe { self.window.shorten(1) };
        self.wake();
    }

    /// The VM has brought in what was named: its page tables are looked at from now on, and what
    /// was invalidated before doesn't matter any more. The window loses the pages that are held off,
    /// and those behind them.
    ///
    /// # Returns
    ///
    /// Whether there is something to be looked at: not if the first page is held off, or the owner
    /// is gone.
    #[must_use]
    pub fn renew(&mut self) -> bool {
        let range = self.range();
        let first = PageRange::one(range.start);
        let state = self.state();
        if state.dead || state.holds.blocks(&first) {
            return false;
        }
        let left = state.holds.trim(range, &first);
        let window = self.window;
        // SAFETY: its region's state is held exclusively, by the type's invariant.
        unsafe { window.shorten(left.len()) };
        // SAFETY: as above; no page that it has left is held off.
        unsafe { window.refresh() };
        true
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

    /// Ends a fault of a whole part: `frame` is the first of its frames, if the VM has them in a row
    /// from a multiple of [`PART_PAGES`] on. The window is closed.
    ///
    /// # Returns
    ///
    /// [`Finish::Stale`] also if `frame` is none: one entry can't stand for the part after all.
    pub fn finish_huge(
        &mut self,
        frame: Option<Frame>,
        prefetch: bool,
        pool: &mut Pool<'_, G::Mem>,
    ) -> Finish {
        let part = self.range();
        let fresh = self.close();
        let state = self.state();
        if state.dead {
            return Finish::Dead;
        }
        let whole = part == PageRange::part_of(part.start);
        let Some(frame) = frame.filter(|f| fresh && whole && f.pfn % PART_PAGES == 0) else {
            return Finish::Stale;
        };
        let entry = Entry::new_huge(frame.pfn, frame.writable);
        if state.table.insert_huge(part.start, entry, pool).is_err() {
            return Finish::Stale;
        }
        state.brought(PART_PAGES, prefetch);
        Finish::Installed
    }

    /// Ends a fault: `frames` are those of the first pages of the window, in order (fewer than
    /// asked for when the VM had fewer). The window is closed.
    pub fn finish_fault(
        &mut self,
        want: PageRange,
        frames: impl ExactSizeIterator<Item = Frame>,
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
        let len = range.len().min(frames.len() as u64);
        let got = PageRange::new(range.start, range.start + len);
        let frames = frames.take(len as usize);
        if state.table.fill(got, frames, pool).is_err() {
            return Finish::Stale;
        }
        state.brought(got.len(), prefetch);
        if !prefetch {
            let want = PageRange::new(range.start, want.end.max(range.start));
            state.ahead.learn(&want, &range, &got);
        }
        Finish::Installed
    }

    /// Ends a fault that the VM could not serve, if one has begun. The window is closed, and who waits
    /// for it is woken.
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
