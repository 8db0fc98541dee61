// SPDX-License-Identifier: MIT OR Apache-2.0

#![doc = include_str!("../README.md")]
#![no_std]

pub mod known;
pub mod layout;
pub mod load;
