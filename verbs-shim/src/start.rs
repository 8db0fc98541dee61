// SPDX-License-Identifier: MIT OR Apache-2.0

//! What has to be seen before the program changes it: which objects came with it.

use crate::symbols::each_object;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static OBJECTS: AtomicUsize = AtomicUsize::new(0);

/// Called by the loader, when all objects that come with the program are there and before it runs.
#[used]
// SAFETY: a function that the loader can call: what arguments it gets are not looked at.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = at_start;

extern "C" fn at_start() {
    let mut count = 0;
    each_object(|_| {
        count += 1;
        true
    });
    OBJECTS.store(count, Relaxed);
}

/// How many objects came with the program; 0 while that is not known. They are the first ones, and stay.
pub(crate) fn objects() -> usize {
    OBJECTS.load(Relaxed)
}
