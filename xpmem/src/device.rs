// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one descriptor of the device that a process has, opened when it is first needed and again after a fork.
//!
//! A forked process inherits the descriptor, but the device knows it as its parent's and says [`NOPROC`]. Then the file behind the
//! descriptor is replaced: its number stays, so that threads that have it in hand meet the new file, and nothing is left open.
//! A descriptor that somebody closed is opened anew under another number: the old one may be another file's by now.
//!
//! Threads that find this out at once take turns, by a word that names the process that is at it; a forked process takes no notice of
//! the word of a parent's thread that it has no copy of. No lock, and no handler of fork: both would be more than a program asked for.

use std::ffi::{c_int, c_ulong, c_void};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

use crate::abi::{DEVICE, NOPROC};

/// What the system does for a device; errors are errno values.
pub(crate) trait System {
    /// Opens the device, for this process alone and not over exec.
    fn open(&self) -> Result<c_int, c_int>;
    /// # Safety
    ///
    /// `argument` is what `request` takes.
    unsafe fn ioctl(
        &self,
        fd: c_int,
        request: c_ulong,
        argument: *mut c_void,
    ) -> Result<c_int, c_int>;
    /// Makes the descriptor `old` name the file of `new`, in one step.
    fn replace(&self, new: c_int, old: c_int) -> Result<(), c_int>;
    /// Closes a descriptor.
    fn close(&self, fd: c_int);
    /// This process.
    fn process(&self) -> u32;
    /// Lets other threads go on.
    fn pause(&self);
}

/// A process's descriptor.
pub(crate) struct Device<S> {
    /// Which it is, and who is opening it: see [`State`].
    state: AtomicU64,
    system: S,
}

/// What the word of a [`Device`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The descriptor, or -1.
    fd: c_int,
    /// The process of which a thread is opening it, or 0.
    busy: u32,
}

impl State {
    const NONE: Self = Self { fd: -1, busy: 0 };

    const fn pack(self) -> u64 {
        (self.busy as u64) << 32 | self.fd as u32 as u64
    }

    fn unpack(word: u64) -> Self {
        Self {
            fd: word as u32 as c_int,
            busy: (word >> 32) as u32,
        }
    }
}

impl<S: System> Device<S> {
    pub(crate) const fn new(system: S) -> Self {
        Self {
            state: AtomicU64::new(State::NONE.pack()),
            system,
        }
    }

    fn state(&self) -> State {
        State::unpack(self.state.load(Acquire))
    }

    /// One call of the device. Returns what `ioctl` does, or its errno; or the errno of opening it.
    ///
    /// # Safety
    ///
    /// `argument` is what `request` takes, and may be read and written twice.
    pub(crate) unsafe fn call(
        &self,
        request: c_ulong,
        argument: *mut c_void,
    ) -> Result<c_int, c_int> {
        // SAFETY: as the caller promises. Without a descriptor it is -1, of which the system knows nothing.
        match unsafe { self.system.ioctl(self.state().fd, request, argument) } {
            // SAFETY: as the caller promises; the device did nothing.
            Err(errno) if stale(errno) => unsafe { self.renewed(request, argument) },
            answer => answer,
        }
    }

    /// The same, with a descriptor that is this process's.
    ///
    /// # Safety
    ///
    /// As for [`Self::call`].
    #[cold]
    unsafe fn renewed(&self, request: c_ulong, argument: *mut c_void) -> Result<c_int, c_int> {
        let turn = Turn::take(self);
        let fd = turn.fd;
        // Another thread may have had its turn meanwhile.
        // SAFETY: as the caller promises.
        let why = match unsafe { self.system.ioctl(fd, request, argument) } {
            Err(errno) if stale(errno) => errno,
            answer => return answer,
        };
        let new = self.system.open()?;
        // SAFETY: as the caller promises; the device did nothing so far.
        let answer = unsafe { self.system.ioctl(new, request, argument) };
        if why == NOPROC {
            // It is the device's for certain, and so its number may be used.
            let replaced = self.system.replace(new, fd);
            self.system.close(new);
            replaced.and(answer)
        } else if answer.is_err_and(stale) {
            // It was not for the descriptor: this device does not have the call.
            self.system.close(new);
            answer
        } else {
            turn.end(new);
            answer
        }
    }
}

/// Whether an errno may be due to the descriptor: it is the parent's, was closed, or is another file's.
fn stale(errno: c_int) -> bool {
    matches!(errno, NOPROC | libc::EBADF | libc::ENOTTY)
}

/// The right to change the descriptor; one thread of a process has it.
struct Turn<'a, S: System> {
    device: &'a Device<S>,
    /// The descriptor as it is.
    fd: c_int,
}

impl<'a, S: System> Turn<'a, S> {
    fn take(device: &'a Device<S>) -> Self {
        let me = device.system.process();
        loop {
            let now = device.state();
            if now.busy != me {
                let mine = State { busy: me, ..now };
                let taken = device
                    .state
                    .compare_exchange(now.pack(), mine.pack(), AcqRel, Acquire);
                if taken.is_ok() {
                    return Self { device, fd: now.fd };
                }
            }
            device.system.pause();
        }
    }

