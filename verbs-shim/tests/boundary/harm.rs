// SPDX-License-Identifier: MIT OR Apache-2.0

//! That the library does no harm to the program: its errors.

use crate::program::{ABLE, shimmed};

#[test]
fn a_pending_error_of_the_linker_stays_pending() {
    shimmed(&[ABLE], &["dlerror"]).has(&["length=64 access=0x41", "dlerror: /there/is/none"]);
}
