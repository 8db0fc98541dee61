// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region's state, and what each event does to it.
//!
//! The environment holds one lock around this: shared for [`RegionState::access`] and the copy
//! that follows, exclusive for everything else. So an invalidation that holds it exclusively knows
//! that no copy runs, and that none begins on a page whose translation it took away.

use super::{
    Entry, HoldOff, Losses, NodeMem, PAGE_SHIFT, PAGE_SIZE, PART_BYTES, PART_PAGES, PageRange,
    Pool, ReadAhead, Table, Window, Windows, starve::Starved,
};
use core::pin::Pin;

/// Where a region lies in its owner's address space. Addresses and lengths are in bytes.
///
/// # Invariants
///
/// `length` is not 0 and `start + length` does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    start: u64,
    length: u64,
}

impl Geometry {
    /// The region of `length` bytes at user address `start`; `None` if it is empty or wraps.
    #[must_use]
    pub const fn new(start: u64, length: u64) -> Option<Self> {
        if length == 0 || start.checked_add(length).is_none() {
            return None;
        }
        Some(Self { start, length })
    }

    /// First byte.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The address of page index 0: the region's start rounded down to a part.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.start & !(PART_BYTES - 1)
    }

    const fn page_at(&self, address: u64) -> u64 {
        (address - self.base()) >> PAGE_SHIFT
    }

    /// All pages that the region touches.
    #[must_use]
    pub const fn pages(&self) -> PageRange {
        let last = self.page_at(self.start + (self.length - 1));
        PageRange::new(self.page_at(self.start), last + 1)
    }

    /// The user address of `page`.
    #[must_use]
    pub const fn address(&self, page: u64) -> u64 {
        self.base() + (page << PAGE_SHIFT)
    }

    /// The page that holds the byte at `offset` of the region, and where in it.
    ///
    /// # Preconditions
    ///
    /// `offset` is below the length.
    #[must_use]
    pub const fn locate(&self, offset: u64) -> (u64, usize) {
        let inside = (self.start & (PART_BYTES - 1)) + offset;
        (inside >> PAGE_SHIFT, (inside & (PAGE_SIZE - 1)) as usize)
    }

    /// Whether `len` bytes at `offset` lie inside.
    #[must_use]
    pub const fn holds(&self, offset: u64, len: u64) -> bool {
        len <= self.length && offset <= self.length - len
    }

    /// The region's pages that the user addresses `start..end` touch.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> PageRange {
        let start = start.max(self.address(self.pages().start));
        if end <= start {
            return PageRange::default();
        }
        let hit = PageRange::new(self.page_at(start), self.page_at(end - 1) + 1);
        hit.intersect(&self.pages())
    }
}

/// Counts since registration. Names are mlx5's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pages brought in because an access needed them, read-ahead included.
    pub page_faults: u64,
    /// Translations taken away by the VM.
    pub page_invalidations: u64,
    /// Pages brought in on advice.
    pub page_prefetch: u64,
}

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

/// The state of one region.
#[derive(Debug)]
pub struct RegionState<M: NodeMem> {
    geometry: Geometry,
    table: Table<M>,
    holds: HoldOff,
    windows: Windows,
    ahead: ReadAhead,
    starved: Starved,
    dead: bool,
    stats: Stats,
}

