// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counts of registrations, for `VERBS_SHIM_STATS`.

use crate::{
    log::{self, Level},
    policy::Why,
    settings, sys,
};
use core::{
    ffi::c_void,
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Registrations and their bytes.
struct Counter {
    mrs: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self {
            mrs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: usize) {
        self.mrs.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn clear(&self) {
        self.mrs.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
    }

    fn mrs(&self) -> u64 {
        self.mrs.load(Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// Made on demand by the shim.
static UNPINNED: Counter = Counter::new();
/// Asked for on demand by the program itself.
static ASKED: Counter = Counter::new();
/// As the program asked, by reason.
static KEPT: [Counter; Why::COUNT] = [const { Counter::new() }; Why::COUNT];
/// Whether this process is the child of a fork of one that counted.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Counts a region that the shim made an on-demand one.
pub(crate) fn unpinned(bytes: usize) {
    UNPINNED.add(bytes);
}

/// Counts a region that the program wanted on demand itself.
pub(crate) fn asked(bytes: usize) {
    ASKED.add(bytes);
}

/// Counts a region that is as the program asked.
pub(crate) fn kept(why: Why, bytes: usize) {
    KEPT[why as usize].add(bytes);
}

/// Has the counts printed when the process exits.
pub(crate) fn print_at_exit() {
    sys::at_fork(start_anew);
    sys::at_exit(print);
}

/// In the child of a fork: what its parent did is its parent's to tell.
extern "C" fn start_anew() {
    FORKED.store(true, Relaxed);
    for counter in [&UNPINNED, &ASKED].into_iter().chain(&KEPT) {
        counter.clear();
    }
}

extern "C" fn print(_: *mut c_void) {
    let before = sys::errno();
    let pinned = KEPT.iter().map(Counter::mrs).sum::<u64>();
    let idle = UNPINNED.mrs() + ASKED.mrs() + pinned == 0;
    if !(idle && FORKED.load(Relaxed)) && settings::get().log != Level::Off {
        log::say(
            Level::Warn,
            format_args!(
                "{} MRs on demand ({} bytes), {} on demand by themselves, {pinned} as the program \
                 asked ({} bytes){Reasons}",
                UNPINNED.mrs(),
                UNPINNED.bytes(),
                ASKED.mrs(),
                KEPT.iter().map(Counter::bytes).sum::<u64>(),
            ),
        );
    }
    sys::set_errno(before);
}

/// The reasons that were met, with their counts.
struct Reasons;

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = Why::ALL.iter().zip(&KEPT).filter(|(_, c)| c.mrs() > 0);
        for (at, (why, counter)) in met.enumerate() {
            let lead = if at == 0 { ": " } else { "; " };
            write!(
                f,
                "{lead}{} {} ({} bytes)",
                counter.mrs(),
                why.text(),
                counter.bytes()
            )?;
        }
        Ok(())
    }
}
