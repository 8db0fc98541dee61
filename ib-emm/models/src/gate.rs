// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region's state for one thread, which plays all others.

use super::HostNodes;
use ib_emm::emm::{Gate, Geometry, RegionState};
use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    pin::Pin,
    rc::Rc,
};

/// A state that is locked for one call at a time, and how often who waits for it was woken.
#[derive(Clone, Debug)]
pub struct HostGate(Rc<RefCell<RegionState<HostNodes>>>, Rc<Cell<u64>>);

impl HostGate {
    /// Nothing translated.
    #[must_use]
    pub fn new(geometry: Geometry, mem: HostNodes) -> Self {
        let state = RefCell::new(RegionState::new(geometry, mem));
        Self(Rc::new(state), Rc::default())
    }

    /// How often who waits was woken.
    #[must_use]
    pub fn woken(&self) -> u64 {
        self.1.get()
    }

    /// The state, held shared.
    #[must_use]
    pub fn read(&self) -> Ref<'_, RegionState<HostNodes>> {
        self.0.borrow()
    }

    /// Runs `change` on the state, held exclusively.
    pub fn write<R>(&self, change: impl FnOnce(Pin<&mut RegionState<HostNodes>>) -> R) -> R {
        change(Self::state(&mut self.lock()))
    }
}

// SAFETY: all guards are of the one cell, which has no other way in, and which refuses a second
// one while there is one.
unsafe impl Gate for HostGate {
    type Mem = HostNodes;
    type Guard<'g> = RefMut<'g, RegionState<HostNodes>>;

    fn lock(&self) -> Self::Guard<'_> {
        self.0.borrow_mut()
    }

    fn state<'s>(guard: &'s mut Self::Guard<'_>) -> Pin<&'s mut RegionState<HostNodes>> {
        // SAFETY: the cell stays in its `Rc`, and nothing here moves the state out of it.
        unsafe { Pin::new_unchecked(guard) }
    }

    fn wake(&self, _guard: &Self::Guard<'_>) {
        self.1.set(self.1.get() + 1);
    }
}
