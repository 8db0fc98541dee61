// SPDX-License-Identifier: MIT OR Apache-2.0

//! `VERBS_SHIM_PREFETCH`: asks the device to translate a new region before traffic meets it.
//!
//! Advice changes nothing: no page is written, copied or taken out of what it is shared with, no hole of a file is filled, and nobody is
//! waited for who may never answer. So it is to read, whatever the region allows; a page that the process itself may write is
//! translated for writing too by devices that look. Where to read a page would make it (a hole of a tmpfs file) or wait for a
//! userfaultfd's handler, advice is given for those that are there.
//!
//! Where the user space passes no advice on, the kernel is asked to have the pages ready, by `MADV_POPULATE_READ`.

use crate::{
    abi::{self, Mr, Sge},
    environment,
    log::{self, Warning},
    mappings::{self, Behind, Mapping},
    policy::Request,
    raw::{self, Uncancelled},
    settings::{Level, Prefetch},
    sys::Errno,
};
use core::{
    ffi::{c_int, c_uint},
    ops::Range,
};

/// `IBV_ADVISE_MR_ADVICE_PREFETCH`
const READ: c_uint = 0;
/// `IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT`
const PRESENT: c_uint = 2;
/// `IBV_ADVISE_MR_FLAG_FLUSH`: return when it is done.
const FLUSH: u32 = 1;
/// The most that one piece of advice covers: its length has 32 bits.
const PIECE: usize = 1 << 30;

/// Said once: neither libibverbs nor the kernel takes advice.
static REFUSED: Warning = Warning::new();
/// Said once: pages are read in instead.
static POPULATES: Warning = Warning::new();
/// Said once: some advice failed.
static FAILED: Warning = Warning::new();

/// Gives advice for the region of `request`, if the user wants that.
///
/// # Safety
///
/// `mr` is a region of libibverbs, of that request.
pub(crate) unsafe fn prefetch(mr: *mut Mr, request: Request) {
    let wanted = environment::get().prefetch;
    if wanted == Prefetch::None {
        return;
    }
    // It is given on the program's behalf, not in its call.
    let _whole = Uncancelled::begin();
    let range = request.addr..request.addr.saturating_add(request.length);
    let mut work = Work {
        mr,
        request,
        waits: wanted == Prefetch::Sync,
        page: raw::page_size(),
        populates: false,
        done: 0,
        over: false,
    };
    let seen = mappings::each(&range, |mapping| {
        // SAFETY: by this function's contract.
        unsafe { work.mapping(mapping, &range) };
        !work.over
    });
    if seen.is_none() {
        // A process without /proc: what is there is all that can be had without a change.
        // SAFETY: by this function's contract.
        unsafe { work.advise_all(PRESENT, range) };
    }
    let left = request.length.saturating_sub(work.done);
    if left > 0 && !work.over {
        log::say(
            Level::Info,
            format_args!(
                "{left} of {} bytes of a region were not prefetched: they can't be read, or are not there yet",
                request.length
            ),
        );
    }
}

/// The advice for one region.
struct Work {
    mr: *mut Mr,
    request: Request,
    /// Whether the registration waits for it.
    waits: bool,
    /// Bytes of a page.
    page: usize,
    /// Whether the kernel is asked to have pages ready, since nobody takes advice.
    populates: bool,
    /// Bytes that are done with.
    done: usize,
    /// Whether there is no point in going on.
    over: bool,
}

impl Work {
    /// Advice for the part of `all` that lies in a mapping.
    ///
    /// # Safety
    ///
    /// The region is one of libibverbs.
    unsafe fn mapping(&mut self, mapping: &Mapping, all: &Range<usize>) {
        if !mapping.readable {
            return;
        }
        let cut = |range: Range<usize>| range.start.max(all.start)..range.end.min(all.end);
        if mapping.behind != Behind::Other && !mapping.watched {
            let part = cut(mapping.range.clone());
            if !self.populates {
                // SAFETY: by this function's contract.
                unsafe { self.advise_all(READ, part.clone()) };
            }
            if !self.populates {
                return;
            }
            // Who does not wait does not wait for a disk either.
            if self.waits || mapping.behind == Behind::Nothing {
                return self.populate(part);
            }
        }
        if mapping.watched && mapping.behind != Behind::Nothing {
            // Pages of a file that are there and not mapped may be the handler's, too.
            // SAFETY: by this function's contract.
            return unsafe { self.advise_all(PRESENT, cut(mapping.range.clone())) };
        }
        let pages = mapping.range.start.max(all.start / self.page * self.page)
            ..mapping.range.end.min(all.end.next_multiple_of(self.page));
        if mapping.behind != Behind::Nothing {
            raw::will_need(pages.start, pages.len());
        }
        mappings::each_present(pages, self.page, |run| {
            if !self.over {
                // SAFETY: by this function's contract.
                unsafe { self.piece(cut(run)) };
            }
        });
    }

