// SPDX-License-Identifier: GPL-2.0

//! How the VM is asked for the pages of a region's owner: pages that an operation named are brought
//! in, and then its page tables are looked at. No page is referenced.
//!
//! C header: `glue.h`.

use crate::{
    emm::{Frame, PART_PAGES},
    glue,
    owner::Owner,
};
use kernel::{alloc::Flags, error::to_result, mm::Mm, prelude::*, types::NotThreadSafe};

/// How far the VM may go to bring a page in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum How {
    /// What needs no userfaultfd handler, but maybe a disk; until a signal comes.
    AtOnce = glue::emm_how_EMM_AT_ONCE,
    /// Also what a userfaultfd handler has to answer; until a signal comes.
    Waiting = glue::emm_how_EMM_WAITING,
}

/// What the page tables have at an address and behind it.
#[derive(Debug)]
pub(crate) struct Frames {
    words: KVec<u64>,
    first: glue::emm_seen,
}

impl Frames {
    /// None yet, with room for `pages`.
    pub(crate) fn new(pages: u64, flags: Flags) -> Result<Self> {
        Ok(Self {
            words: KVec::with_capacity(pages as usize, flags)?,
            first: glue::emm_seen_EMM_SEEN_NOTHING,
        })
    }

    fn clear(&mut self) {
        self.words.clear();
        self.first = glue::emm_seen_EMM_SEEN_NOTHING;
    }

    /// How many there are, from the address on.
    pub(crate) fn len(&self) -> u64 {
        self.words.len() as u64
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Frame> + '_ {
        self.words.iter().map(|word| Frame {
            pfn: word >> glue::emm_frame_EMM_FRAME_SHIFT,
            writable: word & u64::from(glue::emm_frame_EMM_FRAME_WRITABLE) != 0,
        })
    }

    /// How many of the first `pages` can be accessed in this way, up to the first one that can't.
    pub(crate) fn allowing(&self, write: bool, pages: u64) -> u64 {
        let pages = self.iter().take(pages as usize);
        pages.take_while(|frame| frame.writable || !write).count() as u64
    }

    /// Leaves the first `pages` only.
    pub(crate) fn truncate(&mut self, pages: u64) {
        self.words.truncate(pages as usize);
    }

    /// Whether the first page is mapped, and nothing that a region may reach.
    pub(crate) fn refused(&self) -> bool {
        self.first == glue::emm_seen_EMM_SEEN_REFUSED
    }

    /// Whether the first page is part of a huge page that is mapped as one.
    pub(crate) fn huge(&self) -> bool {
        self.first == glue::emm_seen_EMM_SEEN_HUGE && !self.words.is_empty()
    }

    /// The first frame of the huge page that page `page` is part of, which is the first here.
    pub(crate) fn of_part(&self, page: u64) -> Option<Frame> {
        let frame = self.iter().next().filter(|_| self.huge())?;
        Some(Frame {
            pfn: frame.pfn.checked_sub(page % PART_PAGES)?,
            ..frame
        })
    }
}

