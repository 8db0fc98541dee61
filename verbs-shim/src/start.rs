// SPDX-License-Identifier: MIT OR Apache-2.0

//! What has to be seen before the program changes it: what standard error is, where a relative path leads, and which objects came
//! with the program.

use crate::{
    raw,
    settings::PATH_MAX,
    symbols::each_object,
    sys::{self, Once},
};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

struct Seen {
    /// Device and inode of standard error; `None` if it was closed.
    errors: Option<(u64, u64)>,
    /// The working directory.
    directory: [u8; PATH_MAX],
    /// Its length; 0 if it can't be told.
    length: usize,
}

struct Shared(UnsafeCell<Seen>);

// SAFETY: written by `look` only, which runs once and before anyone gets to read.
unsafe impl Sync for Shared {}

static ONCE: Once = Once::new();
static SEEN: Shared = Shared(UnsafeCell::new(Seen {
    errors: None,
    directory: [0; PATH_MAX],
    length: 0,
}));
static OBJECTS: AtomicUsize = AtomicUsize::new(0);

/// Called by the loader, when all objects that come with the program are there and before it runs.
#[used]
// SAFETY: a function that the loader can call: what arguments it gets are not looked at.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = at_start;

extern "C" fn at_start() {
    let before = sys::errno();
    let mut count = 0;
    each_object(|_| {
        count += 1;
        true
    });
    OBJECTS.store(count, Relaxed);
    seen();
    sys::set_errno(before);
}

extern "C" fn look() {
    // SAFETY: `Once` lets one thread in, and others wait for it.
    let seen = unsafe { &mut *SEEN.0.get() };
    seen.errors = raw::stat(2).map(identity);
    seen.length = raw::working_directory(&mut seen.directory).unwrap_or(0);
}

fn seen() -> &'static Seen {
    ONCE.run(look);
    // SAFETY: `look` is done, and nothing else writes.
    unsafe { &*SEEN.0.get() }
}

fn identity(stat: libc::stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Standard error, if it is what it was: else a line could land in the data of the program.
pub(crate) fn standard_error() -> Option<libc::stat> {
    let then = seen().errors?;
    raw::stat(2).filter(|now| identity(*now) == then)
}

/// The working directory at the start; `None` if it could not be told.
pub(crate) fn directory() -> Option<&'static [u8]> {
    let seen = seen();
    (seen.length > 0).then(|| &seen.directory[..seen.length])
}

/// How many objects came with the program; 0 while that is not known. They are the first ones, and stay.
pub(crate) fn objects() -> usize {
    OBJECTS.load(Relaxed)
}
