// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges that an invalidation holds off: started and not yet ended.
//!
//! The VM invalidates from reclaim, where nothing may be allocated, so the ranges live in a fixed
//! array. More ranges at once than the array holds (each is one thread inside the VM) *spill* into
//! a fixed number of cells: each counts the holds that touch some blocks of pages. Pages are then
//! held off that need not be, never the reverse; but only for as long as the very holds that they
//! share a cell with, and [`HoldOff::would_block`] says beforehand which these are.

use super::{PART_PAGES, PageRange};

/// How many cells there are for blocks of one size.
struct Level {
    /// Pages of a block, as a shift.
    shift: u32,
    /// The first of its cells.
    first: usize,
    cells: usize,
}

/// From small blocks to large ones. A hold is counted at the first of them at which it touches two
/// blocks at most; at the last, every hold does.
static LEVELS: [Level; 4] = [
    // 64 KiB: what reclaim, migration and small allocations throw away.
    level(4, 0, 24),
    level(PART_PAGES.ilog2(), 24, 12),
    // 1 GiB.
    level(18, 36, 6),
    level(63, 42, 1),
];
const CELLS: usize = 43;

const fn level(shift: u32, first: usize, cells: usize) -> Level {
    Level {
        shift,
        first,
        cells,
    }
}

impl Level {
    /// The blocks that the pages of `range`, which is not empty, lie in.
    fn blocks(&self, range: &PageRange) -> core::ops::RangeInclusive<u64> {
        range.start >> self.shift..=(range.end - 1) >> self.shift
    }

    /// The cell of a block. As if drawn: blocks in a row, spread evenly, would leave none empty for
    /// long.
    fn cell(&self, block: u64) -> usize {
        // The finalizer of MurmurHash3.
        let mut mixed = block;
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
        }
        self.first + (((mixed >> 32) * self.cells as u64) >> 32) as usize
    }
}

/// Where a hold of `range` is counted: its level, and one cell or two.
fn cells_of(range: &PageRange) -> (&'static Level, impl Iterator<Item = usize> + use<>) {
    let few = |level: &&Level| {
        let blocks = level.blocks(range);
        blocks.end() - blocks.start() <= 1
    };
    let level = LEVELS.iter().find(few).unwrap_or(&LEVELS[LEVELS.len() - 1]);
    let blocks = level.blocks(range);
    let (first, last) = (level.cell(*blocks.start()), level.cell(*blocks.end()));
    (
        level,
        core::iter::once(first).chain((first != last).then_some(last)),
    )
}

/// Holds that touch the same blocks, or others that they are not told apart from.
#[derive(Clone, Copy, Debug)]
struct Cell {
    count: u32,
    /// The number of the last one that started.
    newest: u32,
}

/// The ranges held off at this moment, each as often as it was started; up to `SLOTS` of them are
/// kept one by one.
///
/// # Invariants
///
/// `slots[..used]` are not empty. `spilled` is the number of holds that the cells count, each in
/// the cells that [`cells_of`] names.
#[derive(Debug)]
pub struct HoldOff<const SLOTS: usize = 6> {
    slots: [PageRange; SLOTS],
    /// The number of each.
    numbers: [u32; SLOTS],
    used: usize,
    /// Starts so far. It wraps; only whether two are equal is asked.
    started: u32,
    spilled: u32,
    cells: [Cell; CELLS],
}