impl<M: NodeMem> RegionState<M> {
    /// A region with nothing translated.
    #[must_use]
    pub fn new(geometry: Geometry, mem: M) -> Self {
        Self {
            geometry,
            table: Table::new(geometry.pages().end, mem),
            holds: HoldOff::new(),
            windows: Windows::new(),
            ahead: ReadAhead::new(),
            starved: Starved::default(),
            dead: false,
            stats: Stats::default(),
        }
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Its translations.
    #[must_use]
    pub fn table(&self) -> &Table<M> {
        &self.table
    }

    /// Whether the owner's address space is gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The translation of `page` for an access, which is noted for dirty and accessed marks.
    #[must_use]
    pub fn access(&self, page: u64, write: bool) -> Option<Entry> {
        self.table.access(page, write)
    }

    /// Whether there is a translation of `page` for an access of the given kind.
    #[must_use]
    pub fn has(&self, page: u64, write: bool) -> bool {
        self.table.get(page).is_some_and(|e| e.allows(write))
    }

    /// Begins a fault: an access of the given kind needs all of `want`. With `ahead` it may ask for
    /// pages behind them as well; a fault that lost a race does without: the fewer pages, the
    /// shorter it takes, and the fewer invalidations it can lose against.
    ///
    /// # Preconditions
    ///
    /// `want` is not empty, lies inside the region and inside one part.
    ///
    /// # Safety
    ///
    /// On [`Begin::Go`], `window` is handed to [`finish_fault`](Self::finish_fault) before it is
    /// dropped.
    pub unsafe fn begin_fault(
        &mut self,
        want: PageRange,
        write: bool,
        ahead: bool,
        window: Pin<&mut Window>,
    ) -> Begin {
        if self.dead {
            return Begin::Dead;
        }
        let has = |page| self.has(page, write);
        let Some(first) = (want.start..want.end).find(|page| !has(*page)) else {
            return Begin::Ready;
        };
        let want = PageRange::new(first, want.end);
        if self.holds.blocks(&want) {
            return Begin::HeldOff;
        }
        if self.windows.busy(&want) {
            return Begin::Wait;
        }
        let plan = if ahead {
            self.ahead.plan(&want).intersect(&self.geometry.pages())
        } else {
            want
        };
        let mut plan = self.holds.trim(plan, &want);
        // What is beyond `want` is a guess: stop at the first page that is there or on its way.
        let beyond = (want.end..plan.end)
            .find(|page| has(*page) || self.windows.busy(&PageRange::one(*page)));
        plan.end = beyond.unwrap_or(plan.end);
        // SAFETY: the caller promises to finish, which closes the window.
        unsafe { self.windows.open(window, plan) };
        Begin::Go(plan, self.table.missing(plan.start))
    }

    /// The fault of `window` is going to wait for somebody, and asks for its first page only: other
    /// faults need not wait with it for the rest.
    pub fn narrow_fault(&mut self, window: Pin<&mut Window>) {
        self.windows.narrow(window);
    }

    /// Begins a fault for the whole part of `page`, because the VM has a huge page there.
    ///
    /// # Returns
    ///
    /// The window's range and the spare nodes that [`finish_huge`](Self::finish_huge) may need.
    /// `None` if one entry can't stand for the part now: it sticks out of the region, it is held
    /// off, or another fault is in flight in it.
    ///
    /// # Safety
    ///
    /// If not `None`, `window` is handed to [`finish_huge`](Self::finish_huge) or
    /// [`abandon_fault`](Self::abandon_fault) before it is dropped.
    pub unsafe fn begin_huge(
        &mut self,
        page: u64,
        window: Pin<&mut Window>,
    ) -> Option<(PageRange, usize)> {
        let part = PageRange::part_of(page);
        let inside = part.intersect(&self.geometry.pages()) == part;
        if self.dead || !inside || self.holds.blocks(&part) || self.windows.busy(&part) {
            return None;
        }
        // SAFETY: the caller promises to finish, which closes the window.
        unsafe { self.windows.open(window, part) };
        Some((part, self.table.missing(page)))
    }

    /// Ends a fault of a whole part: `pfn` is the first of its frames, if the VM has them in a row
    /// from a multiple of [`PART_PAGES`] on.
    ///
    /// # Returns
    ///
    /// [`Finish::Stale`] also if `pfn` is none: one entry can't stand for the part after all.
    pub fn finish_huge(
        &mut self,
        window: Pin<&mut Window>,
        pfn: Option<u64>,
        write: bool,
        prefetch: bool,
        pool: &mut Pool<'_, M>,
    ) -> Finish {
        let part = window.range();
        let fresh = self.windows.close(window);
        if self.dead {
            return Finish::Dead;
        }
        let Some(pfn) = pfn.filter(|pfn| fresh && pfn % PART_PAGES == 0) else {
            return Finish::Stale;
        };
        let entry = Entry::new_huge(pfn, write);
        if self.table.insert_huge(part.start, entry, pool).is_err() {
            return Finish::Stale;
        }
        self.brought(PART_PAGES, prefetch);
        Finish::Installed
    }

    fn brought(&mut self, pages: u64, prefetch: bool) {
        if prefetch {
            self.stats.page_prefetch += pages;
        } else {
            self.stats.page_faults += pages;
        }
    }

    /// Ends a fault: `pfns` are the frames of the first pages of `window`, in order (fewer than
    /// asked for when the VM had fewer).
    pub fn finish_fault(
        &mut self,
        window: Pin<&mut Window>,
        want: PageRange,
        pfns: impl ExactSizeIterator<Item = u64>,
        write: bool,
        prefetch: bool,
        pool: &mut Pool<'_, M>,
    ) -> Finish {
        let range = window.range();
        let fresh = self.windows.close(window);
        if self.dead {
            return Finish::Dead;
        }
        if !fresh {
            return Finish::Stale;
        }
        let got = PageRange::new(range.start, range.start + pfns.len() as u64);
        if self.table.fill(got, pfns, write, pool).is_err() {
            return Finish::Stale;
        }
        self.brought(got.len(), prefetch);
        if !prefetch {
            let want = PageRange::new(range.start, want.end.max(range.start));
            self.ahead.learn(&want, &got);
        }
        Finish::Installed
    }

    /// Ends a fault that the VM could not serve.
    pub fn abandon_fault(&mut self, window: Pin<&mut Window>) {
        let _fresh = self.windows.close(window);
    }

    /// The fault for `page` by thread `who` begins, or begins again: if it lost too often,
    /// invalidations that can sleep let it pass from now on ([`patience`](Self::patience)). One
    /// fault a region at a time.
    ///
    /// When the fault is over, well or not, [`sated`](Self::sated) follows.
    pub fn contend(&mut self, losses: &mut Losses, page: u64, who: usize) {
        self.starved.admit(losses, page, who);
    }

    /// The fault of `losses` got [`Finish::Stale`].
    pub fn lost(&mut self, losses: &mut Losses) {
        self.starved.stale(losses);
    }

    /// The fault of `losses` got [`Begin::HeldOff`], and waits.
    pub fn held_off(&mut self, losses: &mut Losses) {
        self.starved.held_off(losses);
    }

    /// The fault of `losses` is over.
    ///
    /// # Returns
    ///
    /// Whether invalidations may wait for it: they are to be woken.
    #[must_use]
    pub fn sated(&mut self, losses: Losses) -> bool {
        self.starved.sated(losses)
    }

    /// How long an invalidation of `range` by thread `who` should let a starved fault pass first,
    /// in units of the environment's: not at all if there is no such fault, or if this is part of
    /// it (a copy on write); one, if the fault lost while it asked and has yet to ask again, as it
    /// may be waiting for a lock that this very thread holds; and while it asks or waits for its
    /// page, longer the more often it lost, up to [`MOST_PATIENCE`](super::MOST_PATIENCE). What is
    /// long enough depends on the machine, and nobody knows it before.
    #[must_use]
    pub fn patience(&self, range: &PageRange, who: usize) -> u32 {
        let page = self.starved.page();
        if !page.overlaps(range) {
            return 0;
        }
        self.starved.patience(who, self.windows.busy(&page))
    }

    /// An invalidation of `range` begins: nothing is established there until its end. The
    /// translations in it are still there: [`clear_next`](Self::clear_next) takes them.
    pub fn hold(&mut self, range: PageRange) {
        self.holds.start(range);
        self.windows.invalidate(&range);
    }

    /// Takes the translations of the first part of `rest` that has any, and moves `rest` on. One
    /// part a call keeps the time under the lock short.
    ///
    /// # Returns
    ///
    /// Whether there may be more.
    #[must_use]
    pub fn clear_next(&mut self, rest: &mut PageRange, mut gone: impl FnMut(Entry)) -> bool {
        let Some(part) = self.table.first_part(*rest) else {
            return false;
        };
        let before = self.table.len();
        self.table.clear(part, |_, entry| gone(entry));
        self.stats.page_invalidations += before - self.table.len();
        rest.start = part.end.min(rest.end);
        !rest.is_empty()
    }

    /// The invalidation of `range` is over.
    ///
    /// # Returns
    ///
    /// Whether it had begun.
    #[must_use]
    pub fn unhold(&mut self, range: PageRange) -> bool {
        self.holds.end(range)
    }

    /// The owner's address space goes: no fault begins any more, none in flight succeeds. The
    /// translations are still there: [`clear_next`](Self::clear_next) takes them.
    pub fn kill(&mut self) {
        self.dead = true;
        self.windows.invalidate(&self.geometry.pages());
    }

    /// Whether a page of `range` was used lately. See [`Table::young`].
    pub fn young(&self, range: PageRange, clear: bool) -> bool {
        self.table.young(range, clear)
    }
}
