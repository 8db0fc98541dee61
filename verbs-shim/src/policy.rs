// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which registrations become on-demand ones.

use crate::log::say;
use core::{
    ffi::{CStr, c_int, c_void},
    ptr,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
};

/// `VERBS_SHIM`: what the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// On demand where that works, else pinned, with one warning that names the cause. Default.
    Auto,
    /// On demand, and the device's error where that does not work.
    Force,
    /// As the program asks.
    Off,
}

impl Mode {
    /// The mode named `value`; `None` if there is no such mode.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        match value {
            b"" | b"auto" => Some(Self::Auto),
            b"force" => Some(Self::Force),
            b"off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// Where a device's on-demand paging comes from, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// The device and its driver; its capabilities decide.
    Device,
    /// Soft-RoCE with ib_emm behind it.
    Emm,
    /// Soft-RoCE with the in-tree on-demand paging, which corrupts data: its copy ignores the
    /// offset inside a page and does not advance across pages (`__rxe_odp_mr_copy` of Linux 7.2
    /// and 7.3; `emm-check verify --mr odp` shows it).
    StockRxe,
}

/// What `/sys/module/rdma_rxe/parameters/mr_backend` and the device's kind say.
pub(crate) fn backing(is_rxe: bool, mr_backend: Option<&[u8]>) -> Backing {
    match (is_rxe, mr_backend) {
        (false, _) => Backing::Device,
        (true, Some(b"emm")) => Backing::Emm,
        (true, _) => Backing::StockRxe,
    }
}

/// What to do with one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Leave it alone.
    Keep,
    /// Make it on-demand; if that fails, register as the program asked.
    TryOnDemand,
    /// Make it on-demand; if that fails, say so to the program.
    OnDemand,
}

/// The choice for a device with this backing.
pub(crate) fn choose(mode: Mode, backing: Backing) -> Choice {
    match (mode, backing) {
        (Mode::Off, _) | (Mode::Auto, Backing::StockRxe) => Choice::Keep,
        (Mode::Auto, _) => Choice::TryOnDemand,
        (Mode::Force, _) => Choice::OnDemand,
    }
}

unsafe extern "C" {
    // What `atexit` calls; that one is in the static part of glibc, which nothing here links.
    fn __cxa_atexit(f: extern "C" fn(*mut c_void), arg: *mut c_void, dso: *mut c_void) -> c_int;
}

const UNREAD: u8 = 0;
static MODE: AtomicU8 = AtomicU8::new(UNREAD);
static WARNED: AtomicBool = AtomicBool::new(false);

/// Registrations and bytes, for `VERBS_SHIM_STATS`.
pub(crate) struct Counter {
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

    /// Counts one registration of `bytes` bytes.
    pub(crate) fn add(&self, bytes: usize) {
        self.mrs.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// Registrations made on demand by the shim.
pub(crate) static UNPINNED: Counter = Counter::new();
/// Registrations that stayed as the program asked.
pub(crate) static KEPT: Counter = Counter::new();

extern "C" fn print_stats(_: *mut c_void) {
    say(format_args!(
        "{} MRs on demand ({} bytes), {} as the program asked ({} bytes)",
        UNPINNED.mrs.load(Relaxed),
        UNPINNED.bytes.load(Relaxed),
        KEPT.mrs.load(Relaxed),
        KEPT.bytes.load(Relaxed),
    ));
}

fn env(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name ends with a zero byte.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returns a string of the environment, used before the program can change it.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// The mode, read from the environment once. Off in setuid programs.
pub(crate) fn mode() -> Mode {
    let known = match MODE.load(Relaxed) {
        1 => Some(Mode::Auto),
        2 => Some(Mode::Force),
        3 => Some(Mode::Off),
        _ => None,
    };
    known.unwrap_or_else(|| {
        let mode = read_mode();
        MODE.store(mode as u8 + 1, Relaxed);
        mode
    })
}

fn read_mode() -> Mode {
    // SAFETY: reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return Mode::Off;
    }
    if env(c"VERBS_SHIM_STATS").is_some_and(|v| v == b"1") {
        // SAFETY: the function is there as long as this library, which is never unloaded.
        unsafe { __cxa_atexit(print_stats, ptr::null_mut(), ptr::null_mut()) };
    }
    let value = env(c"VERBS_SHIM").unwrap_or_default();
    Mode::parse(value).unwrap_or_else(|| {
        say(format_args!(
            "VERBS_SHIM={} is not auto, force or off: using auto",
            core::str::from_utf8(value).unwrap_or("?")
        ));
        Mode::Auto
    })
}

/// Warns once in the life of the process.
pub(crate) fn warn_once(args: core::fmt::Arguments<'_>) {
    if !WARNED.swap(true, Relaxed) {
        say(args);
    }
}

/// The first bytes of a small file, without the end of the line.
pub(crate) fn read_file<'a>(path: &CStr, buffer: &'a mut [u8; 32]) -> Option<&'a [u8]> {
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: `fd` was opened above.
    unsafe { libc::close(fd) };
    let text = &buffer[..usize::try_from(got).ok()?];
    Some(text.strip_suffix(b"\n").unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(Mode::parse(b""), Some(Mode::Auto));
        assert_eq!(Mode::parse(b"auto"), Some(Mode::Auto));
        assert_eq!(Mode::parse(b"force"), Some(Mode::Force));
        assert_eq!(Mode::parse(b"off"), Some(Mode::Off));
        assert_eq!(Mode::parse(b"on"), None);
    }

    #[test]
    fn known_corruption_stays_pinned() {
        assert_eq!(backing(true, Some(b"emm")), Backing::Emm);
        assert_eq!(backing(true, Some(b"odp")), Backing::StockRxe);
        assert_eq!(backing(true, None), Backing::StockRxe);
        assert_eq!(backing(false, None), Backing::Device);
        assert_eq!(choose(Mode::Auto, Backing::StockRxe), Choice::Keep);
        assert_eq!(choose(Mode::Force, Backing::StockRxe), Choice::OnDemand);
        assert_eq!(choose(Mode::Auto, Backing::Emm), Choice::TryOnDemand);
        assert_eq!(choose(Mode::Auto, Backing::Device), Choice::TryOnDemand);
        assert_eq!(choose(Mode::Off, Backing::Emm), Choice::Keep);
    }

    #[test]
    fn small_files() {
        let mut buffer = [0; 32];
        assert!(read_file(c"/proc/version", &mut buffer).is_some_and(|v| v.starts_with(b"Linux")));
        assert_eq!(read_file(c"/does/not/exist", &mut buffer), None);
    }
}
