// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges of pages.

use super::PART_PAGES;

/// Pages `start..end` of a region, counted from its base. Never inverted; may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRange {
    /// First page.
    pub start: u64,
    /// The page after the last.
    pub end: u64,
}

impl PageRange {
    /// The pages `start..end`; empty when `end` is not above `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        if end > start {
            Self { start, end }
        } else {
            Self { start, end: start }
        }
    }

    /// The single page `page`.
    #[must_use]
    pub const fn one(page: u64) -> Self {
        Self {
            start: page,
            end: page + 1,
        }
    }

    /// Number of pages.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no page in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Whether some page is in both.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// Whether `page` is in it.
    #[must_use]
    pub const fn contains(&self, page: u64) -> bool {
        self.start <= page && page < self.end
    }

    /// The pages in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The smallest range that holds both; an empty one adds nothing.
    #[must_use]
    pub fn hull(&self, other: &Self) -> Self {
        if self.is_empty() {
            *other
        } else if other.is_empty() {
            *self
        } else {
            Self::new(self.start.min(other.start), self.end.max(other.end))
        }
    }

    /// The whole part that `page` lies in.
    #[must_use]
    pub const fn part_of(page: u64) -> Self {
        let start = page & !(PART_PAGES - 1);
        Self {
            start,
            end: start + PART_PAGES,
        }
    }
}
