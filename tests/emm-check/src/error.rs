//! Why a verb or an operation did not succeed.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use crate::ffi;
use crate::system;

/// How long a completion may take before the operation counts as hung: 30 s, and four times as long on a kernel that checks
/// itself (its release ends in `-debug`). There the megabyte that eight queue pairs READ from swap beside each other takes more
/// than 30 s on an emulated CPU that another guest shares.
pub fn hang_limit() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let checks_itself = system::kernel().ends_with("-debug");
        Duration::from_secs(if checks_itself { 120 } else { 30 })
    })
}

/// What a verb that returns an errno (or -1 and errno) said.
pub fn errno_of(ret: i32) -> io::Error {
    if ret > 0 {
        io::Error::from_raw_os_error(ret)
    } else {
        io::Error::last_os_error()
    }
}

/// Why an operation did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// Posting it failed with this errno.
    Post(i32),
    /// It completed with this `ibv_wc_status`.
    Status(u32),
    /// No completion came within [`hang_limit`].
    Hang,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Post(e) => write!(f, "posting failed: {}", io::Error::from_raw_os_error(e)),
            Self::Status(status) => {
                // SAFETY: ibv_wc_status_str answers any number with a static string.
                let text = unsafe { ffi::ibv_wc_status_str(status) };
                // SAFETY: static and NUL-terminated.
                let text = unsafe { CStr::from_ptr(text) };
                write!(f, "completion: {}", text.to_string_lossy())
            }
            Self::Hang => write!(f, "no completion within {} s", hang_limit().as_secs()),
        }
    }
}

impl std::error::Error for OpError {}