    /// Ends it, with another descriptor.
    fn end(mut self, fd: c_int) {
        self.fd = fd;
    }
}

impl<S: System> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        let state = State {
            fd: self.fd,
            busy: 0,
        };
        self.device.state.store(state.pack(), Release);
    }
}

/// Linux, by system calls alone: no cancellation point is among them, so that a thread never ends in its turn.
pub(crate) struct Linux;

fn answer(returned: libc::c_long) -> Result<c_int, c_int> {
    match returned {
        -1 => Err(errno()),
        value => Ok(value as c_int),
    }
}

/// The last call's errno.
fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

impl System for Linux {
    fn open(&self) -> Result<c_int, c_int> {
        const FLAGS: c_int = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: a C string and numbers.
        let fd = answer(unsafe {
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, DEVICE.as_ptr(), FLAGS)
        })?;
        if fd > libc::STDERR_FILENO {
            return Ok(fd);
        }
        // A program that closed its standard output would write to the device.
        // SAFETY: numbers only.
        let above = answer(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 3) });
        self.close(fd);
        above
    }

    unsafe fn ioctl(
        &self,
        fd: c_int,
        request: c_ulong,
        argument: *mut c_void,
    ) -> Result<c_int, c_int> {
        // SAFETY: as the caller promises.
        answer(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) })
    }

    fn replace(&self, new: c_int, old: c_int) -> Result<(), c_int> {
        // SAFETY: numbers only; both descriptors are ours.
        answer(unsafe { libc::syscall(libc::SYS_dup3, new, old, libc::O_CLOEXEC) }).map(drop)
    }

    fn close(&self, fd: c_int) {
        // SAFETY: numbers only; the descriptor is ours.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn pause(&self) {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Files;
    use std::ptr::null_mut;

    const REQUEST: c_ulong = crate::abi::VERSION;

    fn call(device: &Device<&Files>) -> Result<c_int, c_int> {
        // SAFETY: the request takes no argument.
        unsafe { device.call(REQUEST, null_mut()) }
    }

    #[test]
    fn it_is_opened_once() {
        let files = Files::new();
        let device = Device::new(&files);
        assert_eq!(call(&device), Ok(0x26005));
        assert_eq!(call(&device), Ok(0x26005));
        assert_eq!((files.opened(), files.open_now()), (1, 1));
    }

    #[test]
    fn a_missing_device_is_told_and_tried_again() {
        let files = Files::new();
        files.refuse(libc::ENOENT);
        let device = Device::new(&files);
        assert_eq!(call(&device), Err(libc::ENOENT));
        files.refuse(0);
        assert_eq!(call(&device), Ok(0x26005));
    }

    #[test]
    fn a_forked_process_replaces_the_file_under_the_same_number() {
        let files = Files::new();
        let device = Device::new(&files);
        call(&device).unwrap();
        let fd = device.state().fd;
        for child in 2..5 {
            files.fork(child);
            assert_eq!(call(&device), Ok(0x26005));
            assert_eq!(device.state(), State { fd, busy: 0 });
            assert_eq!(files.open_now(), 1);
        }
        assert_eq!(files.opened(), 4);
    }

    #[test]
    fn a_turn_of_the_parents_holds_up_nobody() {
        let files = Files::new();
        let device = Device::new(&files);
        call(&device).unwrap();
        let turn = Turn::take(&device);
        files.fork(2);
        assert_eq!(call(&device), Ok(0x26005));
        std::mem::forget(turn);
    }

    #[test]
    fn a_closed_descriptor_is_not_replaced() {
        let files = Files::new();
        let device = Device::new(&files);
        call(&device).unwrap();
        let fd = device.state().fd;
        // Another file of the program's has the number now.
        files.put_other(fd);
        assert_eq!(call(&device), Ok(0x26005));
        assert!(device.state().fd != fd && files.is_other(fd));
    }

    #[test]
    fn an_unknown_call_opens_nothing_for_long() {
        let files = Files::new();
        let device = Device::new(&files);
        call(&device).unwrap();
        for _ in 0..3 {
            // SAFETY: the device knows no such request.
            let unknown = unsafe { device.call(0x78ff, null_mut()) };
            assert_eq!(unknown, Err(libc::ENOTTY));
        }
        assert_eq!(files.open_now(), 1);
    }

    #[test]
    fn threads_that_find_out_at_once_open_it_once() {
        for round in 0..200 {
            let files = Files::new();
            let device = Device::new(&files);
            if round % 2 == 1 {
                call(&device).unwrap();
                files.fork(2);
            }
            let before = files.opened();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(call(&device), Ok(0x26005)));
                }
            });
            assert_eq!(files.opened() - before, 1);
            assert_eq!(files.open_now(), 1);
        }
    }
}
