// SPDX-License-Identifier: MIT OR Apache-2.0

//! A mutual exclusion that a fork does not break.

use crate::sys::{self, Once};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

/// A value that one thread at a time can reach. Made for one static: see [`Lock::with`].
pub(crate) struct Lock<T> {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<T>,
    once: Once,
}

// SAFETY: `value` is reached under the mutex only, and a mutex is made to be shared.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The mutex that fork handlers take: the child gets a value that nobody was changing.
static FORKED: AtomicPtr<libc::pthread_mutex_t> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn register_handlers() {
    sys::around_fork(lock_forked, unlock_forked);
}

extern "C" fn lock_forked() {
    // SAFETY: the mutex of a static, which was stored before the handlers could be registered.
    unsafe { libc::pthread_mutex_lock(FORKED.load(Relaxed)) };
}

extern "C" fn unlock_forked() {
    // SAFETY: taken in `lock_forked` by this thread, or by the parent's that this one is a copy of.
    unsafe { libc::pthread_mutex_unlock(FORKED.load(Relaxed)) };
}

impl<T> Lock<T> {
    /// Not taken.
    pub(crate) const fn new(value: T) -> Self {
        Self {
            mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
            value: UnsafeCell::new(value),
            once: Once::new(),
        }
    }

    /// Does `f` with the value. `f` must not come back here.
    pub(crate) fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        FORKED.store(self.mutex.get(), Relaxed);
        self.once.run(register_handlers);
        // SAFETY: initialised, and never destroyed.
        unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
        // SAFETY: the mutex is held, and `f` does not come back.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: taken above, by this thread.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
        result
    }
}
