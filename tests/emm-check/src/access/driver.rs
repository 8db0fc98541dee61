//! The driver `emm_access` (`kernel/emm_client`): a region, cookies, and accesses that are parked in them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::mem::Map;

/// What emm_access makes.
pub const DEVICE: &str = "/dev/emm_access";
/// Names no cookie, or all of them.
const ALL: u32 = u32::MAX;

const IOC_WRITE: libc::c_ulong = 1;
const fn request(direction: libc::c_ulong, number: libc::c_ulong, size: usize) -> libc::c_ulong {
    direction << 30 | (size as libc::c_ulong) << 16 | (b'E' as libc::c_ulong) << 8 | number
}
const REGION: libc::c_ulong = request(IOC_WRITE, 1, size_of::<Region>());
const COOKIES: libc::c_ulong = request(0, 2, 0);
const DO: libc::c_ulong = request(IOC_WRITE, 3, size_of::<Do>());
const AWAIT: libc::c_ulong = request(IOC_WRITE, 4, size_of::<Await>());
const CANCEL: libc::c_ulong = request(0, 5, 0);
const DONE: libc::c_ulong = request(0, 6, 0);
const STOP: libc::c_ulong = request(0, 7, 0);
const DESTROY: libc::c_ulong = request(0, 8, 0);

#[repr(C)]
struct Region {
    start: u64,
    length: u64,
}

#[repr(C)]
struct Do {
    cookie: u32,
    what: u32,
    offset: u64,
    length: u64,
    reach: u64,
    buffer: u64,
}

#[repr(C)]
struct Await {
    cookie: u32,
    ms: u32,
    times: u64,
}

/// An access, as `enum emm_access_what` has them.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum What {
    Read = 0,
    Write = 1,
    AdviseRead = 2,
    AdviseWrite = 3,
    WriteInSoftirq = 0x101,
}

/// How an access ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is done.
    Well,
    /// It is parked: to be tried again when the driver was told.
    Parked,
    /// With this errno.
    With(i32),
}

/// An open file of the driver: one region, and cookies.
pub struct Driver(File);

impl Driver {
    /// A driver with a region of all of `map` and `cookies` cookies.
    pub fn new(map: &Map, cookies: u32) -> Result<Self> {
        let file = File::options().read(true).write(true).open(DEVICE);
        let this = Self(file.with_context(|| format!("opening {DEVICE} (is emm_access loaded?)"))?);
        let region = Region {
            start: map.addr() as u64,
            length: map.len() as u64,
        };
        this.call(REGION, &raw const region as libc::c_ulong)
            .context("making a region")?;
        this.call(COOKIES, cookies.into())
            .context("making cookies")?;
        Ok(this)
    }

    /// The same open file.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    fn call(&self, request: libc::c_ulong, arg: libc::c_ulong) -> io::Result<i32> {
        // SAFETY: the argument is a number, or the address of what this request names, which the caller keeps.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, arg) } {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }

    fn access(
        &self,
        cookie: u32,
        what: What,
        offset: usize,
        buffer: *mut u8,
        length: usize,
        reach: usize,
    ) -> Ended {
        let todo = Do {
            cookie,
            what: what as u32,
            offset: offset as u64,
            length: length as u64,
            reach: reach as u64,
            buffer: buffer as u64,
        };
        match self.call(DO, &raw const todo as libc::c_ulong) {
            Ok(_) => Ended::Well,
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) => Ended::Parked,
                errno => Ended::With(errno.unwrap_or_default()),
            },
        }
    }

    /// Reads from the region.
    pub fn read(&self, cookie: u32, offset: usize, into: &mut [u8]) -> Ended {
        let (to, len) = (into.as_mut_ptr(), into.len());
        self.access(cookie, What::Read, offset, to, len, len)
    }

    /// Writes to the region.
    pub fn write(&self, cookie: u32, offset: usize, from: &[u8]) -> Ended {
        let (from, len) = (from.as_ptr().cast_mut(), from.len());
        self.access(cookie, What::Write, offset, from, len, len)
    }

    /// The same, in a softirq.
    pub fn write_in_softirq(&self, cookie: u32, offset: usize, from: &[u8]) -> Ended {
        let (from, len) = (from.as_ptr().cast_mut(), from.len());
        self.access(cookie, What::WriteInSoftirq, offset, from, len, len)
    }

    /// Asks for pages.
    pub fn advise(&self, cookie: u32, what: What, offset: usize, length: usize) -> Ended {
        self.access(cookie, what, offset, std::ptr::null_mut(), length, 0)
    }

    /// A read without a cookie, which waits.
    pub fn read_sleeping(&self, offset: usize, into: &mut [u8]) -> Ended {
        self.read(ALL, offset, into)
    }

    /// A write that waits.
    pub fn write_sleeping(&self, offset: usize, from: &[u8]) -> Ended {
        self.write(ALL, offset, from)
    }

    /// Advice that waits.
    pub fn advise_sleeping(&self, what: What, offset: usize, length: usize) -> Ended {
        self.advise(ALL, what, offset, length)
    }

    /// Tries `access` until it is not parked any more, each time when the driver was told to; at most for `limit` each.
    pub fn until_done(
        &self,
        cookie: u32,
        limit: Duration,
        mut access: impl FnMut() -> Ended,
    ) -> Result<Ended> {
        loop {
            let before = self.told(cookie)?;
            match access() {
                Ended::Parked if self.await_told(cookie, before + 1, limit)? => {}
                Ended::Parked => bail!("the driver was not told to go on within {limit:?}"),
                ended => return Ok(ended),
            }
        }
    }

    /// How often the driver was told to go on with what is parked in `cookie`.
    pub fn told(&self, cookie: u32) -> Result<u64> {
        Ok(self.call(DONE, cookie.into())? as u64)
    }

    /// The same of all cookies together.
    pub fn told_in_all(&self) -> Result<u64> {
        self.told(ALL)
    }

    /// Waits until that was `times` times, for `limit` at most. Returns whether it was.
    pub fn await_told(&self, cookie: u32, times: u64, limit: Duration) -> Result<bool> {
        let until = Await {
            cookie,
            ms: limit.as_millis() as u32,
            times,
        };
        match self.call(AWAIT, &raw const until as libc::c_ulong) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The same of all cookies together.
    pub fn await_told_in_all(&self, times: u64, limit: Duration) -> Result<bool> {
        self.await_told(ALL, times, limit)
    }

    /// Forgets what is parked in `cookie`.
    pub fn cancel(&self, cookie: u32) -> Result<()> {
        self.call(CANCEL, cookie.into())?;
        Ok(())
    }

    /// Stops the region.
    pub fn stop(&self) -> Result<()> {
        self.call(STOP, 0)?;
        Ok(())
    }

    /// Destroys the region.
    pub fn destroy(&self) -> Result<()> {
        self.call(DESTROY, 0)?;
        Ok(())
    }
}
