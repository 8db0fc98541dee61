// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges that an invalidation holds off: started and not yet ended.
//!
//! The VM invalidates from reclaim, where nothing may be allocated, so the ranges live in a fixed
//! array. More ranges at once than the array holds (each is one thread inside the VM) spill into
//! conservative hulls: pages are then held off that need not be, never the reverse. There are
//! several, and a range always goes into the same one: threads that keep the array full for long
//! keep no hull that others have left.

use super::PageRange;

/// Hulls of those that are not.
const SPILLS: usize = 16;
const NONE: PageRange = PageRange { start: 0, end: 0 };

/// Ranges known only by what covers them.
///
/// # Invariants
///
/// `hull` covers every one of them and is empty when `count` is 0.
#[derive(Clone, Copy, Debug)]
struct Spill {
    count: usize,
    hull: PageRange,
}

/// The ranges held off at this moment, each as often as it was started; up to `SLOTS` of them are
/// kept one by one.
///
/// # Invariants
///
/// `slots[..used]` are not empty. `spilled` is what the spills count together.
#[derive(Debug)]
pub struct HoldOff<const SLOTS: usize = 6> {
    slots: [PageRange; SLOTS],
    used: usize,
    spilled: usize,
    spills: [Spill; SPILLS],
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
        const DRY: Spill = Spill {
            count: 0,
            hull: NONE,
        };
        Self {
            slots: [NONE; SLOTS],
            used: 0,
            spilled: 0,
            spills: [DRY; SPILLS],
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
            let spill = &mut self.spills[spill_of(&range)];
            spill.count += 1;
            spill.hull = spill.hull.hull(&range);
            self.spilled += 1;
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
        // Which range of the spill this was is not known; its hull stays until the last one ends.
        let spill = &mut self.spills[spill_of(&range)];
        let known = spill.count > 0 && spill.hull.intersect(&range) == range;
        if known {
            self.spilled -= 1;
            spill.count -= 1;
            if spill.count == 0 {
                spill.hull = NONE;
            }
        }
        known
    }

    /// Whether some page of `range` is held off.
    #[must_use]
    pub fn blocks(&self, range: &PageRange) -> bool {
        self.slots[..self.used].iter().any(|s| s.overlaps(range))
            || self.hulls().any(|hull| hull.overlaps(range))
    }

    /// What covers the spilled ranges.
    fn hulls(&self) -> impl Iterator<Item = &PageRange> {
        let any = if self.spilled > 0 { SPILLS } else { 0 };
        let wet = self.spills[..any].iter().filter(|spill| spill.count > 0);
        wet.map(|spill| &spill.hull)
    }

    /// The part of `range` in front of the first held-off page that follows `keep`.
    ///
    /// # Preconditions
    ///
    /// `keep` is inside `range` and not blocked.
    #[must_use]
    pub fn trim(&self, mut range: PageRange, keep: &PageRange) -> PageRange {
        for hold in self.slots[..self.used].iter().chain(self.hulls()) {
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

    /// Holds known only by their hulls.
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

/// The spill of a range, the same one each time; ranges that lie beside each other go apart.
fn spill_of(range: &PageRange) -> usize {
    const BITS: u32 = SPILLS.ilog2();
    // 2^64 divided by the golden ratio: multiples of it are spread evenly.
    let mixed = (range.start ^ range.end.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - BITS)) as usize
}
