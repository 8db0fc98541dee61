// SPDX-License-Identifier: MIT OR Apache-2.0

//! libc: `errno`, small files, handlers, and the functions of libibverbs behind the hooks.

use core::{
    ffi::{CStr, c_int, c_void},
    fmt, ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
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
    fn pthread_once(control: *mut libc::pthread_once_t, routine: extern "C" fn()) -> c_int;
}

/// A function that runs once in the life of the process.
pub(crate) struct Once(core::cell::UnsafeCell<libc::pthread_once_t>);

// SAFETY: pthread_once is made to be called by several threads with one control.
unsafe impl Sync for Once {}

impl Once {
    /// Not run yet.
    pub(crate) const fn new() -> Self {
        Self(core::cell::UnsafeCell::new(0))
    }

    /// Runs `routine` if nobody has, and returns when it is done.
    pub(crate) fn run(&self, routine: extern "C" fn()) {
        // SAFETY: the control is initialised, and nothing else touches it.
        unsafe { pthread_once(self.0.get(), routine) };
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

/// Has `before` called before each `fork`, and behind it `parent` and `child` in the parent and in the child.
pub(crate) fn around_fork(
    before: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) {
    // SAFETY: all are there as long as this library, which is never unloaded.
    unsafe { __register_atfork(Some(before), Some(parent), Some(child), ptr::null_mut()) };
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

/// This thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: every thread has an errno, and this asks for its address only.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno, which no other thread touches.
    unsafe { *errno }
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

/// A function of libibverbs, looked up at its first use.
pub(crate) struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    /// The function of this name.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address; null if libibverbs is not loaded or lacks it.
    pub(crate) fn get(&self) -> *mut c_void {
        let known = self.address.load(Relaxed);
        if !known.is_null() {
            return known;
        }
        let found = self.look_up();
        self.address.store(found, Relaxed);
        found
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // Its address is kept, so libibverbs has to stay, even if the program closes it.
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: the name ends with a zero byte, and nothing is loaded that was not there.
        let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), flags) };
        // SAFETY: the name ends with a zero byte.
        let next = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if !next.is_null() {
            return next;
        }
        let library = if library.is_null() {
            let Some(path) = renamed() else { return next };
            // SAFETY: as above.
            unsafe { libc::dlopen(path.as_ptr().cast(), flags) }
        } else {
            library
        };
        if library.is_null() {
            return next;
        }
        // Python and others load libibverbs locally: it is behind nobody then.
        // SAFETY: a valid handle, and a name that ends with a zero byte.
        unsafe { libc::dlsym(library, self.name.as_ptr()) }
    }
}

/// The path of a libibverbs with another name, which ends with a zero byte: Python wheels bring copies with a hash in it
/// (`libibverbs-1de1263b.so.1.14`).
fn renamed() -> Option<[u8; 512]> {
    /// # Safety
    ///
    /// Called by `dl_iterate_phdr`: `info` is the linker's, and `found` the place for the path that was passed to it.
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: by this function's contract.
        let path = unsafe { (*info).dlpi_name };
        // SAFETY: its names end with a zero byte.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes_with_nul();
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        // SAFETY: by this function's contract.
        let found = unsafe { &mut *found.cast::<[u8; 512]>() };
        if !name.starts_with(b"libibverbs-") || path.len() > found.len() {
            return 0;
        }
        found[..path.len()].copy_from_slice(path);
        1
    }
    let mut found = [0; 512];
    // SAFETY: `look` gets a place for the path that outlives the call.
    let any = unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    (any != 0).then_some(found)
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
    // SAFETY: `fd` was opened above and is used by nobody else.
    unsafe { libc::close(fd) };
    let text = &buffer[..usize::try_from(got).ok()?];
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
}
