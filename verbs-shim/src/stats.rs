// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counts of registrations, for `VERBS_SHIM_STATS`.

use crate::policy::Why;
use core::{
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

/// In the child of a fork: what its parent did is its parent's to tell.
pub(crate) extern "C" fn start_anew() {
    FORKED.store(true, Relaxed);
    for counter in [&UNPINNED, &ASKED].into_iter().chain(&KEPT) {
        counter.clear();
    }
}

/// Whether the counts are to be told: all are, but those of a forked child that did nothing.
pub(crate) fn to_tell() -> bool {
    let idle = UNPINNED.mrs() + ASKED.mrs() + pinned() == 0;
    !(idle && FORKED.load(Relaxed))
}

fn pinned() -> u64 {
    KEPT.iter().map(Counter::mrs).sum()
}

/// What was counted, for the user.
pub(crate) struct Counts;

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} MRs on demand ({} bytes), {} on demand by themselves, {} as the program asked \
             ({} bytes){Reasons}",
            UNPINNED.mrs(),
            UNPINNED.bytes(),
            ASKED.mrs(),
            pinned(),
            KEPT.iter().map(Counter::bytes).sum::<u64>(),
        )
    }
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
