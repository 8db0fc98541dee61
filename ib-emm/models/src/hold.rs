// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hold-off against a list of ranges.

use arbitrary::Arbitrary;
use ib_emm::emm::{HoldOff, PageRange};

/// A range of pages `.0..` of length `.1`, modulo what makes them meet.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Range(pub u8, pub u8);

impl Range {
    fn pages(self) -> PageRange {
        let start = u64::from(self.0 % 64);
        PageRange::new(start, start + u64::from(self.1 % 20))
    }
}

/// Something to do to a hold-off.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// Starts one.
    Start(Range),
    /// Ends one of those that were started.
    End(u8),
    /// Ends one that was not started.
    EndUnknown(Range),
    /// Asks whether any of these pages is held.
    Blocks(Range),
    /// Trims a range around its page with this offset.
    Trim(Range, u8),
}

/// A hold-off and what it should hold.
#[derive(Default)]
pub struct Model {
    holds: HoldOff,
    held: Vec<PageRange>,
    /// Of all that was started since nothing was held.
    hull: PageRange,
}

impl Model {
    /// Does `op` to both and compares what comes back.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Start(range) => {
                let range = range.pages();
                self.holds.start(range);
                if !range.is_empty() {
                    self.held.push(range);
                    self.hull = self.hull.hull(&range);
                }
            }
            Op::End(at) if !self.held.is_empty() => {
                let range = self.held.swap_remove(usize::from(at) % self.held.len());
                assert!(self.holds.end(range), "a started range can be ended");
                if self.held.is_empty() {
                    self.hull = PageRange::default();
                }
            }
            Op::End(_) => assert!(!self.holds.end(PageRange::new(1, 2)), "nothing was started"),
            Op::EndUnknown(range) => {
                let range = range.pages();
                // A spilled hold is known by its hull only.
                let known = self.held.contains(&range) || self.holds.spilled() > 0;
                if !known && !range.is_empty() {
                    assert!(!self.holds.end(range), "it was not started");
                }
            }
            Op::Blocks(range) => self.blocks(range.pages()),
            Op::Trim(range, at) => self.trim(range.pages(), at.into()),
        }
        assert_eq!(self.holds.active(), self.held.len());
        assert_eq!(
            self.holds.ranges().len() + self.holds.spilled(),
            self.held.len()
        );
        assert!(self.holds.ranges().iter().all(|r| self.held.contains(r)));
    }

    /// Ends all that is held.
    pub fn finish(mut self) {
        while !self.held.is_empty() {
            self.step(Op::End(0));
        }
        assert!(!self.holds.blocks(&PageRange::new(0, 1000)), "all ended");
    }

    fn is_held(&self, range: &PageRange) -> bool {
        self.held.iter().any(|held| held.overlaps(range))
    }

    fn blocks(&self, range: PageRange) {
        let blocks = self.holds.blocks(&range);
        if self.holds.spilled() == 0 {
            assert_eq!(blocks, self.is_held(&range));
        } else {
            assert!(blocks || !self.is_held(&range), "never let through");
            assert!(!blocks || self.hull.overlaps(&range), "not without reason");
        }
    }

    fn trim(&self, range: PageRange, at: u64) {
        if range.is_empty() {
            return;
        }
        let keep = PageRange::one(range.start + at % range.len());
        if self.holds.blocks(&keep) {
            return;
        }
        let trimmed = self.holds.trim(range, &keep);
        assert!(trimmed.contains(keep.start) && trimmed.intersect(&range) == trimmed);
        assert!(!self.holds.blocks(&trimmed), "what is left is free");
        let wider = [
            PageRange::new(trimmed.start.saturating_sub(1), trimmed.end),
            PageRange::new(trimmed.start, trimmed.end + 1),
        ];
        for wider in wider {
            assert!(
                wider.intersect(&range) == trimmed || self.holds.blocks(&wider),
                "no free page is cut off"
            );
        }
    }
}
