// SPDX-License-Identifier: MIT OR Apache-2.0

//! `libverbs_shim.so`: preloaded into an ibverbs program, it makes the program's memory regions
//! on-demand ones, so that their pages are not pinned. Nothing else in the program changes.
//!
//! - [`hooks`], [`ends`]: the entry points of libibverbs that are replaced. [`devx`]: those of mlx5's provider.
//! - [`leave`]: the ends of processes that run no exit handler.
//! - [`audit`]: the same for programs that ask libibverbs' handle for them.
//! - [`real`], [`symbols`]: the functions behind the hooks. [`maker`]: of which copy of a library. [`outermost`]: calls within calls.
//! - [`register`]: the way of one registration through the shim.
//! - [`policy`]: which registrations become on-demand ones; pure. [`verbs_abi::known`]: whom not to trust.
//! - [`settings`]: what can be asked for. [`environment`]: what is. [`start`]: what the program may change later.
//! - [`device`]: what a device can do. [`stats`], [`log`], [`mod@line`]: what is said.
//! - [`implicit`]: one region for all of a domain. [`arena`], [`lock`]: what it needs.
//! - [`prefetch`]: pages asked for ahead of traffic. [`mappings`]: what memory is.
//! - [`verbs_abi::layout`]: the layouts of libibverbs. [`sys`], [`raw`]: libc and the kernel.
//!
//! It runs inside other people's programs: no `std`, no thread, no allocation, `errno` and `dlerror()` kept, no signal, no
//! cancellation point, no lock that a fork waits for.

#![cfg_attr(not(test), no_std)]

mod absent;
mod arena;
mod audit;
mod bytes;
mod device;
mod devx;
mod ends;
mod environment;
mod hooks;
mod implicit;
#[cfg(not(test))]
mod leave;
mod line;
mod lock;
mod log;
mod maker;
mod mappings;
mod outermost;
mod policy;
mod prefetch;
mod raw;
mod real;
mod register;
mod settings;
mod start;
mod stats;
mod symbols;
mod sys;

use verbs_abi::{known, layout as abi};

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort takes nothing and does not return, whatever state the process is in.
    unsafe { libc::abort() }
}
