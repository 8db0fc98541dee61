// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory of one process in another, by `/dev/xpmem`, without pinning it.
//!
//! One process makes a [`Segment`] and tells its [`SegmentId`] to another, which gets a [`Permit`] and has an [`Attachment`]:
//!
//! ```no_run
//! use xpmem::{Access, Mode, Permit, Segment, SegmentId};
//!
//! # fn owner() -> Result<(), Box<dyn std::error::Error>> {
//! let segment = Segment::new(1 << 20, Mode::USER)?;
//! segment.write_at(0, b"hello");
//! println!("{}", segment.id());
//! # Ok(()) }
//! # fn other(line: &str) -> Result<(), Box<dyn std::error::Error>> {
//! // … in the other process:
//! let id: SegmentId = line.parse()?;
//! let attachment = Permit::get(id, Access::ReadWrite)?.attach(0, 1 << 20)?;
//! let mut word = [0; 5];
//! attachment.read_at(0, &mut word);
//! assert_eq!(&word, b"hello");
//! # Ok(()) }
//! ```
//!
//! # What the types promise
//!
//! Another process writes to this memory behind the compiler's back. So there is no `&[u8]` of it: it is copied from and to, or
//! reached by atomics. To make a segment of memory that is there already is `unsafe`: it must not be reached by references then.
//!
//! ```compile_fail,E0133
//! # fn f(memory: &mut [u8]) {
//! use std::ptr::NonNull;
//! use xpmem::{Mode, Segment};
//! let start = NonNull::from(&mut memory[0]);
//! Segment::of(start, memory.len(), Mode::USER).unwrap();
//! # }
//! ```
//!
//! An attachment keeps its permit; both end when they are dropped, in whatever order:
//!
//! ```no_run
//! # fn f(id: xpmem::SegmentId) -> Result<(), Box<dyn std::error::Error>> {
//! let permit = xpmem::Permit::get(id, xpmem::Access::ReadOnly)?;
//! let attachment = permit.attach(0, 4096)?;
//! drop(permit);
//! attachment.read_at(0, &mut [0; 4096]);
//! # Ok(()) }
//! ```
//!
//! # In C
//!
//! `libxpmem.so.0` has XPMEM's seven functions for programs that know them; [`raw`] has the same in Rust.

/// Its examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod abi;
mod attachment;
// The same as for memory that an HCA writes.
#[path = "../../verbs-shim/api/src/copy.rs"]
mod copy;
mod device;
mod error;
#[cfg(test)]
mod fake;
mod memory;
pub mod raw;
mod segment;
#[cfg(test)]
mod tests;

pub use attachment::{Access, Attachment, Permit};
pub use error::{AttachError, GetError, MakeError};
pub use segment::{Mode, Segment, SegmentId};
