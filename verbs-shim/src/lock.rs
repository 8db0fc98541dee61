// SPDX-License-Identifier: MIT OR Apache-2.0

//! A mutual exclusion that a fork does not break, and that no fork waits for.
//!
//! A handler that takes the mutex before each fork would take it before or behind the program's own locks, as their handlers happen to be
//! ordered: a thread that registers under one of those and a thread that forks would wait for each other. So nobody takes it. It lies
//! in a page that is zero in a child, which is unlocked, and says that the child has to put its copy of the value in order.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A value that one thread at a time can reach. Made for one static: see [`Lock::with`].
pub(crate) struct Lock<T> {
    words: AtomicPtr<Words>,
    value: UnsafeCell<T>,
    /// What a process does to the value before its first use. In the child of a fork a thread that it does not have may have been
    /// changing it.
    renew: fn(&mut T),
}

// SAFETY: `value` is reached under the mutex only, and a mutex is made to be shared.
unsafe impl<T: Send> Sync for Lock<T> {}

/// What is zero in a child.
struct Words {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    /// Whether the value is this process's; reached under the mutex.
    renewed: UnsafeCell<bool>,
}

/// Bytes of the page that they lie in.
const PAGE: usize = 4096;

// A mutex of zeros is one that is not taken.
const _: () = {
    // SAFETY: a mutex consists of bytes.
    let bytes: [u8; size_of::<libc::pthread_mutex_t>()] =
        unsafe { core::mem::transmute(libc::PTHREAD_MUTEX_INITIALIZER) };
    let mut at = 0;
    while at < bytes.len() {
        assert!(bytes[at] == 0);
        at += 1;
    }
};

impl<T> Lock<T> {
    /// Not taken. A process does `renew` to the value that it gets before it uses it.
    pub(crate) const fn new(value: T, renew: fn(&mut T)) -> Self {
        Self {
            words: AtomicPtr::new(ptr::null_mut()),
            value: UnsafeCell::new(value),
            renew,
        }
    }

    /// Whether anybody ever reached the value.
    pub(crate) fn was_used(&self) -> bool {
        !self.words.load(Relaxed).is_null()
    }

    /// Does `f` with the value; `None` if the kernel is older than 4.14 or has no memory. `f` must not come back here, and calls
    /// nothing of the program's or of libibverbs'.
    pub(crate) fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let words = self.words()?;
        // SAFETY: a mutex of zeros, or one in use; its page stays.
        unsafe { libc::pthread_mutex_lock(words.mutex.get()) };
        // SAFETY: the mutex is held.
        let renewed = unsafe { &mut *words.renewed.get() };
        // SAFETY: the mutex is held, and `f` does not come back.
        let value = unsafe { &mut *self.value.get() };
        if !*renewed {
            (self.renew)(value);
            *renewed = true;
        }
        let result = f(value);
        // SAFETY: taken above, by this thread.
        unsafe { libc::pthread_mutex_unlock(words.mutex.get()) };
        Some(result)
    }

    fn words(&self) -> Option<&'static Words> {
        let mut words = self.words.load(Acquire);
        if words.is_null() {
            words = self.make_words()?;
        }
        // SAFETY: the page was made for them, stays, and zeros are a value of theirs.
        Some(unsafe { &*words })
    }

    #[cold]
    fn make_words(&self) -> Option<*mut Words> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new page, wherever the kernel has room.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the page is this function's own.
        let wiped = unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } == 0;
        let words = page.cast::<Words>();
        let before = match wiped {
            true => self
                .words
                .compare_exchange(ptr::null_mut(), words, Release, Acquire),
            false => Err(ptr::null_mut()),
        };
        match before {
            Ok(_) => Some(words),
            Err(others) => {
                // SAFETY: nobody else knows the page.
                unsafe { libc::munmap(page.cast::<c_void>(), PAGE) };
                (!others.is_null()).then_some(others)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_finds_it_free_and_renews_its_copy() {
        static LOCK: Lock<u32> = Lock::new(0, |value| *value += 10);
        assert!(!LOCK.was_used());
        assert_eq!(LOCK.with(|value| *value), Some(10));
        // A fork while it is held, as another thread's would be.
        let status = LOCK.with(|value| {
            *value = 1;
            // SAFETY: the child calls nothing but what is below.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let right = LOCK.with(|value| *value) == Some(11);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(if right { 0 } else { 1 }) };
            }
            let mut status = -1;
            // SAFETY: the child made above, and room for its status.
            unsafe { libc::waitpid(child, &mut status, 0) };
            status
        });
        assert_eq!(status, Some(0));
        assert_eq!(LOCK.with(|value| *value), Some(1));
    }
}
