// SPDX-License-Identifier: MIT OR Apache-2.0

//! `libverbs_shim.so`: preloaded into an ibverbs program, it makes the program's memory regions
//! on-demand ones, so that their pages are not pinned. Nothing else in the program changes.
//!
//! - [`verbs`]: the hooked entry points and the real ones behind them.
//! - [`policy`]: which registrations are changed, from the environment and the device.
//! - [`log`]: the few lines it says.
//!
//! It runs inside other people's programs: no `std`, no thread, no allocation, `errno` kept.

#![cfg_attr(not(test), no_std)]

mod log;
mod policy;
mod verbs;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process; callable anywhere.
    unsafe { libc::abort() }
}
