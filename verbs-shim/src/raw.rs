// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls by their numbers.
//!
//! libc's `open`, `read`, `write`, `close` and `poll` are cancellation points: a thread of the program that is to be cancelled would end in
//! the middle of a registration, which is none. `syscall` is not, and its only symbol version is glibc's first.

use core::{
    ffi::{CStr, c_int, c_long, c_void},
    ptr,
};

/// A descriptor, closed when it is dropped.
pub(crate) struct Fd(c_int);

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and used by nobody else.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

impl Fd {
    /// Its number.
    pub(crate) fn number(&self) -> c_int {
        self.0
    }
}

/// `open(2)`; new files get mode 0644.
pub(crate) fn open(path: &CStr, flags: c_int) -> Option<Fd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            0o644,
        )
    };
    c_int::try_from(fd).ok().filter(|fd| *fd >= 0).map(Fd)
}

/// `read(2)`, once.
pub(crate) fn read<'a>(fd: &Fd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::syscall(libc::SYS_read, fd.0, buffer.as_mut_ptr(), buffer.len()) };
    buffer.get(..usize::try_from(got).ok()?)
}

/// `write(2)`, once: whether it took something.
pub(crate) fn write(fd: c_int, bytes: &[u8]) -> bool {
    // SAFETY: the bytes are valid for their length.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) >= 0 }
}

/// A write that does not wait: whether the kernel can do that with this descriptor. What there is no room for is lost.
pub(crate) fn write_now(fd: c_int, bytes: &[u8]) -> bool {
    let part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(),
        iov_len: bytes.len(),
    };
    // From where the descriptor is, as `write` does.
    let here: c_long = -1;
    // SAFETY: one part, whose bytes are valid for their length and are only read.
    let wrote = unsafe {
        libc::syscall(
            libc::SYS_pwritev2,
            fd,
            &raw const part,
            1 as c_long,
            here,
            here,
            libc::RWF_NOWAIT,
        )
    };
    wrote >= 0 || !matches!(errno(), libc::EOPNOTSUPP | libc::ENOSYS)
}

/// A write to a socket that neither waits nor raises SIGPIPE.
pub(crate) fn send_now(fd: c_int, bytes: &[u8]) {
    let nobody: *const c_void = ptr::null();
    // SAFETY: the bytes are valid for their length, and there is no address.
    unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd,
            bytes.as_ptr(),
            bytes.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            nobody,
            0 as c_long,
        )
    };
}

/// Whether a write would find room now.
pub(crate) fn has_room(fd: c_int) -> bool {
    let mut asked = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let no_mask: *const c_void = ptr::null();
    // SAFETY: one descriptor, a time and no mask, all valid for the call.
    let ready = unsafe {
        libc::syscall(
            libc::SYS_ppoll,
            &raw mut asked,
            1 as c_long,
            &raw const now,
            no_mask,
            8 as c_long,
        )
    };
    ready == 1 && asked.revents & libc::POLLOUT != 0
}

/// `fstat(2)`; `None` if the descriptor is closed.
pub(crate) fn stat(fd: c_int) -> Option<libc::stat> {
    // SAFETY: all bytes zero is a value of this type.
    let mut found: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `found` is valid for writing, and on 64-bit machines it is what the kernel writes.
    let status = unsafe { libc::syscall(libc::SYS_fstat, fd, &raw mut found) };
    (status == 0).then_some(found)
}

/// Whether there is a file of this path.
pub(crate) fn exists(path: &CStr) -> bool {
    // SAFETY: the path ends with a zero byte.
    unsafe {
        libc::syscall(
            libc::SYS_faccessat,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::F_OK,
        ) == 0
    }
}

/// `exit_group(2)`: ends the process at once.
#[cfg(not(test))]
pub(crate) fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: takes a number, and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// The number of this process.
pub(crate) fn process() -> u32 {
    // SAFETY: takes nothing, and never fails.
    unsafe { libc::syscall(libc::SYS_getpid) as u32 }
}

