// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults that lose against invalidations, and the turn that they get in the end.
//!
//! A fault loses in two ways: an invalidation begins while it asks the VM, so that the answer is
//! stale; or one begins before another has ended, so that whenever the fault looks, its page is
//! held off. Two threads that throw the same pages away are enough for the latter: where a TLB
//! flush takes long, one of them is always between start and end. A fault that lost too often
//! starves, and invalidations that can sleep let it pass.

use super::PageRange;

/// The longest [`RegionState::patience`](super::RegionState::patience).
pub const MOST_PATIENCE: u32 = 32;
/// After how many losses a fault starves.
pub const STARVED_LOSSES: u32 = 8;
/// Losses of a starved fault that double the patience with it.
const LOSSES_TO_DOUBLE: u32 = 8;

/// What one fault lost so far.
#[derive(Debug, Default)]
pub struct Losses {
    stale: u32,
    held_off: u32,
    starving: bool,
}

impl Losses {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stale: 0,
            held_off: 0,
            starving: false,
        }
    }

    /// How often the VM's answer was stale.
    #[must_use]
    pub fn stale(&self) -> u32 {
        self.stale
    }

    /// Whether invalidations that can sleep let the fault pass.
    #[must_use]
    pub fn starving(&self) -> bool {
        self.starving
    }
}

/// The fault of a region that starves: one at a time.
#[derive(Debug, Default)]
pub(super) struct Starved {
    /// What it needs; empty if there is no such fault.
    page: PageRange,
    /// The thread, by a number that no other one has now.
    who: usize,
    /// How often it lost since.
    losses: u32,
    /// It waits for its page to be held off no more, or did a moment ago.
    held_off: bool,
}

impl Starved {
    /// Makes the fault for `page` by thread `who` the one, if it lost often enough and there is
    /// none.
    pub(super) fn admit(&mut self, losses: &mut Losses, page: u64, who: usize) {
        let enough = losses.stale.saturating_add(losses.held_off) >= STARVED_LOSSES;
        if enough && self.page.is_empty() {
            *self = Self {
                page: PageRange::one(page),
                who,
                losses: 0,
                held_off: false,
            };
            losses.starving = true;
        }
    }

    /// The fault of `losses` got a stale answer.
    pub(super) fn stale(&mut self, losses: &mut Losses) {
        losses.stale += 1;
        self.lost(losses, false);
    }

    /// The fault of `losses` found its page held off.
    pub(super) fn held_off(&mut self, losses: &mut Losses) {
        losses.held_off = losses.held_off.saturating_add(1);
        self.lost(losses, true);
    }

    fn lost(&mut self, losses: &Losses, held_off: bool) {
        if losses.starving {
            self.losses = self.losses.saturating_add(1);
            self.held_off = held_off;
        }
    }

    /// The fault of `losses` is over.
    ///
    /// # Returns
    ///
    /// Whether it was the one.
    pub(super) fn sated(&mut self, losses: Losses) -> bool {
        if losses.starving {
            *self = Self::default();
        }
        losses.starving
    }

    /// What the fault needs; empty if there is none.
    pub(super) fn page(&self) -> PageRange {
        self.page
    }

    /// How long an invalidation of the fault's page by thread `who` lets the fault pass, which
    /// `asks` the VM at this moment or not.
    pub(super) fn patience(&self, who: usize, asks: bool) -> u32 {
        if self.who == who {
            return 0;
        }
        if !asks && !self.held_off {
            return 1;
        }
        let doublings = self.losses / LOSSES_TO_DOUBLE;
        1 << doublings.min(MOST_PATIENCE.ilog2())
    }
}
