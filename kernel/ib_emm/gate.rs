// SPDX-License-Identifier: GPL-2.0

//! A value behind a reader-writer spinlock whose writers can sleep until woken.
//!
//! The kernel crate has no reader-writer spinlock. Copies hold this one shared, so that they run
//! in parallel; invalidations hold it exclusively and never sleep, whatever the VM's context.
//!
//! C header: `glue.h`.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};
use kernel::{bindings, prelude::*, types::Opaque};

/// `struct emm_gate`.
#[repr(C)]
struct Gate {
    lock: bindings::rwlock_t,
    waiters: bindings::wait_queue_head_t,
}

// SAFETY: the declarations are those of `glue.h`.
#[allow(improper_ctypes, reason = "bindgen's empty structs, behind pointers")]
unsafe extern "C" {
    fn emm_gate_init(gate: *mut Gate);
    fn emm_gate_read_lock(gate: *mut Gate);
    fn emm_gate_read_unlock(gate: *mut Gate);
    fn emm_gate_write_lock(gate: *mut Gate);
    fn emm_gate_write_unlock(gate: *mut Gate);
    fn emm_gate_wait(gate: *mut Gate) -> bool;
    fn emm_gate_wait_for(gate: *mut Gate, ns: u64) -> u64;
    fn emm_gate_wake(gate: *mut Gate);
}

/// A `T` behind a gate.
///
/// # Invariants
///
/// The gate is initialised before the first lock and not moved afterwards: [`Gated::init`].
pub(crate) struct Gated<T> {
    gate: Opaque<Gate>,
    data: UnsafeCell<T>,
}

// SAFETY: the gate hands out `&T` to several threads and `&mut T` to one, so `T` must allow both.
unsafe impl<T: Send + Sync> Sync for Gated<T> {}

impl<T> Gated<T> {
    /// A gate that still needs [`Self::init`].
    pub(crate) const fn new(data: T) -> Self {
        Self {
            gate: Opaque::uninit(),
            data: UnsafeCell::new(data),
        }
    }

    /// Makes the gate ready, at its final place.
    ///
    /// # Safety
    ///
    /// Called once, before any other method; the value is not moved afterwards.
    pub(crate) unsafe fn init(&self) {
        // SAFETY: the pointer is valid, and by this function's contract nobody uses it yet.
        unsafe { emm_gate_init(self.gate.get()) };
    }

    /// Takes it shared.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: the gate is initialised, by the type's invariant.
        unsafe { emm_gate_read_lock(self.gate.get()) };
        ReadGuard(self)
    }

    /// Takes it exclusively.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: the gate is initialised, by the type's invariant.
        unsafe { emm_gate_write_lock(self.gate.get()) };
        WriteGuard(self)
    }
}

/// The gate held shared. Must not be held over anything that sleeps.
pub(crate) struct ReadGuard<'a, T>(&'a Gated<T>);

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the gate is held shared, so nobody has a `&mut T`.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard stands for one read lock.
        unsafe { emm_gate_read_unlock(self.0.gate.get()) };
    }
}

/// The gate held exclusively. Must not be held over anything that sleeps.
pub(crate) struct WriteGuard<'a, T>(&'a Gated<T>);

impl<T> WriteGuard<'_, T> {
    /// Lets go, sleeps until the next [`Self::wake`] or a signal, and takes the gate again.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal is pending.
    pub(crate) fn wait(&mut self) -> Result {
        // SAFETY: the gate is held exclusively. `&mut self` ends every borrow of the data.
        if unsafe { emm_gate_wait(self.0.gate.get()) } {
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
        // SAFETY: as in `wait`.
        unsafe { emm_gate_wait_for(self.0.gate.get(), ns) }
    }

    /// Wakes all who wait.
    pub(crate) fn wake(&self) {
        // SAFETY: the gate is held exclusively.
        unsafe { emm_gate_wake(self.0.gate.get()) };
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the gate is held exclusively.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the gate is held exclusively.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard stands for the write lock.
        unsafe { emm_gate_write_unlock(self.0.gate.get()) };
    }
}
