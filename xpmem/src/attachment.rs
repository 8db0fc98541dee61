// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory of other processes.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::abi::{Attach, DETACH, Get, PERMIT_MODE, RDONLY, RDWR, RELEASE};
use crate::error::{AttachError, GetError};
use crate::memory::Memory;
use crate::raw::{Driver, attach_by, device, get_by, one_by};
use crate::segment::SegmentId;

/// What one wants to do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

/// A permit to attach a segment, given by its mode when it was asked for. It ends with the last of what is attached by it.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Grant>);

/// What the device knows of a permit.
struct Grant {
    driver: &'static dyn Driver,
    id: i64,
    access: Access,
    process: u32,
}

impl Permit {
    /// Gets one.
    ///
    /// # Errors
    /// No such segment, or no device; not allowed.
    pub fn get(segment: SegmentId, access: Access) -> Result<Self, GetError> {
        Self::get_by(device(), segment, access)
    }

    pub(crate) fn get_by(
        driver: &'static dyn Driver,
        segment: SegmentId,
        access: Access,
    ) -> Result<Self, GetError> {
        let get = Get {
            segid: segment.as_raw(),
            flags: match access {
                Access::ReadOnly => RDONLY,
                Access::ReadWrite => RDWR,
            },
            permit_type: PERMIT_MODE,
            ..Get::default()
        };
        Ok(Self(Arc::new(Grant {
            driver,
            id: get_by(driver, get)?,
            access,
            process: std::process::id(),
        })))
    }

    /// Maps `length` bytes at `offset` of the segment. The offset is a multiple of the page size. No page is touched: it takes as long for
    /// a byte as for a terabyte.
    ///
    /// # Errors
    /// A wrong range; the segment is gone; no memory.
    pub fn attach(&self, offset: u64, length: usize) -> Result<Attachment, AttachError> {
        let wrong = || AttachError::Range;
        let attach = Attach {
            apid: self.0.id,
            offset: i64::try_from(offset).map_err(|_| wrong())?,
            size: length,
            ..Attach::default()
        };
        let start = attach_by(self.0.driver, attach)?;
        let start = NonNull::new(start.cast()).ok_or_else(wrong)?;
        Ok(Attachment {
            // SAFETY: mapped until this is dropped, where nothing was before.
            memory: unsafe { Memory::new(start, length, self.0.access == Access::ReadWrite) },
            grant: self.0.clone(),
        })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // It is gone already, at worst.
            one_by(self.driver, RELEASE, self.id).ok();
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}, {:?}", self.id, self.access)
    }
}

/// Memory of a segment's owner, mapped until this is dropped.
///
/// What is at these addresses of the owner at the time of an access is what is read and written: pages that the owner's memory loses are
/// lost here, too, and new ones are found. Where the owner has no memory, has ended, or has removed the segment, a touch is answered
/// with SIGBUS, which ends the program; [`Self::try_read_at`] and [`Self::try_write_at`] say so instead.
///
/// A forked process has no attachments: it must not use this object, and gets SIGSEGV if it does.
#[derive(Debug)]
pub struct Attachment {
    memory: Memory,
    grant: Arc<Grant>,
}

impl Attachment {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there are none; that does not happen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first byte. What is done through it must allow for writes by others, and for SIGBUS.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start()
    }

    /// Copies from `offset` bytes on. SIGBUS where the owner has no memory.
    ///
    /// # Panics
    /// The range is not inside.
    #[track_caller]
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read_at(offset, bytes);
    }

    /// Copies to `offset` bytes on. SIGBUS where the owner has no memory that can be written.
    ///
    /// # Panics
    /// The range is not inside, or the permit was [`Access::ReadOnly`].
    #[track_caller]
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.memory.write_at(offset, bytes);
    }

    /// The same as [`Self::read_at`], at the cost of system calls.
    ///
    /// # Errors
    /// `EFAULT` where the owner has no memory, or has ended. Bytes before it may have been copied. `EMFILE`: it takes a pipe.
    ///
    /// # Panics
    /// The range is not inside.
    #[track_caller]
    pub fn try_read_at(&self, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        self.memory.try_read_at(offset, bytes)
    }

    /// The same as [`Self::write_at`], at the cost of system calls.
    ///
    /// # Errors
    /// `EFAULT` where the owner has no memory that can be written, or has ended. Bytes before it may have been copied. `EMFILE`: it
    /// takes a pipe.
    ///
    /// # Panics
    /// The range is not inside, or the permit was [`Access::ReadOnly`].
    #[track_caller]
    pub fn try_write_at(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.memory.try_write_at(offset, bytes)
    }

    /// The 8 bytes at `offset`, for atomic operations with the owner and others. SIGBUS as above.
    ///
    /// # Panics
    /// They are not inside, not aligned, or the permit was [`Access::ReadOnly`].
    #[track_caller]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.memory.atomic_u64(offset)
    }

    /// The 4 bytes at `offset`.
    ///
    /// # Panics
    /// They are not inside, not aligned, or the permit was [`Access::ReadOnly`].
    #[track_caller]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.memory.atomic_u32(offset)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // In a forked process something else may be at its address.
        if self.grant.process == std::process::id() {
            let at = self.memory.start().expose_provenance() as i64;
            // It is gone already, at worst.
            one_by(self.grant.driver, DETACH, at).ok();
        }
    }
}
