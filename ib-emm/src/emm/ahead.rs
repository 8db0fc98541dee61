// SPDX-License-Identifier: MIT OR Apache-2.0

//! How far a fault looks.
//!
//! A fault asks the VM for what an operation named, and for nothing else. What lies behind may be
//! there nevertheless, and wanted next: a fault that continues where an earlier one ended looks at
//! twice as many pages as that one found, so that n pages that are there cost about log n faults,
//! however small the operations; a fault anywhere else looks at what it needs. Few streams are
//! remembered, so that several queue pairs may stream through one region.

use super::{PART_PAGES, PageRange};

/// Streams remembered.
const STREAMS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Where the stream's next fault is expected. 0 with `len` 0: unused.
    next: u64,
    /// Pages that its last fault found.
    len: u64,
}

/// The read-ahead state of a region.
#[derive(Debug, Default)]
pub struct ReadAhead {
    streams: [Stream; STREAMS],
    oldest: usize,
}

impl ReadAhead {
    /// No stream known.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            streams: [Stream { next: 0, len: 0 }; STREAMS],
            oldest: 0,
        }
    }

    /// The pages to look at when `want` is needed.
    ///
    /// # Preconditions
    ///
    /// `want` is not empty and lies in one part.
    ///
    /// # Returns
    ///
    /// A range that starts at `want.start`, holds `want`, and ends in the same part.
    #[must_use]
    pub fn plan(&self, want: &PageRange) -> PageRange {
        let len = match self.find(want) {
            Some(at) => self.streams[at].len.saturating_mul(2),
            None => 0,
        };
        let end = (want.start + len.max(want.len())).min(PageRange::part_of(want.start).end);
        PageRange::new(want.start, end)
    }

    /// Learns that a fault for `want`, which looked at `range`, found `got`.
    pub fn learn(&mut self, want: &PageRange, range: &PageRange, got: &PageRange) {
        let at = self.find(want).unwrap_or_else(|| {
            let at = self.oldest;
            self.oldest = (at + 1) % STREAMS;
            self.streams[at].len = 0;
            at
        });
        let stream = &mut self.streams[at];
        // The end of a part must not shrink the stream; what is not there does, as it is not worth a
        // look either.
        stream.len = if got.end < range.end {
            got.len()
        } else {
            stream.len.max(got.len()).min(PART_PAGES)
        };
        stream.next = got.end;
    }

    fn find(&self, want: &PageRange) -> Option<usize> {
        self.streams
            .iter()
            .position(|s| s.len > 0 && s.next == want.start)
    }
}
