// SPDX-License-Identifier: MIT OR Apache-2.0

//! Objects that look like libibverbs' regions to a program, in one range of addresses, so that an address
//! tells whether a region is one of them.

use crate::abi::{Mr, Pd};
use core::{
    ffi::{c_int, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A region for the program.
#[repr(C, align(64))]
pub(crate) struct Region {
    mr: Mr,
    /// `verbs_mr::mr_type` of libibverbs: an ordinary region.
    kind: u32,
    /// `verbs_mr::access`
    pub(crate) access: c_uint,
    /// The place of the implicit region behind it, in the table of the process that registered it.
    pub(crate) implicit: u32,
    /// How many forks led to that process.
    pub(crate) forks: u32,
    /// The next one in the list of those that are free, or [`IN_USE`].
    next: *mut Region,
    /// Providers have fields of their own behind libibverbs'; these are zero.
    room: [u64; 7],
}

/// A `next` that no free region has.
const IN_USE: *mut Region = ptr::dangling_mut();

impl Region {
    /// A region that the implicit one at `implicit` serves, `forks` forks from the first process.
    pub(crate) fn new(mr: Mr, access: c_uint, implicit: u32, forks: u32) -> Self {
        Self {
            mr,
            kind: 0,
            access,
            implicit,
            forks,
            next: IN_USE,
            room: [0; 7],
        }
    }

    /// The domain that it is of.
    pub(crate) fn domain(&self) -> *mut Pd {
        self.mr.pd
    }
}

/// Addresses that are set aside: room for 8 million regions.
const RESERVED: usize = 1 << 30;
/// Memory that is made usable at a time.
const STEP: usize = 1 << 16;

/// First address of the one arena; 0 before its first use.
static START: AtomicUsize = AtomicUsize::new(0);

/// The objects. Each is in use, or in the list of free ones, or above `used`.
pub(crate) struct Arena {
    free: *mut Region,
    /// Bytes that were handed out at some time.
    used: usize,
    /// Bytes that are usable memory.
    usable: usize,
}

impl Arena {
    /// Without memory. There must be one only.
    pub(crate) const fn new() -> Self {
        Self {
            free: ptr::null_mut(),
            used: 0,
            usable: 0,
        }
    }

    /// Makes the list of free places anew, from what each place says of itself: a fork may have caught another thread while it
    /// changed the list. What that thread was handing out or taking back stays as it is.
    pub(crate) fn renew(&mut self) {
        self.free = ptr::null_mut();
        let start = START.load(Relaxed);
        if start == 0 {
            return;
        }
        for at in (0..self.used).step_by(size_of::<Region>()) {
            let place = (start + at) as *mut Region;
            // SAFETY: a place in usable memory; before it is handed out it is all zero.
            let next = unsafe { &mut (*place).next };
            if *next != IN_USE {
                *next = self.free;
                self.free = place;
            }
        }
    }

    /// Whether the address is in the arena.
    pub(crate) fn may_own(mr: *const Mr) -> bool {
        let start = START.load(Relaxed);
        start != 0 && (mr as usize).wrapping_sub(start) < RESERVED
    }

    /// Hands out `region`; `None` if there is no memory.
    pub(crate) fn take(&mut self, region: Region) -> Option<*mut Mr> {
        let place = if self.free.is_null() {
            self.grow()?
        } else {
            let place = self.free;
            // SAFETY: a free region is initialised.
            self.free = unsafe { (*place).next };
            place
        };
        // SAFETY: a place in usable memory that nobody has.
        unsafe { place.write(region) };
        Some(place.cast())
    }

    /// Takes a region back. `None` if it is not of the arena, an error number if it is not in use.
    pub(crate) fn give_back(&mut self, mr: *mut Mr) -> Option<Result<&Region, c_int>> {
        let place = self.in_use(mr)?;
        let Ok(place) = place else {
            return Some(Err(libc::EINVAL));
        };
        // SAFETY: a region in use, which the program gave up.
        unsafe { (*place).next = self.free };
        self.free = place;
        // SAFETY: it stays initialised while it is free.
        Some(Ok(unsafe { &*place }))
    }

    /// Exchanges what two regions in use hold.
    pub(crate) fn swap(&mut self, a: *mut Mr, b: *mut Mr) {
        if let (Some(Ok(a)), Some(Ok(b))) = (self.in_use(a), self.in_use(b)) {
            // SAFETY: both are in use and in the arena.
            unsafe { ptr::swap(a, b) };
        }
    }

    fn in_use(&self, mr: *mut Mr) -> Option<Result<*mut Region, ()>> {
        if !Self::may_own(mr) {
            return None;
        }
        let at = mr as usize - START.load(Relaxed);
        let place = mr.cast::<Region>();
        let whole = at % size_of::<Region>() == 0 && at < self.used;
        // SAFETY: below `used` all places are initialised, if only with zeros.
        Some(match whole && unsafe { (*place).next } == IN_USE {
            true => Ok(place),
            false => Err(()),
        })
    }

    /// A place that was never handed out.
    fn grow(&mut self) -> Option<*mut Region> {
        let start = Self::reserve()?;
        if self.used == self.usable {
            if self.usable == RESERVED {
                return None;
            }
            let more: *mut c_void = start.wrapping_byte_add(self.usable).cast();
            // SAFETY: a part of the range that is set aside, which nobody uses yet.
            if unsafe { libc::mprotect(more, STEP, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
                return None;
            }
            self.usable += STEP;
        }
        let place = start.wrapping_byte_add(self.used);
        self.used += size_of::<Region>();
        Some(place)
    }

    /// The first address; sets the range aside at the first use.
    fn reserve() -> Option<*mut Region> {
        let start = START.load(Relaxed);
        if start != 0 {
            return Some(start as *mut Region);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new range, wherever the kernel has room.
        let new = unsafe { libc::mmap(ptr::null_mut(), RESERVED, libc::PROT_NONE, flags, -1, 0) };
        if new == libc::MAP_FAILED {
            return None;
        }
        START.store(new as usize, Relaxed);
        Some(new.cast())
    }
}

const _: () = assert!(STEP % size_of::<Region>() == 0 && RESERVED % STEP == 0);
