//! Sets up a kernel, its modules and a guest with Soft-RoCE and memory regions that are not pinned.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod artifacts;
pub mod build;
pub mod cache;
pub mod context;
pub mod demo;
pub mod enter;
pub mod exit;
pub mod guest;
pub mod host;
pub mod proc;
pub mod side_by_side;
pub mod signal;
pub mod status;
pub mod ui;
