// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region's state, and what each event does to it.
//!
//! The environment holds one lock around this: shared for [`RegionState::access`] and the copy
//! that follows, exclusive for everything else. So an invalidation that holds it exclusively knows
//! that no copy runs, and that none begins on a page whose translation it took away.

use super::{
    Entry, HoldOff, Losses, NodeMem, PAGE_SHIFT, PAGE_SIZE, PART_BYTES, PageRange, ReadAhead,
    Table, starve::Starved, windows::Windows,
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

/// The state of one region.
///
/// Behind its lock it is pinned: open [`Window`](super::Window)s are linked to it.
#[derive(Debug)]
pub struct RegionState<M: NodeMem> {
    pub(super) geometry: Geometry,
    pub(super) table: Table<M>,
    pub(super) holds: HoldOff,
    pub(super) windows: Windows,
    pub(super) ahead: ReadAhead,
    starved: Starved,
    pub(super) dead: bool,
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

    /// Whether a page of `range` is held off: what is translated there may be used, and nothing new
    /// made of it.
    #[must_use]
    pub fn is_held(&self, range: &PageRange) -> bool {
        self.holds.blocks(range)
    }

    /// The state to be changed in its place. Nothing in this crate moves its windows.
    pub(super) fn this(self: Pin<&mut Self>) -> &mut Self {
        // SAFETY: this is for the crate's own methods, which change fields and move none but plain
        // values out.
        unsafe { self.get_unchecked_mut() }
    }

    pub(super) fn windows(self: Pin<&mut Self>) -> &mut Windows {
        &mut self.this().windows
    }

    pub(super) fn brought(&mut self, pages: u64, prefetch: bool) {
        if prefetch {
            self.stats.page_prefetch += pages;
        } else {
            self.stats.page_faults += pages;
        }
    }

    /// The fault for `page` by thread `who` begins, or begins again, in the same thread or in
    /// another one: if it lost too often, invalidations that can sleep let it pass from now on
    /// ([`patience`](Self::patience)). One fault a region at a time.
    ///
    /// When the fault is over, well or not, [`sated`](Self::sated) follows.
    pub fn contend(self: Pin<&mut Self>, losses: &mut Losses, page: u64, who: usize) {
        let this = self.this();
        this.starved.admit(losses, page, who, &this.holds);
    }

    /// The fault of `losses` got [`Finish::Stale`](super::Finish::Stale).
    pub fn lost(self: Pin<&mut Self>, losses: &mut Losses) {
        let this = self.this();
        this.starved.stale(losses, &this.holds);
    }

    /// The fault of `losses`, which contends for a page, got
    /// [`Begin::HeldOff`](super::Begin::HeldOff) for that page, and waits.
    pub fn held_off(self: Pin<&mut Self>, losses: &mut Losses) {
        let this = self.this();
        this.starved.held_off(losses, &this.holds);
    }

    /// The fault of `losses` is over, and the access that it was for is yet to come.
    pub fn served(self: Pin<&mut Self>, losses: &Losses) {
        self.this().starved.served(losses);
    }

    /// Whether `page` waits for the access that it was brought in for: it is there, and nobody used
    /// it yet.
    #[must_use]
    pub fn unused(&self, page: u64) -> bool {
        self.table.get(page).is_some_and(|e| !e.accessed())
    }

    /// The fault of `losses` is over.
    ///
    /// # Returns
    ///
    /// Whether invalidations may wait for it: they are to be woken.
    #[must_use]
    pub fn sated(self: Pin<&mut Self>, losses: Losses) -> bool {
        self.this().starved.sated(losses)
    }

    /// How long an invalidation of `range` by thread `who` should let a starved fault pass first,
    /// in units of the environment's: not at all if there is no such fault, if it does not matter to
    /// it, or if this is part of it (a copy on write); one, if the fault lost while it asked and
    /// has yet to ask again, as it may be waiting for a lock that this very thread holds; and while
    /// it asks or waits for its page, longer the more often it lost, up to
    /// [`MOST_PATIENCE`](super::MOST_PATIENCE). What is long enough depends on the machine, and
    /// nobody knows it before.
    ///
    /// `number` is what [`come`](Self::come) gave the invalidation.
    #[must_use]
    pub fn patience(&self, range: &PageRange, who: usize, number: u32) -> u32 {
        let page = self.starved.page();
        if page.is_empty() {
            return 0;
        }
        let asks = self.windows.busy(&page);
        // One that asks already loses to those of its own page only.
        let matters = page.overlaps(range) || !asks && self.holds.would_block(range, &page);
        if !matters {
            return 0;
        }
        self.starved.patience(who, number, asks)
    }

    /// An invalidation comes that can sleep.
    ///
    /// # Returns
    ///
    /// Its number, for [`patience`](Self::patience).
    #[must_use]
    pub fn come(self: Pin<&mut Self>) -> u32 {
        self.this().starved.come()
    }

    /// An invalidation waited for as long as its [`patience`](Self::patience). Those that wait with
    /// it go with it: one after the other they would hold the page off for ever. They are to be
    /// woken.
    pub fn turn_over(self: Pin<&mut Self>) {
        self.this().starved.turn_over();
    }

    /// An invalidation of `range` begins: nothing is established there until its end. The
    /// translations in it are still there: [`clear_next`](Self::clear_next) takes them.
    pub fn hold(self: Pin<&mut Self>, range: PageRange) {
        let this = self.this();
        this.holds.start(range);
        this.windows.invalidate(&range);
    }

    /// Takes the translations of the first part of `rest` that has any, and moves `rest` on. One
    /// part a call keeps the time under the lock short.
    ///
    /// # Returns
    ///
    /// Whether there may be more.
    #[must_use]
    pub fn clear_next(
        self: Pin<&mut Self>,
        rest: &mut PageRange,
        mut gone: impl FnMut(Entry),
    ) -> bool {
        let this = self.this();
        let Some(part) = this.table.first_part(*rest) else {
            return false;
        };
        let before = this.table.len();
        this.table.clear(part, |_, entry| gone(entry));
        this.stats.page_invalidations += before - this.table.len();
        rest.start = part.end.min(rest.end);
        !rest.is_empty()
    }

    /// The invalidation of `range` is over.
    ///
    /// # Returns
    ///
    /// Whether it had begun.
    #[must_use]
    pub fn unhold(self: Pin<&mut Self>, range: PageRange) -> bool {
        self.this().holds.end(range)
    }

    /// The owner's address space goes: no fault begins any more, none in flight succeeds. The
    /// translations are still there: [`clear_next`](Self::clear_next) takes them.
    pub fn kill(self: Pin<&mut Self>) {
        let this = self.this();
        this.dead = true;
        this.windows.invalidate(&this.geometry.pages());
    }

    /// Whether a page of `range` was used lately. See [`Table::young`].
    pub fn young(&self, range: PageRange, clear: bool) -> bool {
        self.table.young(range, clear)
    }
}
