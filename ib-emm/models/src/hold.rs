// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hold-off against a list of ranges.

use arbitrary::Arbitrary;
use ib_emm::emm::{HoldOff, PageRange};

/// A range of pages `.0..` of length `.1`, modulo what makes them meet; some are long.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Range(pub u8, pub u8);

/// Lengths from here on are some 64 MiB each.
const LONG: u8 = 240;

impl Range {
    fn pages(self) -> PageRange {
        let start = u64::from(self.0 % 64);
        let len = match self.1 {
            LONG.. => u64::from(self.1 - LONG + 1) << 14,
            short => u64::from(short % 20),
        };
        PageRange::new(start, start + len)
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

/// Ranges that are told apart.
const SLOTS: usize = 6;

/// A hold-off and what it should hold.
#[derive(Default)]
pub struct Model {
    holds: HoldOff<SLOTS>,
    /// Those that found room.
    exact: Vec<PageRange>,
    /// Those that did not.
    spilled: Vec<PageRange>,
    /// For each start so far, the pages of [`PAGES`] that it holds off.
    starts: Vec<Vec<bool>>,
}

/// Pages that short ranges lie in.
const PAGES: u64 = 64 + 20;

/// What one hold alone holds off when it is only counted.
fn footprint(hold: PageRange) -> HoldOff<0> {
    let mut alone = HoldOff::new();
    alone.start(hold);
    alone
}

impl Model {
    /// Does `op` to both and compares what comes back.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Start(range) => self.start(range.pages()),
            Op::End(at) if self.active() > 0 => {
                let at = usize::from(at) % self.active();
                let held = self.exact.iter().chain(&self.spilled);
                let range = *held.clone().nth(at).unwrap();
                assert!(self.end(range), "a started range can be ended");
            }
            Op::End(_) => assert!(!self.holds.end(PageRange::new(1, 2)), "nothing was started"),
            Op::EndUnknown(range) => {
                let range = range.pages();
                // A spilled hold is known by where it is counted only.
                let known = self.exact.contains(&range) || !self.spilled.is_empty();
                if !known && !range.is_empty() {
                    assert!(!self.holds.end(range), "it was not started");
                }
            }
            Op::Blocks(range) => self.blocks(range.pages()),
            Op::Trim(range, at) => self.trim(range.pages(), at.into()),
        }
        assert_eq!(self.holds.active(), self.active());
        assert_eq!(self.holds.spilled(), self.spilled.len());
        assert_eq!(self.holds.ranges().len(), self.exact.len());
        assert!(self.holds.ranges().iter().all(|r| self.exact.contains(r)));
    }

    /// Ends all that is held.
    pub fn finish(mut self) {
        while self.active() > 0 {
            self.step(Op::End(0));
        }
        assert!(!self.holds.blocks(&PageRange::new(0, 1000)), "all ended");
    }

    fn active(&self) -> usize {
        self.exact.len() + self.spilled.len()
    }

    fn start(&mut self, range: PageRange) {
        let alone = footprint(range);
        let exact = self.exact.len() < SLOTS;
        let pages = (0..PAGES).map(PageRange::one);
        let would: Vec<_> = pages
            .clone()
            .map(|page| range.overlaps(&page) || !exact && alone.blocks(&page))
            .collect();
        for (page, would) in pages.clone().zip(&would) {
            assert_eq!(self.holds.would_block(&range, &page), *would);
        }
        self.holds.start(range);
        if range.is_empty() {
            return;
        }
        self.starts.push(would);
        if exact {
            self.exact.push(range);
        } else {
            self.spilled.push(range);
        }
        let count = u32::try_from(self.starts.len()).unwrap();
        assert_eq!(self.holds.started(), count);
        for page in pages {
            let begun = self.starts.last().unwrap()[page.start as usize];
            assert_eq!(
                self.holds.blocks_since(&page, count - 1),
                begun,
                "the last one"
            );
            assert!(!self.holds.blocks_since(&page, count), "none is later");
        }
        let (page, since) = (PageRange::one(range.start), count.saturating_sub(9));
        let later = &self.starts[since as usize..];
        if self.holds.blocks_since(&page, since) {
            let begun = later.iter().any(|holds| holds[page.start as usize]);
            assert!(begun && self.holds.blocks(&page), "one has started since");
        }
    }

    fn end(&mut self, range: PageRange) -> bool {
        for held in [&mut self.exact, &mut self.spilled] {
            if let Some(at) = held.iter().position(|held| *held == range) {
                held.swap_remove(at);
                break;
            }
        }
        self.holds.end(range)
    }

    /// What is held off: what the holds with a place of their own hold, and what each other one does by itself.
    fn is_held(&self, range: &PageRange) -> bool {
        self.exact.iter().any(|held| held.overlaps(range))
            || self
                .spilled
                .iter()
                .any(|held| footprint(*held).blocks(range))
    }

    fn blocks(&self, range: PageRange) {
        let mut held = self.exact.iter().chain(&self.spilled);
        let blocks = self.holds.blocks(&range);
        assert!(
            blocks || !held.any(|held| held.overlaps(&range)),
            "never let through"
        );
        assert_eq!(blocks, self.is_held(&range), "each by itself");
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
