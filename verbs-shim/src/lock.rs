// SPDX-License-Identifier: MIT OR Apache-2.0

//! A mutual exclusion that a fork does not break.

use crate::sys::{self, Once};
use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

/// A value that one thread at a time can reach. Made for one static: see [`Lock::with`].
pub(crate) struct Lock<T> {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<T>,
    once: Once,
    /// What a child of a fork does to its copy of the value.
    in_child: fn(&mut T),
}

// SAFETY: `value` is reached under the mutex only, and a mutex is made to be shared.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The mutex that fork handlers take: the child gets a value that nobody was changing.
static FORKED: AtomicPtr<libc::pthread_mutex_t> = AtomicPtr::new(ptr::null_mut());
/// The lock that it is of, and the [`Lock::renew`] of its type.
static LOCK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static RENEW: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

// SAFETY: to be called with the lock of the type that it is of, whose mutex the caller holds.
type Renew = unsafe fn(*const ());

extern "C" fn register_handlers() {
    sys::around_fork(lock_forked, unlock_forked, renew_forked);
}

extern "C" fn renew_forked() {
    // SAFETY: stored before the handlers could be registered, and a function of this type.
    let renew: Renew = unsafe { core::mem::transmute(RENEW.load(Relaxed)) };
    // SAFETY: the two belong together, and the mutex was taken in `lock_forked`.
    unsafe { renew(LOCK.load(Relaxed)) };
    unlock_forked();
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
    /// Not taken. The child of a fork does `in_child` to the copy that it gets.
    pub(crate) const fn new(value: T, in_child: fn(&mut T)) -> Self {
        Self {
            mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
            value: UnsafeCell::new(value),
            once: Once::new(),
            in_child,
        }
    }

    /// # Safety
    ///
    /// `lock` is one of this type, in a static, and its mutex is held.
    unsafe fn renew(lock: *const ()) {
        // SAFETY: by this function's contract.
        let lock = unsafe { &*lock.cast::<Self>() };
        // SAFETY: the mutex is held, by this function's contract.
        (lock.in_child)(unsafe { &mut *lock.value.get() });
    }

    /// Does `f` with the value. `f` must not come back here.
    pub(crate) fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        let renew: Renew = Self::renew;
        LOCK.store(ptr::from_ref(self).cast_mut().cast(), Relaxed);
        RENEW.store(renew as *mut (), Relaxed);
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
