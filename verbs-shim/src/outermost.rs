// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls within calls: which hook of a thread came first.

use crate::sys::Once;
use core::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Held by the outermost hook that a thread is in.
///
/// libibverbs reaches `ibv_reg_mr_iova2` through its own PLT, so that one registration can come by
/// twice. What the outer hook has decided must not be decided again.
pub(crate) struct Outermost(libc::pthread_key_t);

/// The key, plus one; zero if there is none.
static KEY: AtomicU32 = AtomicU32::new(0);
static KEY_ONCE: Once = Once::new();

extern "C" fn make_key() {
    let mut key = 0;
    // SAFETY: `key` is valid for writing; the values need no destructor.
    if unsafe { libc::pthread_key_create(&mut key, None) } == 0 {
        KEY.store(key + 1, Relaxed);
    }
}

impl Outermost {
    /// `None` if this thread is in a hook already, or if that can't be told.
    pub(crate) fn enter() -> Option<Self> {
        KEY_ONCE.run(make_key);
        let key = KEY.load(Relaxed).checked_sub(1)?;
        // SAFETY: the key was made above and is never deleted.
        if !unsafe { libc::pthread_getspecific(key) }.is_null() {
            return None;
        }
        let mark: *const c_void = (&raw const KEY).cast();
        // SAFETY: the key was made above; the value is a mark that nobody follows.
        let set = unsafe { libc::pthread_setspecific(key, mark) } == 0;
        // Lazily: one that is dropped takes the mark away.
        set.then(|| Self(key))
    }
}

impl Drop for Outermost {
    fn drop(&mut self) {
        // SAFETY: `enter` used the same key.
        unsafe { libc::pthread_setspecific(self.0, ptr::null()) };
    }
}
