// SPDX-License-Identifier: MIT OR Apache-2.0

//! One translation: a page frame and what may be done with it.

use super::PART_PAGES;

/// What the VM maps at a page, as its page tables show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The page frame number.
    pub pfn: u64,
    /// Whether the VM lets the page be written without another fault.
    pub writable: bool,
}

/// A translation as it stands in the table: the frame number above [`Entry::FLAG_BITS`], flags
/// below. Zero is "no translation".
///
/// A *huge* entry stands for a whole part: [`PART_PAGES`] frames in a row, of which it names the
/// first, a multiple of [`PART_PAGES`]. Its flags are those of all its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

/// An access sets all looks by one OR; they take no other flag's bit.
const _: () = assert!(
    (Entry::LOOKS + 1).is_power_of_two()
        && Entry::ACCESSED & (Entry::PRESENT | Entry::WRITE | Entry::DIRTY | Entry::HUGE) == 0
);

impl Entry {
    /// Low bits that hold flags.
    pub const FLAG_BITS: u32 = 12;
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    /// Set by a write, passed on to the VM when the translation goes.
    pub const DIRTY: u64 = 4;
    /// Looks of the VM that an access lasts for. MGLRU looks at a page for each generation that it
    /// makes and before it takes it, and keeps one that it finds used until its next look only:
    /// all of that comes between two messages to the same page, which for a CPU would be thousands
    /// of accesses. With one look, 1 % of a working set that fits survives a scan; with six, 26 to
    /// 100 %, by how the looks fall; with fifteen, all.
    pub const LOOKS: u32 = 15;
    const LOOK_SHIFT: u32 = 4;
    /// How many looks are left: all bits set by an access, one less after each look.
    pub const ACCESSED: u64 = (Self::LOOKS as u64) << Self::LOOK_SHIFT;
    /// A huge entry. Above every count that a directory slot can hold (see `table`).
    pub const HUGE: u64 = 0x800;

    /// The translation to `frame`.
    #[must_use]
    pub const fn of(frame: Frame) -> Self {
        Self::new(frame.pfn, frame.writable)
    }

    /// A translation to page frame `pfn` that may be written if `writable`.
    #[must_use]
    pub const fn new(pfn: u64, writable: bool) -> Self {
        let write = if writable { Self::WRITE } else { 0 };
        Self(pfn << Self::FLAG_BITS | Self::PRESENT | write)
    }

    /// A huge entry of the frames from `pfn` on.
    ///
    /// # Preconditions
    ///
    /// `pfn` is a multiple of [`PART_PAGES`].
    #[must_use]
    pub const fn new_huge(pfn: u64, writable: bool) -> Self {
        Self(Self::new(pfn, writable).0 | Self::HUGE)
    }

    /// The entry of `page` alone, if this huge one stands for its part; itself if it is not huge.
    #[must_use]
    pub const fn at(self, page: u64) -> Self {
        if self.huge() {
            Self((self.0 & !Self::HUGE) + ((page % PART_PAGES) << Self::FLAG_BITS))
        } else {
            self
        }
    }

    /// The same translation, with the mark of a write if `dirty`.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        Self(self.0 | if dirty { Self::DIRTY } else { 0 })
    }

    /// The entry stored as `raw`, or `None` for an empty slot.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw & Self::PRESENT != 0 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// As it is stored.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The page frame number.
    #[must_use]
    pub const fn pfn(self) -> u64 {
        self.0 >> Self::FLAG_BITS
    }

    /// Whether a write may go through it. A page that the VM maps read-only (zero page,
    /// copy-on-write, KSM, a clean file page) is entered without this and faults on a write.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Whether an access of the given kind may use it.
    #[must_use]
    pub const fn allows(self, write: bool) -> bool {
        !write || self.writable()
    }

    /// Whether it stands for a whole part.
    #[must_use]
    pub const fn huge(self) -> bool {
        self.0 & Self::HUGE != 0
    }

    /// Pages that it translates.
    #[must_use]
    pub const fn pages(self) -> u64 {
        if self.huge() { PART_PAGES } else { 1 }
    }

    /// Whether a write went through it.
    #[must_use]
    pub const fn dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Whether an access used it, [`LOOKS`](Self::LOOKS) looks of the VM ago or less.
    #[must_use]
    pub const fn accessed(self) -> bool {
        self.0 & Self::ACCESSED != 0
    }

    /// What one more look leaves of `raw`.
    #[must_use]
    pub const fn looked_at(raw: u64) -> u64 {
        if raw & Self::ACCESSED == 0 {
            raw
        } else {
            raw - (1 << Self::LOOK_SHIFT)
        }
    }

    /// The flags that an access of the given kind leaves behind.
    #[must_use]
    pub const fn marks(write: bool) -> u64 {
        if write {
            Self::ACCESSED | Self::DIRTY
        } else {
            Self::ACCESSED
        }
    }
}
