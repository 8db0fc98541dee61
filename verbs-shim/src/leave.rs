// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that end by `_exit`, as processes that other processes made often do: no exit handler runs there, so the counts are told here.

use crate::{environment, raw};
use core::ffi::c_int;

/// Hook of `_exit(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    environment::tell_counts();
    raw::exit(status)
}

/// Hook of `_Exit(3)`, which is the same.
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}
