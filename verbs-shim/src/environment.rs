// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the environment asks for, read at the first use. A bad value costs a line; the default serves.

use crate::{
    bytes, line, raw,
    settings::{
        Level, Mode, Settings, parse_level, parse_mode, parse_path, parse_prefetch, parse_switch,
    },
    start,
    stats::{self, Counts},
    sys::{self, Once},
};
use core::{
    cell::UnsafeCell,
    ffi::{CStr, c_void},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

struct Shared(UnsafeCell<Settings>);

// SAFETY: written by `read` only, which runs once and before `get` returns to anyone.
unsafe impl Sync for Shared {}

static ONCE: Once = Once::new();
static SETTINGS: Shared = Shared(UnsafeCell::new(Settings::new()));

/// The settings of this process.
pub(crate) fn get() -> &'static Settings {
    ONCE.run(read);
    // SAFETY: `read` is done, and nothing else writes.
    unsafe { &*SETTINGS.0.get() }
}

extern "C" fn read() {
    let before = sys::errno();
    // SAFETY: `Once` lets one thread in, and others wait for it in `get`.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    if sys::is_secure() {
        // Nobody's environment is to change it.
        settings.mode = Mode::Off;
    } else {
        take_all(settings);
    }
    if settings.stats {
        sys::at_fork(begin_to_count);
        sys::at_exit(print_stats);
        COUNTS.store(raw::process(), Relaxed);
    }
    sys::set_errno(before);
}

/// The process whose counts are to be told at its end; 0 if there is nothing to tell, or it was told.
static COUNTS: AtomicU32 = AtomicU32::new(0);

/// In the child of a fork.
extern "C" fn begin_to_count() {
    stats::start_anew();
    COUNTS.store(raw::process(), Relaxed);
}

/// At the exit of the process, of whatever kind.
extern "C" fn print_stats(_: *mut c_void) {
    tell_counts();
}

/// Says what was counted, if anything is to be said. It may be called in a signal's handler.
pub(crate) fn tell_counts() {
    // A child of vfork has its parent's memory, and nothing to tell.
    let own = raw::process();
    if COUNTS.compare_exchange(own, 0, Relaxed, Relaxed).is_err() {
        return;
    }
    let before = sys::errno();
    let settings = get();
    if settings.log != Level::Off && stats::to_tell() {
        line::write(settings, Level::Warn, format_args!("{Counts}"));
    }
    sys::set_errno(before);
}

/// Sets all fields that have a variable.
fn take_all(settings: &mut Settings) {
    // What is said of a bad value goes where the first two of these send it.
    take(
        settings,
        c"VERBS_SHIM_LOG",
        "off, warn, info or debug",
        parse_level,
        |s| &mut s.log,
    );
    take(
        settings,
        c"VERBS_SHIM_LOG_FILE",
        "a path of at most 1013 bytes, with the working directory",
        |value| parse_path(value, start::directory()),
        |s| &mut s.log_file,
    );
    take(
        settings,
        c"VERBS_SHIM",
        "auto, force or off",
        parse_mode,
        |s| &mut s.mode,
    );
    take(
        settings,
        c"VERBS_SHIM_IMPLICIT",
        "0 or 1",
        parse_switch,
        |s| &mut s.implicit,
    );
    take(settings, c"VERBS_SHIM_STATS", "0 or 1", parse_switch, |s| {
        &mut s.stats
    });
    take(
        settings,
        c"VERBS_SHIM_MIN_BYTES",
        "a number of bytes, as in 4096, 64K or 2M",
        bytes::parse,
        |s| &mut s.min_bytes,
    );
    take(
        settings,
        c"VERBS_SHIM_PREFETCH",
        "none, async or sync",
        parse_prefetch,
        |s| &mut s.prefetch,
    );
}

/// Sets one field from the variable `name`, or says that its value is none of `wanted`.
fn take<T>(
    settings: &mut Settings,
    name: &CStr,
    wanted: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
    field: impl Fn(&mut Settings) -> &mut T,
) {
    let Some(value) = variable(name) else { return };
    match parse(value) {
        Some(value) => *field(settings) = value,
        None => line::write(
            settings,
            Level::Warn,
            format_args!(
                "{}={} is not {wanted}: using the default",
                name.to_str().unwrap_or_default(),
                core::str::from_utf8(value).unwrap_or("(not text)")
            ),
        ),
    }
}

/// A variable that is set to something.
fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name ends with a zero byte.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returns a string of the environment, used before the program can change it.
    let value = unsafe { CStr::from_ptr(value) }.to_bytes();
    (!value.is_empty()).then_some(value)
}
