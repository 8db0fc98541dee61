// SPDX-License-Identifier: GPL-2.0

//! What this module has in common with C: bindgen's view of `glue.h`, `include/emm.h` and
//! `include/emm_region.h`, with the kernel's own types as `kernel::bindings` has them. It is made
//! when the module is built (`Kbuild`), and asserts size, alignment and offsets of each structure.

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
