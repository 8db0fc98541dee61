// SPDX-License-Identifier: MIT OR Apache-2.0

//! libc: `errno`, small files and handlers.

use crate::raw;
pub(crate) use crate::raw::errno;
use core::{
    ffi::{CStr, c_int, c_void},
    fmt, ptr,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

// Said here, since the crate `libc` says it only where nobody in the same build asks it for std. An audit
// library finds its symbols in what it names itself, and nowhere else.
#[link(name = "c")]
// SAFETY: the declarations are those of libc's headers.
unsafe extern "C" {
    // What `atexit` and `pthread_atfork` call. Those are in the static part of older glibcs.
    fn __cxa_atexit(f: extern "C" fn(*mut c_void), arg: *mut c_void, dso: *mut c_void) -> c_int;
    fn __register_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
        dso: *mut c_void,
    ) -> c_int;
}

/// A function that runs once in the life of the process.
///
/// `pthread_once` is this too, but before glibc 2.34 in a library that a program may not have loaded.
pub(crate) struct Once(AtomicU32);

/// [`Once`]: not run yet.
const NEW: u32 = 0;
/// [`Once`]: done. Between the two it holds the number of the process that runs the function.
const DONE: u32 = u32::MAX;

impl Once {
    /// Not run yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(NEW))
    }

    /// Runs `routine` if nobody has, and returns when it is done.
    pub(crate) fn run(&self, routine: extern "C" fn()) {
        if self.0.load(Acquire) != DONE {
            self.run_slowly(routine);
        }
    }

    #[cold]
    fn run_slowly(&self, routine: extern "C" fn()) {
        // SAFETY: takes nothing, and never fails.
        let own = unsafe { libc::getpid() } as u32;
        loop {
            let state = self.0.load(Acquire);
            if state == DONE {
                return;
            }
            if state == own {
                raw::wait_while(&self.0, own);
                continue;
            }
            // New, or left unfinished by a thread of the parent, which this process does not have.
            if self
                .0
                .compare_exchange(state, own, Acquire, Relaxed)
                .is_ok()
            {
                routine();
                self.0.store(DONE, Release);
                raw::wake_all(&self.0);
                return;
            }
        }
    }
}

/// Whether this is a setuid program, or another that its user's environment must not change.
pub(crate) fn is_secure() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Has `f` called at exit.
pub(crate) fn at_exit(f: extern "C" fn(*mut c_void)) {
    // SAFETY: `f` is there as long as this library, which is never unloaded.
    unsafe { __cxa_atexit(f, ptr::null_mut(), ptr::null_mut()) };
}

/// Has `child` called in every child that `fork` makes.
pub(crate) fn at_fork(child: extern "C" fn()) {
    // SAFETY: `child` is there as long as this library, which is never unloaded.
    unsafe { __register_atfork(None, None, Some(child), ptr::null_mut()) };
}

/// Sets this thread's `errno`.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: every thread has an errno, and this asks for its address only.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno, which no other thread touches.
    unsafe { *errno = value };
}

/// An error number with its name, where it is one that registrations end with.
pub(crate) struct Errno(pub(crate) c_int);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EINVAL => "EINVAL",
            libc::ENOSYS => "ENOSYS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            other => return write!(f, "errno {other}"),
        };
        write!(f, "errno {} ({name})", self.0)
    }
}

/// The first bytes of a small file, without the end of the line.
pub(crate) fn read_file<'a>(path: &CStr, buffer: &'a mut [u8; 32]) -> Option<&'a [u8]> {
    let file = raw::open(path, libc::O_RDONLY)?;
    let text = raw::read(&file, buffer)?;
    Some(text.strip_suffix(b"\n").unwrap_or(text))
}

/// Seconds of a clock that only goes forward, cheap and coarse.
pub(crate) fn seconds() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files() {
        let mut buffer = [0; 32];
        assert!(read_file(c"/proc/version", &mut buffer).is_some_and(|v| v.starts_with(b"Linux")));
        assert_eq!(read_file(c"/does/not/exist", &mut buffer), None);
    }

    #[test]
    fn once_is_once_for_all_threads() {
        static ONCE: Once = Once::new();
        static RUNS: AtomicU32 = AtomicU32::new(0);
        extern "C" fn slow() {
            std::thread::sleep(std::time::Duration::from_millis(20));
            RUNS.fetch_add(1, Relaxed);
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ONCE.run(slow);
                    assert_eq!(RUNS.load(Relaxed), 1);
                });
            }
        });
    }

    #[test]
    fn what_a_parents_thread_left_unfinished_is_done_anew() {
        // Of a process that is none.
        let once = Once(AtomicU32::new(u32::MAX - 1));
        extern "C" fn nothing() {}
        once.run(nothing);
        assert_eq!(once.0.load(Relaxed), DONE);
    }
}
