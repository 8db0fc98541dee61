// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults in flight.
//!
//! A fault asks the VM for pages with no lock held. What comes back may be used only if no
//! invalidation of those pages began meanwhile: the window says so. Windows also make faults
//! single-flight: a second fault on the same pages waits for the first instead of repeating it.
//!
//! A [`Window`] lies on the faulting thread's stack and is linked into its region's list. It
//! closes itself before it goes, whichever way its fault ends. It locks its region itself
//! ([`Window::lock`]), so that a window and a state that are used together belong together.

use super::{Held, NodeMem, PageRange, RegionState};
use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    marker::PhantomPinned,
    ops::Deref,
    pin::Pin,
    ptr::{self, NonNull},
};

/// The lock around a region's state, which the environment brings.
///
/// # Safety
///
/// All guards of one value lead to the same state. While there is one, nobody else has that state,
/// not even shared.
pub unsafe trait Gate {
    /// Where the nodes of the region's table come from.
    type Mem: NodeMem;
    /// The state, held exclusively until this is dropped.
    type Guard<'g>: Deref<Target = RegionState<Self::Mem>>
    where
        Self: 'g;

    /// Waits until nobody else has the state, and takes it.
    fn lock(&self) -> Self::Guard<'_>;

    /// The state behind `guard`, to be changed.
    fn state<'s>(guard: &'s mut Self::Guard<'_>) -> Pin<&'s mut RegionState<Self::Mem>>;

    /// Wakes all who wait for a change of the state behind `guard`, which is this gate's.
    fn wake(&self, guard: &Self::Guard<'_>);
}

/// What a region knows of an open window.
#[derive(Debug)]
pub(super) struct Link {
    range: PageRange,
    stale: bool,
    next: Option<NonNull<Link>>,
}

/// One fault's window: the pages that it asks the VM for, while it does.
///
/// Dropped while it is open, it takes its region's gate: the thread must not have it then.
///
/// # Invariants
///
/// - `link` is in no list but that of the region which `gate` leads to, and only while `open`. It
///   is touched under that gate only.
/// - `open` is touched by the window's own thread only: a window is neither `Send` nor `Sync`.
pub struct Window<G: Gate> {
    gate: G,
    open: Cell<bool>,
    link: UnsafeCell<Link>,
    _pin: PhantomPinned,
}

impl<G: Gate> Window<G> {
    /// A window that is not open, for faults of the region behind `gate`.
    #[must_use]
    pub const fn new(gate: G) -> Self {
        // INVARIANT: it is not open, and in no list.
        Self {
            gate,
            open: Cell::new(false),
            link: UnsafeCell::new(Link {
                range: PageRange { start: 0, end: 0 },
                stale: false,
                next: None,
            }),
            _pin: PhantomPinned,
        }
    }

    /// Takes the region's state, to begin or to finish a fault with this window. The thread has it
    /// from no other place.
    #[must_use]
    pub fn lock(self: Pin<&Self>) -> Held<'_, G> {
        Held::new(self)
    }

    pub(super) fn gate(&self) -> &G {
        &self.gate
    }

    /// Opens it for `range`. It is closed first, if it is open.
    ///
    /// # Safety
    ///
    /// `windows` are those of the region that its gate leads to.
    pub(super) unsafe fn open(self: Pin<&Self>, windows: &mut Windows, range: PageRange) {
        // SAFETY: this function's contract.
        let _fresh = unsafe { self.close(windows) };
        // INVARIANT: it is in the list, and being pinned, it is dropped before its memory goes.
        // SAFETY: it is in no list now, and `drop` takes it out of this one.
        unsafe { windows.add(&self.link, range) };
        self.open.set(true);
    }

    /// Closes it, if it is open.
    ///
    /// # Returns
    ///
    /// Whether it was open and stayed fresh: what was asked for may be used.
    ///
    /// # Safety
    ///
    /// `windows` are those of the region that its gate leads to.
    pub(super) unsafe fn close(&self, windows: &mut Windows) -> bool {
        // INVARIANT: it is in no list from here on: this is the only one that it can be in.
        self.open.replace(false) && windows.remove(&self.link)
    }

    /// The pages asked for; those of the last time if it is not open.
    ///
    /// # Safety
    ///
    /// Its region's state is held, at least shared.
    pub(super) unsafe fn range(&self) -> PageRange {
        // SAFETY: the link is touched under the gate only, which is held.
        unsafe { (*self.link.get()).range }
    }

    /// Leaves it its first page only.
    ///
    /// # Safety
    ///
    /// Its region's state is held exclusively.
    pub(super) unsafe fn narrow(&self) {
        // SAFETY: the link is touched under the gate only, which is held exclusively.
        let link = unsafe { &mut *self.link.get() };
        link.range = PageRange::one(link.range.start);
    }
}

impl<G: Gate> Drop for Window<G> {
    fn drop(&mut self) {
        if !self.open.get() {
            return;
        }
        let mut guard = self.gate.lock();
        // SAFETY: the gate's guard leads to the region that the gate leads to.
        let _fresh = unsafe { self.close(G::state(&mut guard).windows()) };
        self.gate.wake(&guard);
    }
}

impl<G: Gate> fmt::Debug for Window<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open.get();
        f.debug_struct("Window")
            .field("open", &open)
            .finish_non_exhaustive()
    }
}

/// The open windows of a region.
///
/// # Invariants
///
/// Every link in the list is that of an open [`Window`] of this region, hence valid, and touched
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
    unsafe fn add(&mut self, link: &UnsafeCell<Link>, range: PageRange) {
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
    fn remove(&mut self, link: &UnsafeCell<Link>) -> bool {
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