/// Bytes of a page.
pub(crate) fn page_size() -> usize {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

/// `mincore(2)`: of each page from `start` on, whether it is there. False if that can't be told.
pub(crate) fn present(start: usize, length: usize, pages: &mut [u8]) -> bool {
    // SAFETY: there is a byte for each page, and the memory itself is not touched.
    unsafe { libc::syscall(libc::SYS_mincore, start, length, pages.as_mut_ptr()) == 0 }
}

/// `MADV_WILLNEED`: the kernel begins to read what is not in memory, and fills no hole.
pub(crate) fn will_need(start: usize, length: usize) {
    // SAFETY: advice that changes nothing in memory.
    unsafe { libc::syscall(libc::SYS_madvise, start, length, libc::MADV_WILLNEED) };
}

/// `MADV_POPULATE_READ`: 0, or an error number.
pub(crate) fn populate(start: usize, length: usize) -> c_int {
    /// Since Linux 5.14.
    const MADV_POPULATE_READ: c_int = 22;
    // SAFETY: advice that changes nothing in memory.
    match unsafe { libc::syscall(libc::SYS_madvise, start, length, MADV_POPULATE_READ) } {
        0 => 0,
        _ => errno(),
    }
}

/// Whether the process has a descriptor that leads to `target`; not if that can't be told.
pub(crate) fn has_descriptor_of(target: &[u8]) -> bool {
    /// Where the length of an entry stands in it, and where its name begins (`struct linux_dirent64`).
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let Some(all) = open(c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY) else {
        return false;
    };
    let mut buffer = [0_u8; 2048];
    loop {
        // SAFETY: the buffer is valid for its length.
        let got = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                all.number(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let mut entries = match usize::try_from(got) {
            Ok(got) if got > 0 => &buffer[..got],
            _ => return false,
        };
        while let [_, ..] = entries {
            let length = entries.get(LENGTH..LENGTH + 2).map_or(0, |bytes| {
                usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
            });
            let Some(name) = entries.get(NAME..length) else {
                return false;
            };
            if leads_to(&all, name, target) {
                return true;
            }
            entries = &entries[length..];
        }
    }
}

/// Whether the link `name`, which ends with a zero byte, in the folder leads to `target`.
fn leads_to(folder: &Fd, name: &[u8], target: &[u8]) -> bool {
    let Ok(name) = CStr::from_bytes_until_nul(name) else {
        return false;
    };
    let mut buffer = [0_u8; 64];
    // SAFETY: the name ends with a zero byte, and the buffer is valid for its length.
    let got = unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            folder.number(),
            name.as_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(got).is_ok_and(|got| buffer.get(..got) == Some(target))
}

/// The working directory, without its zero byte; `None` if it does not fit or can't be told.
pub(crate) fn working_directory(buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    let length = usize::try_from(got).ok()?.checked_sub(1)?;
    // One that is out of reach begins with "(unreachable)".
    (buffer.first() == Some(&b'/')).then_some(length)
}

/// Signals that a write can raise in the thread that writes: a pipe without a reader, a file that is too long, a terminal that
/// background jobs must not write to. They are kept from the program while this lives.
pub(crate) struct Unsignalled {
    before: u64,
    pending: u64,
}

/// Their set, as the kernel has it.
const OF_WRITES: u64 =
    1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGXFSZ - 1) | 1 << (libc::SIGTTOU - 1);
/// Bytes of such a set.
const SET: c_long = 8;

impl Unsignalled {
    /// Blocks them in this thread.
    pub(crate) fn begin() -> Self {
        let mut this = Self {
            before: 0,
            pending: 0,
        };
        // SAFETY: both sets are valid, and have the size that is given.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_BLOCK,
                &raw const OF_WRITES_PLACE,
                &raw mut this.before,
                SET,
            )
        };
        // SAFETY: the set is valid, and has the size that is given.
        unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut this.pending, SET) };
        this
    }
}

/// Somewhere to point to.
static OF_WRITES_PLACE: u64 = OF_WRITES;

impl Drop for Unsignalled {
    fn drop(&mut self) {
        // What was pending before is the program's. A terminal sends nothing to who blocks it.
        let ours = OF_WRITES & !self.pending & !(1 << (libc::SIGTTOU - 1));
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let no_info: *mut c_void = ptr::null_mut();
        // SAFETY: a set of the size that is given, no place for more about the signal, and a time.
        let take = || unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const ours,
                no_info,
                &raw const now,
                SET,
            )
        };
        while ours != 0 && take() > 0 {}
        let nothing: *mut c_void = ptr::null_mut();
        // SAFETY: the set that was there before, of the size that is given.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.before,
                nothing,
                SET,
            )
        };
    }
}

/// Keeps this thread from being cancelled while it lives.
pub(crate) struct Uncancelled(c_int);

unsafe extern "C" {
    /// `pthread_setcancelstate(3)`
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc.
const DISABLE: c_int = 1;

impl Uncancelled {
    /// Of this thread.
    pub(crate) fn begin() -> Self {
        let mut before = 0;
        // SAFETY: `before` is valid for writing.
        unsafe { pthread_setcancelstate(DISABLE, &mut before) };
        Self(before)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: a state that was this thread's.
        unsafe { pthread_setcancelstate(self.0, ptr::null_mut()) };
    }
}

/// Waits until the word is no longer `value`, or for no reason.
pub(crate) fn wait_while(word: &core::sync::atomic::AtomicU32, value: u32) {
    let for_ever: *const c_void = ptr::null();
    // SAFETY: the word is valid for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            for_ever,
        )
    };
}

/// Wakes all who wait for the word.
pub(crate) fn wake_all(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: the word is valid for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            c_int::MAX,
        )
    };
}

/// This thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: every thread has an errno, and this asks for its address only.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno, which no other thread touches.
    unsafe { *errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_without_a_reader_kills_nobody() {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: a number only. Rust's runtime ignores the signal; here it would kill.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // SAFETY: the pipe's reading end.
        unsafe { libc::close(ends[0]) };
        let quiet = Unsignalled::begin();
        assert!(!write(ends[1], b"x"));
        assert_eq!(errno(), libc::EPIPE);
        drop(quiet);
        // SAFETY: the other end.
        unsafe { libc::close(ends[1]) };
    }

    #[test]
    fn room_and_directories() {
        let null = open(c"/dev/null", libc::O_WRONLY).expect("it is there");
        assert!(has_room(null.number()));
        assert!(!has_room(-1));
        let mut buffer = [0; 512];
        assert!(working_directory(&mut buffer).is_some_and(|length| length > 1));
        assert_eq!(working_directory(&mut [0; 1]), None);
        assert!(exists(c"/proc/self/status") && !exists(c"/does/not/exist"));
    }
}
