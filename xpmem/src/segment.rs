// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory of this process that others may attach.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::abi::{Make, PERMIT_MODE, REMOVE, WHOLE};
use crate::error::MakeError;
use crate::memory::{Mapping, Memory};
use crate::raw::{Driver, device, make_by, one_by};

/// What others attach a segment by. Any process may know it: the mode says who gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(i64);

impl SegmentId {
    /// Of a segment that a program in C has made.
    pub fn from_raw(segid: i64) -> Self {
        Self(segid)
    }

    /// For a program in C.
    pub fn as_raw(self) -> i64 {
        self.0
    }
}

/// In hexadecimal digits, as [`FromStr`] takes it: for a command line.
impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for SegmentId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        i64::from_str_radix(text, 16).map(Self)
    }
}

/// Who may attach a segment, as the mode of a file says it: reading (4) and writing (2) by the owner's user, the group, and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u16);

impl Mode {
    /// Processes of the same user.
    pub const USER: Self = Self(0o600);
    /// And of the same group.
    pub const GROUP: Self = Self(0o660);
    /// Everybody.
    pub const ALL: Self = Self(0o666);

    /// Any mode of at most `0o777`.
    pub fn new(mode: u32) -> Option<Self> {
        (mode <= 0o777).then_some(Self(mode as u16))
    }
}

/// Memory that other processes may attach, until this is dropped. It is not pinned, and not touched by being made.
///
/// They write to it behind the compiler's back. So it is copied from and to, or reached by atomics; copies meet whole aligned words of
/// 8 bytes, never a part of one.
pub struct Segment {
    driver: &'static dyn Driver,
    id: SegmentId,
    /// Its maker: a forked process has no segment.
    process: u32,
    memory: Memory,
    /// Goes behind the segment.
    _own: Option<Mapping>,
}

impl Segment {
    /// Makes one of `length` bytes of new memory, which hold zeros. Others may attach all of its pages.
    ///
    /// # Errors
    /// No device; a length of 0; no memory.
    pub fn new(length: usize, mode: Mode) -> Result<Self, MakeError> {
        Self::new_by(device(), length, mode)
    }

    fn new_by(driver: &'static dyn Driver, length: usize, mode: Mode) -> Result<Self, MakeError> {
        let own = Mapping::new(length)?;
        let start = own.start();
        // SAFETY: the mapping is the segment's, and reached through it only.
        let mut segment = unsafe { Self::of_by(driver, start, own.pages(), mode) }?;
        // SAFETY: as above.
        segment.memory = unsafe { Memory::new(start, length, true) };
        segment._own = Some(own);
        Ok(segment)
    }

    /// Makes one of memory that is there already. Others may attach all of its pages. It is found by its address: what is mapped there
    /// later is in the segment, too.
    ///
    /// # Errors
    /// No device; a range that is empty, not user space's, or has an attachment in it.
    ///
    /// # Safety
    ///
    /// The memory is mapped for reading and writing as long as the segment is used through this object. As long as the segment
    /// lives, nobody reaches the memory, and what else is in its pages, by a reference, unless `mode` lets nobody write.
    pub unsafe fn of(start: NonNull<u8>, length: usize, mode: Mode) -> Result<Self, MakeError> {
        // SAFETY: as the caller promises.
        unsafe { Self::of_by(device(), start, length, mode) }
    }

    pub(crate) unsafe fn of_by(
        driver: &'static dyn Driver,
        start: NonNull<u8>,
        length: usize,
        mode: Mode,
    ) -> Result<Self, MakeError> {
        let make = Make {
            vaddr: start.as_ptr().expose_provenance() as u64,
            size: length,
            permit_type: PERMIT_MODE,
            permit_value: mode.0.into(),
            segid: 0,
        };
        let id = SegmentId(make_by(driver, make)?);
        Ok(Self {
            driver,
            id,
            process: std::process::id(),
            // SAFETY: as the caller promises.
            memory: unsafe { Memory::new(start, length, true) },
            _own: None,
        })
    }

    /// Makes one of all of this process's memory, now and later; the offset of a byte is its address. Nothing is read or written
    /// through this object.
    ///
    /// # Errors
    /// No device.
    ///
    /// # Safety
    ///
    /// Who may attach it, and write by `mode`, can do anything to this program: he has to keep all promises that it keeps.
    pub unsafe fn of_everything(mode: Mode) -> Result<Self, MakeError> {
        let make = Make {
            vaddr: 0,
            size: WHOLE,
            permit_type: PERMIT_MODE,
            permit_value: mode.0.into(),
            segid: 0,
        };
        let id = SegmentId(make_by(device(), make)?);
        Ok(Self {
            driver: device(),
            id,
            process: std::process::id(),
            // SAFETY: no byte is reached through it.
            memory: unsafe { Memory::new(NonNull::dangling(), 0, false) },
            _own: None,
        })
    }

    /// What others attach it by.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Its bytes; 0 for a segment of everything.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no bytes of its own: it is one of everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first byte. What is done through it must allow for writes by others.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start()
    }

    /// Copies from `offset` bytes on.
    ///
    /// # Panics
    /// The range is not inside.
    #[track_caller]
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read_at(offset, bytes);
    }

    /// Copies to `offset` bytes on.
    ///
    /// # Panics
    /// The range is not inside.
    #[track_caller]
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.memory.write_at(offset, bytes);
    }

    /// The 8 bytes at `offset`, for atomic operations with those who have attached them.
    ///
    /// # Panics
    /// They are not inside, or not aligned.
    #[track_caller]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.memory.atomic_u64(offset)
    }

    /// The 4 bytes at `offset`.
    ///
    /// # Panics
    /// They are not inside, or not aligned.
    #[track_caller]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.memory.atomic_u32(offset)
    }

    /// Ends the segment, as dropping it does, and says whether that went well. Who has attached it gets SIGBUS where he touches it.
    ///
    /// # Errors
    /// It is gone already, or a forked process's parent's.
    pub fn remove(mut self) -> io::Result<()> {
        let removed = self.end();
        self.process = 0;
        removed
    }

    fn end(&self) -> io::Result<()> {
        if self.process != std::process::id() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        one_by(self.driver, REMOVE, self.id.0)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // It is gone already, at worst.
        self.end().ok();
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Segment");
        debug.field("id", &self.id).field("memory", &self.memory);
        debug.finish_non_exhaustive()
    }
}
