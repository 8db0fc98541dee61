// SPDX-License-Identifier: MIT OR Apache-2.0

//! The list of a region's open windows, through which an invalidation reaches the faults in flight.

use super::PageRange;
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    ptr::{self, NonNull},
};

/// What a region knows of an open window.
#[derive(Debug)]
pub(super) struct Link {
    range: PageRange,
    stale: bool,
    next: Option<NonNull<Link>>,
}

impl Link {
    /// In no list, and of no pages.
    pub(super) const fn new() -> Self {
        Self {
            range: PageRange { start: 0, end: 0 },
            stale: false,
            next: None,
        }
    }

    /// The pages asked for; those of the last time if it is in no list.
    pub(super) fn range(&self) -> PageRange {
        self.range
    }

    /// Leaves it its first `pages` only, if it has more.
    pub(super) fn shorten(&mut self, pages: u64) {
        let len = self.range.len().min(pages);
        self.range = PageRange::new(self.range.start, self.range.start + len);
    }

    /// As if it were entered now.
    pub(super) fn refresh(&mut self) {
        self.stale = false;
    }
}

/// The open windows of a region.
///
/// # Invariants
///
/// Every link in the list is that of an open [`Window`](super::Window) of this region, hence valid, and touched
/// only by whom this list may be touched. It is not moved to another gate with links in it: the
/// state that it is part of is pinned there.
#[derive(Debug)]
pub(super) struct Windows {
    head: Option<NonNull<Link>>,
    _pin: PhantomPinned,
}

// SAFETY: the list is reached through `&mut self` (the region's lock) only, and the links in it
// hold no thread's own data.
unsafe impl Send for Windows {}
// SAFETY: `&self` methods only read, under the region's lock held shared; every change needs
// `&mut self`, which that lock grants exclusively.
unsafe impl Sync for Windows {}

impl Windows {
    /// No window open.
    pub(super) const fn new() -> Self {
        // INVARIANT: there is no link.
        Self {
            head: None,
            _pin: PhantomPinned,
        }
    }

    fn iter(&self) -> impl Iterator<Item = NonNull<Link>> + '_ {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let this = at?;
            // SAFETY: by the type's invariant every link in the list is valid.
            at = unsafe { this.as_ref() }.next;
            Some(this)
        })
    }

    /// Whether some open window holds a page of `range`.
    pub(super) fn busy(&self, range: &PageRange) -> bool {
        self.iter().any(|link| {
            // SAFETY: links in the list are valid, and nobody changes one without `&mut self`.
            unsafe { link.as_ref() }.range.overlaps(range)
        })
    }

    /// Marks every window with a page of `range` as stale: an invalidation begins there.
    pub(super) fn invalidate(&mut self, range: &PageRange) {
        for mut link in self.iter() {
            // SAFETY: links in the list are valid, and `&mut self` excludes other users.
            let link = unsafe { link.as_mut() };
            link.stale |= link.range.overlaps(range);
        }
    }

    /// Enters `link`, fresh, for `range`.
    ///
    /// # Safety
    ///
    /// It is in no list, and [`remove`](Self::remove) takes it out of this one before it moves or
    /// goes. Until then it is touched only by whom this list may be touched.
    pub(super) unsafe fn add(&mut self, link: &UnsafeCell<Link>, range: PageRange) {
        let fresh = Link {
            range,
            stale: false,
            next: self.head,
        };
        // SAFETY: in no list, so that nobody else looks at it.
        unsafe { link.get().write(fresh) };
        // INVARIANT: valid while it is in the list, by this function's contract.
        self.head = NonNull::new(link.get());
    }

    /// Takes `link` out, if it is in the list.
    ///
    /// # Returns
    ///
    /// Whether it was, and stayed fresh.
    pub(super) fn remove(&mut self, link: &UnsafeCell<Link>) -> bool {
        let mut at: *mut Option<NonNull<Link>> = &raw mut self.head;
        let found = loop {
            // SAFETY: the list's head, or what a link in it is followed by; `&mut self` excludes
            // other users of both.
            let Some(found) = (unsafe { *at }) else {
                return false;
            };
            if ptr::eq(found.as_ptr(), link.get()) {
                break found;
            }
            // SAFETY: links in the list are valid.
            at = unsafe { &raw mut (*found.as_ptr()).next };
        };
        // SAFETY: links in the list are valid, and `&mut self` excludes other users.
        let Link { stale, next, .. } = *unsafe { found.as_ref() };
        // SAFETY: as it was read above.
        unsafe { *at = next };
        !stale
    }
}
