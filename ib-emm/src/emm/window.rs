// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults in flight.
//!
//! A fault asks the VM for pages with no lock held. What comes back may be used only if no
//! invalidation of those pages began meanwhile: the window says so. Windows also make faults
//! single-flight: a second fault on the same pages waits for the first instead of repeating it.

use super::PageRange;
use core::{marker::PhantomPinned, pin::Pin, ptr};

/// One fault in flight. Lives on the faulting thread's stack, linked into [`Windows`].
///
/// # Invariants
///
/// While linked it is not moved, and only the holder of the region's lock touches it.
#[derive(Debug)]
pub struct Window {
    range: PageRange,
    stale: bool,
    linked: bool,
    next: *mut Window,
    _pin: PhantomPinned,
}

impl Window {
    /// A window that is not open.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            range: PageRange { start: 0, end: 0 },
            stale: false,
            linked: false,
            next: ptr::null_mut(),
            _pin: PhantomPinned,
        }
    }

    /// The pages asked for.
    #[must_use]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Whether an invalidation of some of its pages began after it was opened.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// The open windows of a region.
///
/// # Invariants
///
/// Every window in the list is valid and pinned until it is closed: [`open`](Self::open) makes
/// that its caller's duty.
#[derive(Debug)]
pub struct Windows {
    head: *mut Window,
}

// SAFETY: the list is reached through `&mut self` (the region's lock) only, and the windows in it
// hold no thread's own data.
unsafe impl Send for Windows {}
// SAFETY: `&self` methods only read, under the region's lock held shared; every change needs
// `&mut self`, which that lock grants exclusively.
unsafe impl Sync for Windows {}

impl Windows {
    /// No window open.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = *mut Window> + '_ {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let this = at;
            if this.is_null() {
                return None;
            }
            // SAFETY: by the type's invariant every window in the list is valid.
            at = unsafe { (*this).next };
            Some(this)
        })
    }

    /// Whether some open window holds a page of `range`.
    #[must_use]
    pub fn busy(&self, range: &PageRange) -> bool {
        // SAFETY: windows in the list are valid, and nobody changes one without `&mut self`.
        self.iter().any(|w| unsafe { (*w).range.overlaps(range) })
    }

    /// Whether no fault is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Opens `window` for `range`.
    ///
    /// # Safety
    ///
    /// `window` is closed again by [`close`](Self::close) before it is dropped, and it is not open
    /// now.
    pub unsafe fn open(&mut self, window: Pin<&mut Window>, range: PageRange) {
        // SAFETY: the window is not moved out of: only its fields are set.
        let window = unsafe { window.get_unchecked_mut() };
        debug_assert!(!window.linked, "a window is opened once at a time");
        window.range = range;
        window.stale = false;
        window.linked = true;
        window.next = self.head;
        self.head = window;
    }

    /// Leaves `window` its first page only.
    pub fn narrow(&mut self, window: Pin<&mut Window>) {
        // SAFETY: the window is not moved out of: only its fields are set.
        let window = unsafe { window.get_unchecked_mut() };
        window.range = PageRange::one(window.range.start);
    }

    /// Marks every window with a page of `range` as stale: an invalidation begins there.
    pub fn invalidate(&mut self, range: &PageRange) {
        for window in self.iter() {
            // SAFETY: windows in the list are valid, and `&mut self` excludes other users.
            let window = unsafe { &mut *window };
            window.stale |= window.range.overlaps(range);
        }
    }

    /// Closes `window`.
    ///
    /// # Returns
    ///
    /// Whether it stayed fresh: what was asked for may be used.
    #[must_use]
    pub fn close(&mut self, window: Pin<&mut Window>) -> bool {
        // SAFETY: the window is not moved out of: only its fields are set.
        let window = unsafe { window.get_unchecked_mut() };
        let target: *mut Window = window;
        let mut link: *mut *mut Window = &mut self.head;
        loop {
            // SAFETY: `link` is the list's head or the `next` of a valid window in it.
            let at = unsafe { *link };
            if at.is_null() {
                break;
            }
            if at == target {
                // SAFETY: `link` is valid as above.
                unsafe { *link = window.next };
                break;
            }
            // SAFETY: `at` is in the list, hence valid.
            link = unsafe { &raw mut (*at).next };
        }
        window.linked = false;
        window.next = ptr::null_mut();
        !window.stale
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self::new()
    }
}
