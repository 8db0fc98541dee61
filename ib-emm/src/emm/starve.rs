// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults that lose against invalidations, and the turn that they get in the end.
//!
//! A fault loses in two ways: an invalidation begins while it asks the VM, so that the answer is
//! stale; or one begins before another has ended, so that whenever the fault looks, its page is
//! held off. Two threads that throw the same pages away are enough for the latter: where a TLB
//! flush takes long, one of them is always between start and end. A fault that lost too often
//! starves, and invalidations that can sleep let it pass: those of its page, and those that its
//! page is not told apart from ([`HoldOff::would_block`]).
//!
//! Each loss is an invalidation that began while the fault was under way, however often it looked
//! meanwhile. So there is an end to it: a fault is served, or its owner exits, or it has lost
//! [`MOST_LOSSES`] times and gives up, and between two losses it waits for invalidations that have
//! begun already and for nobody else.

use super::{HoldOff, PageRange};

/// The longest [`RegionState::patience`](super::RegionState::patience).
pub const MOST_PATIENCE: u32 = 16;
/// After how many losses a fault starves.
pub const STARVED_LOSSES: u32 = 8;
/// Losses of a starved fault that double the patience with it.
const LOSSES_TO_DOUBLE: u32 = 8;
/// After how many losses a fault gives up. One whose invalidations can sleep, and are over within
/// the longest patience, is served after 40: `STARVED_LOSSES + LOSSES_TO_DOUBLE *
/// log2(MOST_PATIENCE)`.
pub const MOST_LOSSES: u32 = 10_000;

/// What one fault lost so far.
#[derive(Debug, Default)]
pub struct Losses {
    /// What it needs, once it has begun.
    page: PageRange,
    stale: u32,
    held_off: u32,
    /// How many holds had started when it began or lost last.
    started: Option<u32>,
    starving: bool,
}

impl Losses {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            page: PageRange { start: 0, end: 0 },
            stale: 0,
            held_off: 0,
            started: None,
            starving: false,
        }
    }

    /// Those of a fault for an access that was served before, so often, and each time came too late:
    /// its page had been taken away again.
    #[must_use]
    pub const fn again(rounds: u32) -> Self {
        Self {
            stale: rounds,
            ..Self::new()
        }
    }

    /// How often it lost, in both ways.
    #[must_use]
    pub fn all(&self) -> u32 {
        self.stale.saturating_add(self.held_off)
    }

    /// Whether it is to give up.
    #[must_use]
    pub fn hopeless(&self) -> bool {
        self.all() >= MOST_LOSSES
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

/// How long one invalidation lets the fault of one region pass, in the environment's unit of time.
/// All regions that it hits share what it has for that: each takes half of what those before it left
/// at most, so that there is something for each, and an end.
#[derive(Debug)]
pub struct LetPass {
    most: u64,
    waited: u64,
}

impl LetPass {
    /// Of an invalidation that has `left` for this region and all that follow.
    #[must_use]
    pub const fn new(left: u64) -> Self {
        Self {
            most: left / 2,
            waited: 0,
        }
    }

    /// How long to wait from now on, if the [patience](super::RegionState::patience) in all is
    /// `patience`; 0 if it is over.
    #[must_use]
    pub fn rest(&self, patience: u64) -> u64 {
        patience.min(self.most).saturating_sub(self.waited)
    }

    /// Whether it waited at all.
    #[must_use]
    pub const fn has_waited(&self) -> bool {
        self.waited > 0
    }

    /// It waited so long.
    pub fn waited(&mut self, time: u64) {
        self.waited = self.waited.saturating_add(time);
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
    turns: Turns,
}

/// Invalidations that let faults pass. Numbers wrap.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    /// How many came.
    came: u32,
    /// Those up to this number wait no more.
    over: u32,
}

impl Starved {
    /// The fault for `page` by thread `who` begins, or begins again: it becomes the one, if it
    /// lost often enough and there is none. If it is the one already, it goes on in this thread.
    pub(super) fn admit<const SLOTS: usize>(
        &mut self,
        losses: &mut Losses,
        page: u64,
        who: usize,
        holds: &HoldOff<SLOTS>,
    ) {
        losses.page = PageRange::one(page);
        losses.started.get_or_insert(holds.started());
        if losses.starving {
            self.who = who;
        } else if losses.all() >= STARVED_LOSSES && self.page.is_empty() {
            *self = Self {
                page: losses.page,
                who,
                losses: losses.all() - STARVED_LOSSES,
                held_off: false,
                turns: self.turns,
            };
            losses.starving = true;
        }
    }

    /// The fault of `losses` got a stale answer.
    pub(super) fn stale<const SLOTS: usize>(
        &mut self,
        losses: &mut Losses,
        holds: &HoldOff<SLOTS>,
    ) {
        losses.stale = losses.stale.saturating_add(1);
        losses.started = Some(holds.started());
        if losses.starving {
            self.losses = self.losses.saturating_add(1);
            self.held_off = false;
        }
    }

    /// The fault of `losses` found its page held off by `holds`. It lost if one of them started
    /// since it began or lost last; else it goes on waiting for those that it waited for.
    pub(super) fn held_off<const SLOTS: usize>(
        &mut self,
        losses: &mut Losses,
        holds: &HoldOff<SLOTS>,
    ) {
        let since = losses.started.unwrap_or_else(|| holds.started());
        let lost = holds.blocks_since(&losses.page, since);
        if lost {
            losses.held_off = losses.held_off.saturating_add(1);
            losses.started = Some(holds.started());
        }
        if losses.starving {
            self.losses = self.losses.saturating_add(lost.into());
            self.held_off = true;
        }
    }

    /// The fault of `losses` is over, and the access that it was for has yet to come: invalidations
    /// let that pass, too, for as long as one that waits for its page.
    pub(super) fn served(&mut self, losses: &Losses) {
        self.held_off |= losses.starving;
    }

    /// The fault of `losses` is over.
    ///
    /// # Returns
    ///
    /// Whether it was the one.
    pub(super) fn sated(&mut self, losses: Losses) -> bool {
        if losses.starving {
            *self = Self {
                turns: self.turns,
                ..Self::default()
            };
        }
        losses.starving
    }

    /// What the fault needs; empty if there is none.
    pub(super) fn page(&self) -> PageRange {
        self.page
    }

    /// An invalidation comes.
    ///
    /// # Returns
    ///
    /// Its number.
    pub(super) fn come(&mut self) -> u32 {
        self.turns.came = self.turns.came.wrapping_add(1);
        self.turns.came
    }

    /// One of those that came has waited enough.
    pub(super) fn turn_over(&mut self) {
        self.turns.over = self.turns.came;
    }

    /// How long an invalidation of the fault's page by thread `who`, with this number, lets the
    /// fault pass, which `asks` the VM at this moment or not.
    pub(super) fn patience(&self, who: usize, number: u32, asks: bool) -> u32 {
        let over = self.turns.over.wrapping_sub(number) < 1 << 31;
        if self.who == who || over {
            return 0;
        }
        if !asks && !self.held_off {
            return 1;
        }
        let doublings = self.losses / LOSSES_TO_DOUBLE;
        1 << doublings.min(MOST_PATIENCE.ilog2())
    }
}
