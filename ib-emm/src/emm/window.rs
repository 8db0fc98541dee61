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

use super::{
    NodeMem, PageRange, RegionState,
    windows::{Link, Windows},
};
use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    marker::PhantomPinned,
    ops::Deref,
    pin::Pin,
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
            link: UnsafeCell::new(Link::new()),
            _pin: PhantomPinned,
        }
    }

    pub(super) fn gate(&self) -> &G {
        &self.gate
    }

    /// Whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.get()
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
        unsafe { &*self.link.get() }.range()
    }

    /// Leaves it its first `pages` only.
    ///
    /// # Safety
    ///
    /// Its region's state is held exclusively.
    pub(super) unsafe fn shorten(&self, pages: u64) {
        // SAFETY: the link is touched under the gate only, which is held exclusively.
        unsafe { &mut *self.link.get() }.shorten(pages);
    }

    /// Makes it fresh, as if it were opened now.
    ///
    /// # Safety
    ///
    /// Its region's state is held exclusively, and none of its pages is held off.
    pub(super) unsafe fn refresh(&self) {
        // SAFETY: the link is touched under the gate only, which is held exclusively.
        unsafe { &mut *self.link.get() }.refresh();
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