/// An address space whose mmap_lock is held for reading: no invalidation begins whose caller holds
/// it for writing.
///
/// Not `kernel::mm::MmapReadGuard`: it lets a kill end the wait for the lock, and can be dropped
/// under a spinlock.
///
/// # Invariants
///
/// Owns a reference on the mm (mm_users), and, if `locked`, the lock for reading, taken by this
/// thread.
#[must_use = "the mmap_lock is given back when the guard is dropped"]
pub(crate) struct MmLock<'a> {
    mm: &'a Mm,
    locked: bool,
    // The lock is given back by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<'a> MmLock<'a> {
    /// Takes the lock, sleeping.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the owner is exiting, `EINTR` if a signal ended the wait.
    pub(crate) fn take(mm: &'a Mm) -> Result<Self> {
        // SAFETY: `mm` is valid, as it is a reference.
        to_result(unsafe { glue::emm_mm_lock(mm.as_raw()) })?;
        // INVARIANT: the reference and the lock were taken, by this thread.
        Ok(Self {
            mm,
            locked: true,
            _not_send: NotThreadSafe,
        })
    }

    /// Takes the lock if that can be done without sleeping.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the owner is exiting, `EAGAIN` if others have the lock for writing, or wait for it.
    pub(crate) fn try_take(mm: &'a Mm) -> Result<Self> {
        // SAFETY: `mm` is valid, as it is a reference.
        to_result(unsafe { glue::emm_mm_trylock(mm.as_raw()) })?;
        // INVARIANT: the reference and the lock were taken, by this thread.
        Ok(Self {
            mm,
            locked: true,
            _not_send: NotThreadSafe,
        })
    }

    /// Has the VM bring in `pages` pages at user address `address`, which an operation named. The
    /// first one is not there, or not to be accessed in this way. Sleeps; lets go of the lock while
    /// it waits for somebody. `frames` is used meanwhile, and has nothing afterwards. The thread
    /// faults as `owner`, which it has entered.
    ///
    /// # Errors
    ///
    /// Why it did not come to the end, which is worth a look nevertheless: `EAGAIN` if a handler was
    /// to be waited for; `EFAULT`, `ENOMEM`; `EINTR` if a signal ended the wait.
    pub(crate) fn fault_in(
        &mut self,
        address: u64,
        pages: u64,
        write: bool,
        how: How,
        frames: &mut Frames,
        owner: &Owner,
    ) -> Result {
        frames.clear();
        if !self.locked || frames.words.capacity() < pages as usize {
            return Err(EINTR);
        }
        let (mm, to) = (self.mm.as_raw(), frames.words.as_mut_ptr());
        let (address, pages) = (address as usize, pages as usize);
        let by_hand = owner.needs_hand(address as u64);
        // INVARIANT: C says whether the lock is held.
        let locked = &raw mut self.locked;
        to_result(if by_hand {
            let owner = owner.as_raw();
            // SAFETY: the lock is held, by the type's invariant, and so is a reference on the mm,
            // which is the owner's: a region has one. The vector has room for `pages`.
            unsafe {
                glue::emm_hand_fault_in(owner, address, pages, write, how as u32, to, locked)
            }
        } else {
            // SAFETY: the lock is held, by the type's invariant, and the vector has room for `pages`.
            unsafe { glue::emm_fault_in(mm, address, pages, write, how as u32, to, locked) }
        })
    }

    /// Looks at what the page tables have at user address `address` and behind it, for `pages` pages
    /// and what `frames` has room for at most. Sleeps for no longer than a huge page's fault takes.
    pub(crate) fn look(&self, address: u64, pages: u64, frames: &mut Frames) {
        self.look_at(address, pages, true, frames);
    }

    /// As [`look`](Self::look), without sleeping: what is in huge pages of hugetlbfs is not seen.
    pub(crate) fn look_at_once(&self, address: u64, pages: u64, frames: &mut Frames) {
        self.look_at(address, pages, false, frames);
    }

    fn look_at(&self, address: u64, pages: u64, may_sleep: bool, frames: &mut Frames) {
        frames.clear();
        if !self.locked {
            return;
        }
        let pages = frames.words.capacity().min(pages as usize);
        let (mm, to) = (self.mm.as_raw(), frames.words.as_mut_ptr());
        let first = &raw mut frames.first;
        // SAFETY: the lock is held, by the type's invariant, and the vector has room for `pages`.
        let got = unsafe { glue::emm_look(mm, address as usize, pages, may_sleep, to, first) };
        // SAFETY: the first `got` elements were written, and `got` is at most `pages`.
        unsafe { frames.words.inc_len(got) };
    }
}

impl Drop for MmLock<'_> {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and so is the lock if it is held, by the type's invariant.
        unsafe { glue::emm_mm_unlock(self.mm.as_raw(), self.locked) };
    }
}

/// Whether somebody, maybe this thread, has the mmap_lock of `mm` for writing: no fault of it begins
/// then. A moment later it may be otherwise.
pub(crate) fn write_locked(mm: &Mm) -> bool {
    // SAFETY: `mm` is valid, as it is a reference.
    unsafe { glue::emm_mm_write_locked(mm.as_raw()) }
}
