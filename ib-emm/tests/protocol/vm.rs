// SPDX-License-Identifier: MIT OR Apache-2.0

//! A model of the VM: page frames, and which of them each page maps.
//!
//! What it checks is kept in loom cells, which fail on two uses that no lock orders, and in plain
//! cells, which no decision depends on. loom runs all threads of a model on one.

use ib_emm::emm::{Frame as Mapped, PageRange};
use loom::{cell::UnsafeCell, sync::Mutex};
use std::cell::Cell;

/// First page of the model's region: the last one of its part, so that the others are in the next.
pub const FIRST: u64 = 511;
/// The pages of the region.
pub const ALL: PageRange = PageRange {
    start: FIRST,
    end: FIRST + 3,
};
/// Frames that a model can use up.
const FRAMES: usize = 12;

/// A frame of memory.
struct Frame {
    /// The VM has taken it back from the region's owner.
    taken: UnsafeCell<bool>,
    /// Written by the HCA since it was last clean.
    written: Cell<bool>,
    /// Marked dirty for that.
    dirty: Cell<bool>,
    /// Also mapped elsewhere: not to be written.
    shared: Cell<bool>,
}

/// What one page maps.
#[derive(Clone, Copy)]
struct Page {
    frame: usize,
    /// The VM has nothing there: a hole.
    absent: bool,
}

struct PageTable {
    pages: Vec<Page>,
    frames_used: usize,
    /// The owner has exited.
    gone: bool,
}

/// The VM of the region's owner.
pub struct Vm {
    table: Mutex<PageTable>,
    frames: Vec<Frame>,
    /// For each page, invalidations between start and end. Nothing may be accessed under one.
    held: Vec<UnsafeCell<u32>>,
}

fn index(page: u64) -> usize {
    (page - FIRST) as usize
}

fn indexes(range: PageRange) -> std::ops::Range<usize> {
    index(range.start)..index(range.end)
}

impl Vm {
    /// Each page of the region maps a frame of its own.
    pub fn new() -> Self {
        let pages: Vec<_> = indexes(ALL)
            .map(|frame| Page {
                frame,
                absent: false,
            })
            .collect();
        Self {
            held: pages.iter().map(|_| UnsafeCell::new(0)).collect(),
            table: Mutex::new(PageTable {
                frames_used: pages.len(),
                pages,
                gone: false,
            }),
            frames: (0..FRAMES)
                .map(|_| Frame {
                    taken: UnsafeCell::new(false),
                    written: Cell::new(false),
                    dirty: Cell::new(false),
                    shared: Cell::new(false),
                })
                .collect(),
        }
    }

    /// The page gets a neighbour's or the zero page's frame: it may be read only.
    pub fn share(&self, page: u64) {
        let table = self.table.lock().unwrap();
        self.frames[table.pages[index(page)].frame].shared.set(true);
    }

    /// Whether a write needs [`Self::replace`] first.
    pub fn is_shared(&self, page: u64) -> bool {
        let table = self.table.lock().unwrap();
        self.frames[table.pages[index(page)].frame].shared.get()
    }

    /// The page has no memory from now on. For pages that were never translated.
    pub fn punch(&self, page: u64) {
        self.table.lock().unwrap().pages[index(page)].absent = true;
    }

    /// The frames of `range`; `None` if the VM can't provide the first.
    pub fn look(&self, range: PageRange) -> Option<Vec<Mapped>> {
        let table = self.table.lock().unwrap();
        let frames: Vec<_> = table.pages[indexes(range)]
            .iter()
            .take_while(|page| !page.absent && !table.gone)
            .map(|page| Mapped {
                pfn: page.frame as u64,
                writable: !self.frames[page.frame].shared.get(),
            })
            .collect();
        (!frames.is_empty()).then_some(frames)
    }

    /// The HCA accesses `frame` for `page`.
    pub fn access(&self, page: u64, frame: u64, write: bool) {
        let frame = &self.frames[frame as usize];
        frame.taken.with(|taken| {
            // SAFETY: loom fails the model if a writer is not ordered with this.
            assert!(!unsafe { *taken }, "access to a frame that was taken back");
        });
        self.held[index(page)].with(|held| {
            // SAFETY: as above.
            assert_eq!(unsafe { *held }, 0, "access between start and end");
        });
        if write {
            assert!(!frame.shared.get(), "write to a shared frame");
            frame.written.set(true);
        }
    }

    /// A translation of `frame` goes that was written through.
    pub fn mark_dirty(&self, frame: u64) {
        let frame = &self.frames[frame as usize];
        frame.taken.with(|taken| {
            // SAFETY: loom fails the model if a writer is not ordered with this.
            assert!(!unsafe { *taken }, "marked dirty after it was taken back");
        });
        assert!(frame.written.get(), "marked dirty without a write");
        frame.dirty.set(true);
    }

    /// `by` more invalidations of `range` are between start and end.
    pub fn hold(&self, range: PageRange, by: i32) {
        let _table = self.table.lock().unwrap();
        for held in &self.held[indexes(range)] {
            held.with_mut(|held| {
                // SAFETY: loom fails the model if another use is not ordered with this.
                let held = unsafe { &mut *held };
                *held = held.wrapping_add_signed(by);
            });
        }
    }

    /// Takes the frames of `range` back and maps others.
    pub fn replace(&self, range: PageRange) {
        let mut table = self.table.lock().unwrap();
        for at in indexes(range) {
            self.take(table.pages[at].frame);
            table.pages[at].frame = table.frames_used;
            table.frames_used += 1;
        }
    }

    /// Writes the frames of `range` to their file; they stay mapped, and are clean then.
    pub fn clean(&self, range: PageRange) {
        let table = self.table.lock().unwrap();
        for page in &table.pages[indexes(range)] {
            let frame = &self.frames[page.frame];
            frame.check_marks();
            frame.written.set(false);
            frame.dirty.set(false);
        }
    }

    /// The owner has exited: all frames are taken back, and none is provided any more.
    pub fn tear_down(&self) {
        let mut table = self.table.lock().unwrap();
        table.gone = true;
        for page in &table.pages {
            self.take(page.frame);
        }
    }

    fn take(&self, frame: usize) {
        let frame = &self.frames[frame];
        frame.check_marks();
        frame.taken.with_mut(|taken| {
            // SAFETY: loom fails the model if another use is not ordered with this.
            unsafe { *taken = true };
        });
    }
}

impl Frame {
    fn check_marks(&self) {
        assert_eq!(
            self.written.get(),
            self.dirty.get(),
            "written, and not marked dirty"
        );
    }
}