impl<const SLOTS: usize> Default for HoldOff<SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const SLOTS: usize> HoldOff<SLOTS> {
    /// Nothing held off.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [PageRange { start: 0, end: 0 }; SLOTS],
            numbers: [0; SLOTS],
            used: 0,
            started: 0,
            spilled: 0,
            cells: [Cell {
                count: 0,
                newest: 0,
            }; CELLS],
        }
    }

    /// Holds `range` off until the matching [`end`](Self::end). An empty range is not counted.
    pub fn start(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        self.started = self.started.wrapping_add(1);
        if let Some(slot) = self.slots.get_mut(self.used) {
            *slot = range;
            self.numbers[self.used] = self.started;
            self.used += 1;
            return;
        }
        self.spilled += 1;
        for cell in cells_of(&range).1 {
            let cell = &mut self.cells[cell];
            cell.count += 1;
            cell.newest = self.started;
        }
    }

    /// Ends one hold of exactly `range`.
    ///
    /// # Returns
    ///
    /// Whether such a hold existed. `false` is a caller's fault: an end without its start.
    #[must_use]
    pub fn end(&mut self, range: PageRange) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(at) = self.slots[..self.used].iter().position(|s| *s == range) {
            self.used -= 1;
            self.slots[at] = self.slots[self.used];
            self.numbers[at] = self.numbers[self.used];
            return true;
        }
        let mut cells = cells_of(&range).1;
        if self.spilled == 0 || cells.any(|cell| self.cells[cell].count == 0) {
            return false;
        }
        self.spilled -= 1;
        for cell in cells_of(&range).1 {
            self.cells[cell].count -= 1;
        }
        true
    }

    /// Whether some page of `range` is held off.
    #[must_use]
    pub fn blocks(&self, range: &PageRange) -> bool {
        self.holding(*range).next().is_some()
    }

    /// How many holds have started so far. It wraps.
    #[must_use]
    pub fn started(&self) -> u32 {
        self.started
    }

    /// Whether some page of `range` is held off, and not only by holds that were among the first
    /// `since` that [started](Self::started).
    #[must_use]
    pub fn blocks_since(&self, range: &PageRange, since: u32) -> bool {
        // Numbers wrap: one that is far behind is an old one.
        let later = |number: u32| (1..1 << 31).contains(&number.wrapping_sub(since));
        self.holding(*range).any(later)
    }

    /// The numbers of the holds that a page of `range` is held off by; of those that are only
    /// counted, the last in each cell.
    fn holding(&self, range: PageRange) -> impl Iterator<Item = u32> + '_ {
        let exact = self.slots[..self.used].iter().zip(&self.numbers);
        let exact = exact.filter(move |(slot, _)| slot.overlaps(&range));
        let spilled = self.wet(range).map(|cell| cell.newest);
        exact.map(|(_, number)| *number).chain(spilled)
    }

    /// Whether `hold`, if it were started now, would hold off a page of `range`.
    #[must_use]
    pub fn would_block(&self, hold: &PageRange, range: &PageRange) -> bool {
        if hold.overlaps(range) {
            return true;
        }
        if self.used < SLOTS || hold.is_empty() || range.is_empty() {
            return false;
        }
        let (level, mut cells) = cells_of(hold);
        cells.any(|cell| {
            let mut blocks = level.blocks(range);
            blocks.any(|block| level.cell(block) == cell)
        })
    }

    /// The cells of `range` in which there are holds.
    fn wet(&self, range: PageRange) -> impl Iterator<Item = &Cell> + '_ {
        let any = self.spilled > 0 && !range.is_empty();
        let levels = LEVELS.iter().filter(move |_| any);
        let cells = levels.flat_map(move |level| {
            let blocks = level.blocks(&range);
            blocks.map(move |block| level.cell(block))
        });
        cells
            .map(|cell| &self.cells[cell])
            .filter(|cell| cell.count > 0)
    }

    /// The part of `range` in front of the first held-off page that follows `keep`, and behind the
    /// last one before it.
    ///
    /// # Preconditions
    ///
    /// `keep` is inside `range` and not blocked.
    #[must_use]
    pub fn trim(&self, mut range: PageRange, keep: &PageRange) -> PageRange {
        for hold in &self.slots[..self.used] {
            if hold.start >= keep.end {
                range.end = range.end.min(hold.start);
            }
            if hold.end <= keep.start {
                range.start = range.start.max(hold.end);
            }
        }
        if self.spilled == 0 || keep.is_empty() {
            return range;
        }
        for level in &LEVELS {
            let wet = |block: &u64| self.cells[level.cell(*block)].count > 0;
            let (all, kept) = (level.blocks(&range), level.blocks(keep));
            if let Some(block) = (kept.end() + 1..=*all.end()).find(wet) {
                range.end = block << level.shift;
            }
            if let Some(block) = (*all.start()..*kept.start()).rev().find(wet) {
                range.start = (block + 1) << level.shift;
            }
        }
        range
    }

    /// The ranges kept one by one: all of them while [`spilled`](Self::spilled) is 0.
    #[must_use]
    pub fn ranges(&self) -> &[PageRange] {
        &self.slots[..self.used]
    }

    /// Holds that are only counted.
    #[must_use]
    pub fn spilled(&self) -> usize {
        self.spilled as usize
    }

    /// Holds in force.
    #[must_use]
    pub fn active(&self) -> usize {
        self.used + self.spilled()
    }
}
