// SPDX-License-Identifier: MIT OR Apache-2.0

//! Fuzz target: a table against its model.

#![no_main]

use ib_emm_models::bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bytes::table(input));
