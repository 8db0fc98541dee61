// SPDX-License-Identifier: GPL-2.0

//! A value behind a spinlock that interrupts don't get at. The kernel crate has no such lock yet.
//!
//! C header: `glue.h`.

use crate::glue;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};
use kernel::{
    ffi,
    prelude::*,
    types::{NotThreadSafe, Opaque},
};

/// Which of the two locks of a parked access this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// That of the access itself.
    Outer,
    /// That of its owner, which is taken while the outer one is held, or by itself.
    Inner,
}

/// A `T` behind a spinlock.
///
/// # Invariants
///
/// `lock` is initialised.
#[pin_data]
pub(crate) struct Locked<T> {
    #[pin]
    lock: Opaque<glue::emm_lock>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock is no thread's own, and with it goes the `T`, which can.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: the lock hands out the `T` to one thread at a time.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// `data` behind a lock that nobody holds.
    pub(crate) fn new(data: T, level: Level) -> impl PinInit<Self> {
        // INVARIANT: `emm_lock_init` initialises it.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writing, and pinned: what is initialised stays there.
            lock <- Opaque::ffi_init(move |slot| unsafe {
                glue::emm_lock_init(slot, level == Level::Outer)
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes it, in any context, with interrupts off until the guard is dropped.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // SAFETY: the lock is initialised, by the type's invariant.
        let flags = unsafe { glue::emm_lock_irqsave(self.lock.get()) };
        // INVARIANT: the lock was taken by this thread.
        Guard {
            locked: self,
            flags,
            _not_send: NotThreadSafe,
        }
    }
}

/// The lock held. Nothing may sleep meanwhile.
///
/// # Invariants
///
/// Owns the lock, taken by this thread when interrupts were as `flags` says.
#[must_use = "the lock is given back when the guard is dropped"]
pub(crate) struct Guard<'a, T> {
    locked: &'a Locked<T>,
    flags: ffi::c_ulong,
    // The lock is given back by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held, by the type's invariant.
        unsafe { &*self.locked.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, by the type's invariant, and `&mut self` excludes this guard's
        // other borrows.
        unsafe { &mut *self.locked.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the lock is ours, by the type's invariant.
        unsafe { glue::emm_unlock_irqrestore(self.locked.lock.get(), self.flags) };
    }
}
