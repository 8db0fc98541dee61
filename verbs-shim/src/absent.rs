// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a hook answers if there is nobody to pass the call on to.

use crate::{abi::Mr, log, settings::Level, sys::set_errno};
use core::{
    ffi::CStr,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Null, with `errno` set: libibverbs is not loaded or lacks the function.
#[cold]
pub(crate) fn absent(name: &CStr) -> *mut Mr {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Relaxed) {
        log::say(
            Level::Warn,
            format_args!(
                "{0} was called, but no {1} that has it is loaded",
                name.to_str().unwrap_or("?"),
                match name.to_bytes() {
                    [b'm', ..] => "libmlx5.so.1",
                    _ => "libibverbs.so.1",
                }
            ),
        );
    }
    set_errno(libc::EOPNOTSUPP);
    ptr::null_mut()
}
