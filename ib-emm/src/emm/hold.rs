// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges that an invalidation holds off: started and not yet ended.
//!
//! The VM invalidates from reclaim, where nothing may be allocated, so the ranges live in a fixed
//! array. More ranges at once than the array holds (each is one thread inside the VM) spill into
//! one conservative hull: pages are then held off that need not be, never the reverse.

use super::PageRange;

/// Ranges kept one by one.
const SLOTS: usize = 6;

/// The ranges held off at this moment, each as often as it was started.
///
/// # Invariants
///
/// `slots[..used]` are not empty. `spill_hull` covers every spilled range and is empty when
/// `spilled` is 0.
#[derive(Debug, Default)]
pub struct HoldOff {
    slots: [PageRange; SLOTS],
    used: usize,
    spilled: usize,
    spill_hull: PageRange,
}

impl HoldOff {
    /// Nothing held off.
    #[must_use]
    pub const fn new() -> Self {
        const NONE: PageRange = PageRange { start: 0, end: 0 };
        Self {
            slots: [NONE; SLOTS],
            used: 0,
            spilled: 0,
            spill_hull: NONE,
        }
    }

    /// Holds `range` off until the matching [`end`](Self::end). An empty range is not counted.
    pub fn start(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(self.used) {
            *slot = range;
            self.used += 1;
        } else {
            self.spilled += 1;
            self.spill_hull = self.spill_hull.hull(&range);
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
            return true;
        }
        // Which spilled range this was is not known; the hull stays until the last one ends.
        let known = self.spilled > 0 && self.spill_hull.intersect(&range) == range;
        if known {
            self.spilled -= 1;
            if self.spilled == 0 {
                self.spill_hull = PageRange::default();
            }
        }
        known
    }

    /// Whether some page of `range` is held off.
    #[must_use]
    pub fn blocks(&self, range: &PageRange) -> bool {
        self.slots[..self.used].iter().any(|s| s.overlaps(range)) || self.spill_hull.overlaps(range)
    }

    /// The part of `range` in front of the first held-off page that follows `keep`.
    ///
    /// # Preconditions
    ///
    /// `keep` is inside `range` and not blocked.
    #[must_use]
    pub fn trim(&self, mut range: PageRange, keep: &PageRange) -> PageRange {
        let holds = self.slots[..self.used].iter().chain([&self.spill_hull]);
        for hold in holds.filter(|h| !h.is_empty()) {
            if hold.start >= keep.end {
                range.end = range.end.min(hold.start);
            }
            if hold.end <= keep.start {
                range.start = range.start.max(hold.end);
            }
        }
        range
    }

    /// The ranges kept one by one: all of them while [`spilled`](Self::spilled) is 0.
    #[must_use]
    pub fn ranges(&self) -> &[PageRange] {
        &self.slots[..self.used]
    }

    /// Holds known only by their common hull.
    #[must_use]
    pub fn spilled(&self) -> usize {
        self.spilled
    }

    /// Holds in force.
    #[must_use]
    pub fn active(&self) -> usize {
        self.used + self.spilled
    }
}
