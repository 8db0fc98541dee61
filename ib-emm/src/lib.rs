// SPDX-License-Identifier: MIT OR Apache-2.0

//! The decisions behind an unpinned RDMA memory region, as pure code.
//!
//! Everything lives in [`emm`], whose files are compiled twice: here, for host tests, and in
//! `ib_emm.ko`, which includes them by `#[path]`. They use `core` only; memory for the
//! translation table comes in through [`emm::NodeMem`].

#![no_std]

/// Its examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod emm;
