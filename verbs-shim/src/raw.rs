// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls by their numbers.

use core::{
    ffi::{c_int, c_void},
    ptr,
};

/// Waits until the word is no longer `value`, or for no reason.
pub(crate) fn wait_while(word: &core::sync::atomic::AtomicU32, value: u32) {
    let for_ever: *const c_void = ptr::null();
    // SAFETY: the word is valid for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            for_ever,
        )
    };
}

/// Wakes all who wait for the word.
pub(crate) fn wake_all(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: the word is valid for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            c_int::MAX,
        )
    };
}
