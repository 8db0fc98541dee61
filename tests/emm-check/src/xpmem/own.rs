//! A segment of this process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use ::xpmem::abi;
use anyhow::{Context as _, Result};

/// One of memory that is somebody else's object; it is removed with this one.
pub struct Own {
    device: File,
    id: u64,
}

impl Own {
    /// Makes it.
    pub fn share(at: usize, size: usize, mode: u64) -> Result<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/xpmem")
            .context("opening /dev/xpmem (is emm_xpmem loaded?)")?;
        let mut own = Self { device, id: 0 };
        let mut make = abi::Make {
            vaddr: at as u64,
            size,
            permit_type: abi::PERMIT_MODE,
            permit_value: mode,
            segid: 0,
        };
        own.call(abi::MAKE, &mut make).context("making a segment")?;
        own.id = make.segid as u64;
        Ok(own)
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn call<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: callers give the structure that the request takes.
        match unsafe { libc::ioctl(self.device.as_raw_fd(), request, &raw mut *argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut one = abi::One { id: self.id as i64 };
        // It goes with the device, too.
        self.call(abi::REMOVE, &mut one).ok();
    }
}