    /// Advice to read `range`, or what comes next to it.
    ///
    /// # Safety
    ///
    /// The region is one of libibverbs.
    unsafe fn piece(&mut self, range: Range<usize>) {
        if !self.populates {
            // SAFETY: by this function's contract.
            unsafe { self.advise_all(READ, range.clone()) };
        }
        if self.populates {
            self.populate(range);
        }
    }

    /// Advice for `range`, in pieces that one piece of advice can cover.
    ///
    /// # Safety
    ///
    /// The region is one of libibverbs.
    unsafe fn advise_all(&mut self, advice: c_uint, range: Range<usize>) {
        for (at, length) in pieces(&range) {
            // SAFETY: by this function's contract.
            let status = unsafe { self.advise(advice, at, length) };
            match status {
                0 => self.done += length as usize,
                // What is not mapped is the program's affair, and what passes (too much advice at once, pages that are taken
                // away meanwhile, a signal) is nobody's: the next part may have more luck.
                libc::EFAULT | libc::ENOMEM | libc::EAGAIN | libc::EINTR => {}
                libc::EOPNOTSUPP | libc::ENOSYS => {
                    self.populates = true;
                    return;
                }
                _ => {
                    self.over = true;
                    return FAILED.give(format_args!(
                        "a region was not prefetched: ibv_advise_mr failed with {}",
                        Errno(status)
                    ));
                }
            }
        }
    }

    /// # Safety
    ///
    /// The region is one of libibverbs.
    unsafe fn advise(&self, advice: c_uint, at: usize, length: u32) -> c_int {
        // SAFETY: by this function's contract.
        let pd = unsafe { (*self.mr).pd };
        // SAFETY: by this function's contract.
        let context = unsafe { (*self.mr).context };
        // SAFETY: by this function's contract.
        let lkey = unsafe { (*self.mr).lkey };
        // SAFETY: the context of a region is open.
        let Some(advise) = (unsafe { abi::advise_mr(context) }) else {
            return libc::EOPNOTSUPP;
        };
        let ahead = (at - self.request.addr) as u64;
        let mut range = Sge {
            addr: self.request.iova.wrapping_add(ahead),
            length,
            lkey,
        };
        let flags = if self.waits { FLUSH } else { 0 };
        // SAFETY: the operation's own domain, and one range of a region in it.
        unsafe { advise(pd, advice, flags, &mut range, 1) }
    }

    /// Has the kernel read the pages of `range` in; traffic translates them.
    fn populate(&mut self, range: Range<usize>) {
        let start = range.start / self.page * self.page;
        let length = range.end.next_multiple_of(self.page) - start;
        match raw::populate(start, length) {
            0 => {
                self.done += range.len();
                POPULATES.give(format_args!(
                    "pages are read in, and translated by traffic: the device takes no advice, or rdma-core is older than 59 and \
                     does not pass it on"
                ));
            }
            status @ (libc::EINVAL | libc::ENOSYS) => {
                self.over = true;
                REFUSED.give(format_args!(
                    "no prefetch: ibv_advise_mr is not passed on (rdma-core older than 59?), and madvise(MADV_POPULATE_READ) \
                     failed with {} (Linux older than 5.14?)",
                    Errno(status)
                ));
            }
            _ => {}
        }
    }
}

/// The range in pieces that one piece of advice can cover.
fn pieces(range: &Range<usize>) -> impl Iterator<Item = (usize, u32)> {
    let end = range.end;
    range
        .clone()
        .step_by(PIECE)
        .map(move |at| (at, (end - at).min(PIECE) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_in_pieces() {
        let all: Vec<_> = pieces(&(4096..4101)).collect();
        assert_eq!(all, [(4096, 5)]);
        let all: Vec<_> = pieces(&(7..8 + 2 * PIECE)).collect();
        let whole = PIECE as u32;
        assert_eq!(all, [(7, whole), (7 + PIECE, whole), (7 + 2 * PIECE, 1)]);
        assert_eq!(pieces(&(9..9)).count(), 0);
    }
}
