//! A userfaultfd: missing pages of a range, those that a file has but the range does not map, or writes wait for us.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::child::pidfd;
use crate::mem::{Map, PAGE};

// include/uapi/linux/userfaultfd.h
const UFFD_API: u64 = 0xAA;
const UFFDIO_API: libc::c_ulong = 0xC018_AA3F;
const UFFDIO_REGISTER: libc::c_ulong = 0xC020_AA00;
const UFFDIO_COPY: libc::c_ulong = 0xC028_AA03;
const UFFDIO_MOVE: libc::c_ulong = 0xC028_AA05;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xC018_AA06;
const UFFDIO_CONTINUE: libc::c_ulong = 0xC020_AA07;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WP: u64 = 2;
const REGISTER_MODE_MINOR: u64 = 4;
const WRITEPROTECT_MODE_WP: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

/// How often a handler looks whether it is still wanted.
const BEAT: Duration = Duration::from_millis(20);

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`, and `struct uffdio_move`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffdio_continue`.
#[repr(C)]
struct Continue {
    start: u64,
    len: u64,
    mode: u64,
    mapped: i64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Default)]
struct Message {
    event: u8,
    _reserved: [u8; 7],
    flags: u64,
    address: u64,
    _feature: u64,
}

/// The descriptor.
pub struct Uffd(OwnedFd);

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A page that is there already was answered by somebody else.
fn or_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// `UFFD_USER_MODE_ONLY`
const USER_MODE_ONLY: i32 = 1;

impl Uffd {
    /// A descriptor without ranges. Not blocking, or it could not be polled.
    pub fn new() -> io::Result<Self> {
        Self::with(0, 0)
    }

    /// One that is not asked about faults of the kernel: all that a program without privilege gets by default.
    pub fn for_user_mode() -> io::Result<Self> {
        Self::with(0, USER_MODE_ONLY)
    }

    /// One that can watch pages which a file has and the range does not map.
    pub fn for_minor_faults() -> io::Result<Self> {
        Self::with(FEATURE_MINOR_SHMEM, 0)
    }

    fn with(features: u64, flags: i32) -> io::Result<Self> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes flags only.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
        // SAFETY: the descriptor is new and ours.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let mut api = Api {
            api: UFFD_API,
            features,
            ioctls: 0,
        };
        this.ioctl(UFFDIO_API, &mut api)?;
        Ok(this)
    }

    /// Another process's descriptor.
    pub fn take(pid: u32, fd: i32) -> io::Result<Self> {
        let pidfd = pidfd(pid as i32)?;
        // SAFETY: takes numbers only.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
        // SAFETY: the descriptor is new and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Its number.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    fn ioctl<T>(&self, request: libc::c_ulong, arg: &mut T) -> io::Result<()> {
        // SAFETY: `arg` is the structure of this request.
        check(i64::from(unsafe {
            libc::ioctl(self.fd(), request as _, arg)
        }))?;
        Ok(())
    }

    /// From now on the missing pages among `len` bytes at `off` of `map` wait for an answer.
    pub fn watch(&self, map: &Map, off: usize, len: usize) -> io::Result<()> {
        self.register(map.addr() + off, len, REGISTER_MODE_MISSING)
    }

    /// From now on pages of `len` bytes at `off` of `map` that its file has, and it does not map, wait for [`Self::go_on`].
    pub fn watch_minor(&self, map: &Map, off: usize, len: usize) -> io::Result<()> {
        self.register(map.addr() + off, len, REGISTER_MODE_MINOR)
    }

    /// Maps what the file has at the page `address`.
    pub fn go_on(&self, address: usize) -> io::Result<()> {
        let mut page = Continue {
            start: address as u64,
            len: PAGE as u64,
            mode: 0,
            mapped: 0,
        };
        or_there(self.ioctl(UFFDIO_CONTINUE, &mut page))
    }

    /// Moves the pages of `len` bytes at `from` to the address `to`, where none are and which is watched.
    pub fn move_pages(&self, from: usize, len: usize, to: usize) -> io::Result<()> {
        let mut range = Copy {
            dst: to as u64,
            src: from as u64,
            len: len as u64,
            mode: 0,
            copy: 0,
        };
        self.ioctl(UFFDIO_MOVE, &mut range)
    }

    fn register(&self, start: usize, len: usize, mode: u64) -> io::Result<()> {
        let mut register = Register {
            start: start as u64,
            len: len as u64,
            mode,
            ioctls: 0,
        };
        self.ioctl(UFFDIO_REGISTER, &mut register)
    }

    /// From now on writes to `len` bytes at `off` of `map`, which are all there, wait until they are lifted.
    pub fn protect(&self, map: &Map, off: usize, len: usize) -> io::Result<()> {
        let start = map.addr() + off;
        self.register(start, len, REGISTER_MODE_WP)?;
        self.write_protect(start, len, WRITEPROTECT_MODE_WP)
    }

    /// Lets writes to the page at `address` go on.
    pub fn lift(&self, address: usize) -> io::Result<()> {
        self.write_protect(address, PAGE, 0)
    }

    fn write_protect(&self, start: usize, len: usize, mode: u64) -> io::Result<()> {
        let mut range = WriteProtect {
            start: start as u64,
            len: len as u64,
            mode,
        };
        self.ioctl(UFFDIO_WRITEPROTECT, &mut range)
    }

    /// The address of the next page that somebody waits for, if one comes in time.
    pub fn next(&self, timeout: Duration) -> io::Result<Option<usize>> {
        let mut ready = libc::pollfd {
            fd: self.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid descriptor.
        let n = unsafe { libc::poll(&mut ready, 1, timeout.as_millis() as i32) };
        if check(n.into())? == 0 {
            return Ok(None);
        }
        let mut message = Message::default();
        let (to, size) = (&raw mut message, size_of::<Message>());
        // SAFETY: the buffer is a message, of this size.
        let n = unsafe { libc::read(self.fd(), to.cast(), size) };
        check(n as libc::c_long)?;
        Ok((message.event == EVENT_PAGEFAULT).then_some(message.address as usize & !(PAGE - 1)))
    }

    /// Does `answer` for each page that somebody waits for, while `work` runs.
    ///
    /// # Returns
    ///
    /// How often.
    pub fn serve(
        &self,
        answer: impl Fn(usize) -> io::Result<()> + Sync,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut answers = 0;
                while !over.load(Relaxed) {
                    if let Some(address) = self.next(BEAT)? {
                        answer(address)?;
                        answers += 1;
                    }
                }
                io::Result::Ok(answers)
            });
            let result = work();
            over.store(true, Relaxed);
            let answers = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the handler panicked")));
            result?;
            Ok(answers?)
        })
    }

    /// Answers: the page at `address` gets these bytes.
    pub fn answer(&self, address: usize, bytes: &[u8; PAGE]) -> io::Result<()> {
        let mut copy = Copy {
            dst: address as u64,
            src: bytes.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copy: 0,
        };
        or_there(self.ioctl(UFFDIO_COPY, &mut copy))
    }
}
