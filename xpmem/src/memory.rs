// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory that other processes write: it is copied from and to, or reached by atomics, and never by a plain reference.

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::copy::Shared;

/// Bytes at an address, mapped as long as this lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    length: usize,
    writable: bool,
}

// SAFETY: it is reached by atomic accesses and by the kernel only, from any thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    ///
    /// As long as this or a copy of it is used, the memory is mapped, for writing if `writable`, and nobody reaches it by a reference.
    /// What is mapped may fail with SIGBUS.
    pub(crate) unsafe fn new(start: NonNull<u8>, length: usize, writable: bool) -> Self {
        Self {
            start,
            length,
            writable,
        }
    }

    pub(crate) fn start(self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(self) -> usize {
        self.length
    }

    fn shared(&self) -> Shared<'_> {
        // SAFETY: as this type's constructor was promised; who may not write does not get to `write`.
        unsafe { Shared::new(self.start.as_ptr(), self.length) }
    }

    /// Panics unless `count` bytes at `offset` are inside.
    #[track_caller]
    fn require(self, offset: usize, count: usize) {
        let inside = offset <= self.length && count <= self.length - offset;
        assert!(
            inside,
            "{count} bytes at {offset} are not inside of {}",
            self.length
        );
    }

    /// Panics if it may only be read.
    #[track_caller]
    fn require_writable(self) {
        assert!(self.writable, "this attachment is to be read only");
    }

    #[track_caller]
    pub(crate) fn read_at(self, offset: usize, bytes: &mut [u8]) {
        self.require(offset, bytes.len());
        self.shared().read(offset, bytes);
    }

    #[track_caller]
    pub(crate) fn write_at(self, offset: usize, bytes: &[u8]) {
        self.require_writable();
        self.require(offset, bytes.len());
        self.shared().write(offset, bytes);
    }

    /// The address of an atomic of `size` bytes.
    #[track_caller]
    fn atomic_at(self, offset: usize, size: usize) -> *mut u8 {
        self.require_writable();
        self.require(offset, size);
        let at = self.start.as_ptr().wrapping_add(offset);
        assert!(
            at.addr() % size == 0,
            "an atomic of {size} bytes is not aligned at {offset}"
        );
        at
    }

    #[track_caller]
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let at = self.atomic_at(offset, 8).cast();
        // SAFETY: mapped for writing, aligned, and reached by atomics only.
        unsafe { AtomicU64::from_ptr(at) }
    }

    #[track_caller]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let at = self.atomic_at(offset, 4).cast();
        // SAFETY: mapped for writing, aligned, and reached by atomics only. A word that a copy takes whole holds what the halves
        // were; the processors that this builds for order accesses of different sizes of one word.
        unsafe { AtomicU32::from_ptr(at) }
    }

    #[track_caller]
    pub(crate) fn try_read_at(self, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        self.require(offset, bytes.len());
        let pipe = Pipe::new()?;
        for (at, part) in (offset..)
            .step_by(Pipe::ROOM)
            .zip(bytes.chunks_mut(Pipe::ROOM))
        {
            pipe.fill(self.start.as_ptr().wrapping_add(at), part.len())?;
            pipe.empty(part.as_mut_ptr(), part.len())?;
        }
        Ok(())
    }

    #[track_caller]
    pub(crate) fn try_write_at(self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.require_writable();
        self.require(offset, bytes.len());
        let pipe = Pipe::new()?;
        for (at, part) in (offset..).step_by(Pipe::ROOM).zip(bytes.chunks(Pipe::ROOM)) {
            pipe.fill(part.as_ptr(), part.len())?;
            pipe.empty(self.start.as_ptr().wrapping_add(at), part.len())?;
        }
        Ok(())
    }
}

/// A way through the kernel, which says EFAULT where a program that touches memory gets SIGBUS.
struct Pipe {
    out: libc::c_int,
    into: libc::c_int,
}

impl Pipe {
    /// Bytes that go through at once, whatever a user may have in pipes.
    const ROOM: usize = 4096;

    fn new() -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let [out, into] = ends;
        Ok(Self { out, into })
    }

    /// The kernel reads so many bytes at `from`.
    fn fill(&self, from: *const u8, count: usize) -> io::Result<()> {
        // SAFETY: mapped, and if it can't be read the call says so.
        whole(count, || unsafe {
            libc::write(self.into, from.cast(), count)
        })
    }

    /// The kernel writes so many bytes to `to`, of those that it read.
    fn empty(&self, to: *mut u8, count: usize) -> io::Result<()> {
        // SAFETY: mapped, and if it can't be written the call says so.
        whole(count, || unsafe { libc::read(self.out, to.cast(), count) })
    }
}

/// A call that must do `count` bytes.
fn whole(count: usize, call: impl Fn() -> isize) -> io::Result<()> {
    loop {
        match call() {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            done if done as usize == count => return Ok(()),
            // The kernel stopped at a page that is not there.
            _ => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for fd in [self.out, self.into] {
            // SAFETY: the descriptor is ours.
            unsafe { libc::close(fd) };
        }
    }
}

/// Zeroed memory of this process, unmapped with this.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it only owns the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `length` bytes, private to the process but for segments.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        Self::with(length, libc::MAP_PRIVATE)
    }

    /// The same, of another kind.
    pub(crate) fn with(length: usize, kind: libc::c_int) -> io::Result<Self> {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            kind | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping where the kernel has room.
        let at = unsafe { libc::mmap(null_mut(), length, access, flags, -1, 0) };
        match NonNull::new(at.cast()) {
            Some(start) if at != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its bytes and those behind them in the last page.
    pub(crate) fn pages(&self) -> usize {
        // SAFETY: takes a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        self.length.next_multiple_of(page as usize)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mapping: &Mapping, writable: bool) -> Memory {
        // SAFETY: it is used as long as the mapping lives.
        unsafe { Memory::new(mapping.start(), mapping.length, writable) }
    }

    #[test]
    fn what_is_not_there_is_an_error_for_who_asks() {
        let mapping = Mapping::new(3 * 4096).unwrap();
        let memory = of(&mapping, true);
        let bytes: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8).collect();
        memory.try_write_at(100, &bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        memory.try_read_at(100, &mut got).unwrap();
        assert_eq!(got, bytes);
        // SAFETY: a page of the mapping, which is touched by the kernel only from here on.
        unsafe {
            libc::mprotect(
                memory.start().wrapping_add(4096).cast(),
                4096,
                libc::PROT_NONE,
            )
        };
        for error in [
            memory.try_read_at(4000, &mut got[..200]).unwrap_err(),
            memory.try_write_at(4000, &bytes[..200]).unwrap_err(),
        ] {
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        }
    }

    #[test]
    #[should_panic(expected = "not inside")]
    fn beyond_the_end() {
        let mapping = Mapping::new(4096).unwrap();
        of(&mapping, true).read_at(4090, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "read only")]
    fn to_be_read_only() {
        let mapping = Mapping::new(4096).unwrap();
        of(&mapping, false).write_at(0, &[1]);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn not_aligned() {
        let mapping = Mapping::new(4096).unwrap();
        of(&mapping, true).atomic_u64(4);
    }
}
