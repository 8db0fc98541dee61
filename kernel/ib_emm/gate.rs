// SPDX-License-Identifier: GPL-2.0

//! A value behind a reader-writer spinlock whose writers can sleep until woken.
//!
//! The kernel crate has no reader-writer spinlock. Copies hold this one shared, so that they run
//! in parallel; invalidations hold it exclusively and never sleep, whatever the VM's context.
//!
//! C header: `glue.h`.

use crate::{
    emm::{Gate, NodeMem, RegionState},
    glue,
};
use core::{cell::UnsafeCell, ops::Deref, pin::Pin};
use kernel::{
    prelude::*,
    types::{NotThreadSafe, Opaque},
};

/// A `T` behind a gate. The `T` is structurally pinned.
///
/// # Invariants
///
/// `gate` is initialised.
#[pin_data]
pub(crate) struct Gated<T> {
    #[pin]
    gate: Opaque<glue::emm_gate>,
    #[pin]
    data: UnsafeCell<T>,
}

// SAFETY: the gate itself is no thread's own, and with it goes the `T`, which can.
unsafe impl<T: Send> Send for Gated<T> {}
// SAFETY: the gate hands out `&T` to several threads and `&mut T` to one, so `T` must allow both.
unsafe impl<T: Send + Sync> Sync for Gated<T> {}

impl<T> Gated<T> {
    /// `data` behind a gate that nobody holds.
    pub(crate) fn new(data: T) -> impl PinInit<Self> {
        // INVARIANT: `emm_gate_init` initialises it.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writing, and pinned: what is initialised stays there.
            gate <- Opaque::ffi_init(|slot| unsafe { glue::emm_gate_init(slot) }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes it shared.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: the gate is initialised, by the type's invariant.
        unsafe { glue::emm_gate_read_lock(self.gate.get()) };
        // INVARIANT: the read lock was taken by this thread.
        ReadGuard {
            gated: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Wakes all who wait, in any context, without the lock: one who is about to sleep may miss it.
    pub(crate) fn nudge(&self) {
        // SAFETY: the gate is initialised, by the type's invariant.
        unsafe { glue::emm_gate_nudge(self.gate.get()) };
    }

    /// Takes it exclusively.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: the gate is initialised, by the type's invariant.
        unsafe { glue::emm_gate_write_lock(self.gate.get()) };
        // INVARIANT: the write lock was taken by this thread.
        WriteGuard {
            gated: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// The gate held shared. Must not be held over anything that sleeps.
///
/// # Invariants
///
/// Owns one read lock of the gate, taken by this thread.
#[must_use = "the gate opens again when the guard is dropped"]
pub(crate) struct ReadGuard<'a, T> {
    gated: &'a Gated<T>,
    // The lock is given back by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the gate is held shared, by the type's invariant, so nobody has a `&mut T`.
        unsafe { &*self.gated.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard owns one read lock, by the type's invariant.
        unsafe { glue::emm_gate_read_unlock(self.gated.gate.get()) };
    }
}

/// The gate held exclusively. Must not be held over anything that sleeps but [`Self::wait`].
///
/// # Invariants
///
/// Owns the write lock of the gate, taken by this thread.
#[must_use = "the gate opens again when the guard is dropped"]
pub(crate) struct WriteGuard<'a, T> {
    gated: &'a Gated<T>,
    // The lock is given back by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<T> WriteGuard<'_, T> {
    /// The data, to be changed in its place.
    pub(crate) fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: the gate is held exclusively, by the type's invariant, and `&mut self` excludes
        // this guard's other borrows.
        let data = unsafe { &mut *self.gated.data.get() };
        // SAFETY: the data is structurally pinned, and a `Gated` exists pinned only: `new` makes
        // no other.
        unsafe { Pin::new_unchecked(data) }
    }

    /// Lets go, sleeps until the next [`Self::wake`] or a signal, and takes the gate again.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal is pending.
    pub(crate) fn wait(&mut self) -> Result {
        // INVARIANT: the write lock is given back and taken again.
        // SAFETY: the gate is held exclusively, by the type's invariant. `&mut self` ends every
        // borrow of the data.
        if unsafe { glue::emm_gate_wait(self.gated.gate.get()) } {
            Ok(())
        } else {
            Err(EINTR)
        }
    }

    /// As [`Self::wait`], for at most `ns` nanoseconds and regardless of signals.
    ///
    /// # Returns
    ///
    /// What is left of `ns`.
    pub(crate) fn wait_for(&mut self, ns: u64) -> u64 {
        // INVARIANT: the write lock is given back and taken again.
        // SAFETY: as in `wait`.
        unsafe { glue::emm_gate_wait_for(self.gated.gate.get(), ns) }
    }

    /// Wakes all who wait.
    pub(crate) fn wake(&self) {
        // SAFETY: the gate is held exclusively, by the type's invariant.
        unsafe { glue::emm_gate_wake(self.gated.gate.get()) };
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the gate is held exclusively, by the type's invariant.
        unsafe { &*self.gated.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard owns the write lock, by the type's invariant.
        unsafe { glue::emm_gate_write_unlock(self.gated.gate.get()) };
    }
}

// SAFETY: all guards of a `Gated` lead to its one value, and there is no other way to it; the
// write lock excludes both other writers and readers.
unsafe impl<'a, M: NodeMem> Gate for &'a Gated<RegionState<M>> {
    type Mem = M;
    type Guard<'g>
        = WriteGuard<'a, RegionState<M>>
    where
        Self: 'g;

    fn lock(&self) -> WriteGuard<'a, RegionState<M>> {
        self.write()
    }

    fn state<'s>(guard: &'s mut WriteGuard<'a, RegionState<M>>) -> Pin<&'s mut RegionState<M>> {
        guard.as_mut()
    }

    fn wake(&self, guard: &WriteGuard<'a, RegionState<M>>) {
        guard.wake();
    }
}
