// SPDX-License-Identifier: MIT OR Apache-2.0

//! Fuzz target: a table against its model.

#![no_main]

#[allow(dead_code, reason = "each target uses its share")]
#[path = "../../tests/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| common::bytes::table(bytes));
