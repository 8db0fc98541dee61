//! What measures: `bench` and `targets` of the set-up tool, and what both share.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
pub mod measure;
pub mod targets;
