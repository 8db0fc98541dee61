// SPDX-License-Identifier: GPL-2.0

//! What this module has in common with C: bindgen's view of `glue.h` and of ib_emm's headers, made when
//! the module is built (`Kbuild`).

#![expect(
    dead_code,
    non_camel_case_types,
    non_upper_case_globals,
    improper_ctypes,
    unreachable_pub,
    reason = "generated; regions are opaque to C, and the kernel's empty structs are behind pointers"
)]

use kernel::{bindings::*, ffi};

include!("glue_generated.rs");
