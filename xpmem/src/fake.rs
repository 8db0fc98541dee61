// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stand-ins for the system and for the device.

use std::collections::HashMap;
use std::ffi::{c_int, c_ulong, c_void};
use std::sync::Mutex;

use crate::abi::{
    ATTACH, Attach, DETACH, GET, Get, MAKE, Make, NOPROC, One, RELEASE, REMOVE, VERSION,
};
use crate::device::System;
use crate::raw::Driver;

/// Descriptors of a process, for `Device`.
pub(crate) struct Files(Mutex<Process>);

struct Process {
    id: u32,
    /// The process that has opened the device behind a descriptor; `None`: another file.
    open: HashMap<c_int, Option<u32>>,
    opened: usize,
    /// The errno of opening, or 0.
    refuses: c_int,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Process {
            id: 1,
            open: HashMap::new(),
            opened: 0,
            refuses: 0,
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Process) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// From now on opening fails, or with 0 does not.
    pub(crate) fn refuse(&self, errno: c_int) {
        self.with(|process| process.refuses = errno);
    }

    /// From now on this is a forked process.
    pub(crate) fn fork(&self, child: u32) {
        self.with(|process| process.id = child);
    }

    /// Another file gets the number.
    pub(crate) fn put_other(&self, fd: c_int) {
        self.with(|process| process.open.insert(fd, None));
    }

    pub(crate) fn is_other(&self, fd: c_int) -> bool {
        self.with(|process| process.open.get(&fd) == Some(&None))
    }

    /// How often the device was opened.
    pub(crate) fn opened(&self) -> usize {
        self.with(|process| process.opened)
    }

    /// How many descriptors there are.
    pub(crate) fn open_now(&self) -> usize {
        self.with(|process| process.open.len())
    }
}

impl System for &Files {
    fn open(&self) -> Result<c_int, c_int> {
        self.with(|process| {
            if process.refuses != 0 {
                return Err(process.refuses);
            }
            process.opened += 1;
            let free = (3..).find(|fd| !process.open.contains_key(fd)).unwrap();
            process.open.insert(free, Some(process.id));
            Ok(free)
        })
    }

    unsafe fn ioctl(&self, fd: c_int, request: c_ulong, _: *mut c_void) -> Result<c_int, c_int> {
        self.with(|process| match process.open.get(&fd) {
            None => Err(libc::EBADF),
            Some(None) => Err(libc::ENOTTY),
            Some(Some(opener)) if *opener != process.id => Err(NOPROC),
            Some(_) if request == VERSION => Ok(0x26005),
            Some(_) => Err(libc::ENOTTY),
        })
    }

    fn replace(&self, new: c_int, old: c_int) -> Result<(), c_int> {
        self.with(|process| {
            let file = process.open[&new];
            process.open.insert(old, file);
        });
        Ok(())
    }

    fn close(&self, fd: c_int) {
        self.with(|process| process.open.remove(&fd).unwrap());
    }

    fn process(&self) -> u32 {
        self.with(|process| process.id)
    }

    fn pause(&self) {
        std::thread::yield_now();
    }
}

/// A device for one process that attaches its own segments, of shared memory.
#[derive(Default)]
pub(crate) struct Xpmem(Mutex<State>);

#[derive(Default)]
struct State {
    made: i64,
    segments: HashMap<i64, Make>,
    permits: HashMap<i64, Get>,
    attached: HashMap<u64, (i64, usize)>,
}

impl Xpmem {
    /// One that stays.
    pub(crate) fn leaked() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Segments, permits and attachments that there are.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let state = self.0.lock().unwrap();
        (
            state.segments.len(),
            state.permits.len(),
            state.attached.len(),
        )
    }
}

impl State {
    fn next(&mut self) -> i64 {
        self.made += 1;
        self.made << 32 | 77
    }

    fn make(&mut self, make: &mut Make) -> Result<c_int, c_int> {
        if make.size == 0
            || make.size % 4096 != 0
            || make.permit_type != 1
            || make.permit_value > 0o777
        {
            return Err(libc::EINVAL);
        }
        make.segid = self.next();
        self.segments.insert(make.segid, *make);
        Ok(0)
    }

    fn get(&mut self, get: &mut Get) -> Result<c_int, c_int> {
        if get.permit_type != 1 || get.permit_value != 0 {
            return Err(libc::EINVAL);
        }
        let segment = self.segments.get(&get.segid).ok_or(libc::ENOENT)?;
        let wants = if get.flags == 2 { 0o600 } else { 0o400 };
        if segment.permit_value & wants != wants {
            return Err(libc::EACCES);
        }
        get.apid = self.next();
        self.permits.insert(get.apid, *get);
        Ok(0)
    }

    fn attach(&mut self, attach: &mut Attach) -> Result<c_int, c_int> {
        let permit = self.permits.get(&attach.apid).ok_or(libc::ENOENT)?;
        let segment = self.segments.get(&permit.segid).ok_or(libc::ENOENT)?;
        let offset = attach.offset as usize;
        let size = attach.size.next_multiple_of(4096);
        let inside = offset <= segment.size && size <= segment.size - offset;
        if attach.size == 0 || offset % 4096 != 0 || !inside {
            return Err(libc::EINVAL);
        }
        let from = (segment.vaddr as usize + offset) as *mut c_void;
        // SAFETY: an old size of 0 maps the pages of shared memory once more.
        let at = unsafe { libc::mremap(from, 0, attach.size, libc::MREMAP_MAYMOVE) };
        assert_ne!(at, libc::MAP_FAILED);
        if permit.flags == 1 {
            // SAFETY: the new mapping.
            unsafe { libc::mprotect(at, attach.size, libc::PROT_READ) };
        }
        attach.vaddr = at as u64;
        self.attached
            .insert(attach.vaddr, (attach.apid, attach.size));
        Ok(0)
    }

    fn detach(&mut self, at: u64) -> Result<c_int, c_int> {
        let (_, size) = self.attached.remove(&at).ok_or(libc::EINVAL)?;
        // SAFETY: mapped by `attach`.
        unsafe { libc::munmap(at as *mut c_void, size) };
        Ok(0)
    }

    fn release(&mut self, apid: i64) -> Result<c_int, c_int> {
        self.permits.remove(&apid).ok_or(libc::ENOENT)?;
        let by = self.attached.iter().filter(|(_, (id, _))| *id == apid);
        let by: Vec<u64> = by.map(|(at, _)| *at).collect();
        by.into_iter().try_fold(0, |_, at| self.detach(at))
    }
}

impl Driver for Xpmem {
    unsafe fn call(&self, request: c_ulong, argument: *mut c_void) -> Result<c_int, c_int> {
        let mut state = self.0.lock().unwrap();
        // SAFETY: the caller promises that it is what the request takes, as in all arms below.
        let one = || unsafe { argument.cast::<One>().read() }.id;
        match request {
            VERSION => Ok(0x26005),
            // SAFETY: as above.
            MAKE => state.make(unsafe { &mut *argument.cast() }),
            // SAFETY: as above.
            GET => state.get(unsafe { &mut *argument.cast() }),
            // SAFETY: as above.
            ATTACH => state.attach(unsafe { &mut *argument.cast() }),
            REMOVE => state.segments.remove(&one()).map(|_| 0).ok_or(libc::ENOENT),
            RELEASE => state.release(one()),
            DETACH => state.detach(one() as u64),
            _ => Err(libc::ENOTTY),
        }
    }
}
