// SPDX-License-Identifier: MIT OR Apache-2.0

//! `VERBS_SHIM_PREFETCH`: asks the device to translate a new region before traffic meets it.

use crate::{
    abi::{self, LOCAL_WRITE, Mr, Sge},
    environment,
    log::Warning,
    raw::Uncancelled,
    settings::Prefetch,
    sys::Errno,
};
use core::ffi::{c_int, c_uint};

/// `IBV_ADVISE_MR_ADVICE_PREFETCH`
const READ: c_uint = 0;
/// `IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE`
const WRITE: c_uint = 1;
/// `IBV_ADVISE_MR_FLAG_FLUSH`: return when it is done.
const FLUSH: u32 = 1;
/// The most that one piece of advice covers: its length has 32 bits.
const PIECE: u64 = 1 << 30;

/// Said once: the device or libibverbs takes no advice.
static REFUSED: Warning = Warning::new();
/// Said once: some advice failed.
static FAILED: Warning = Warning::new();

/// Gives advice for `length` bytes of `mr` from `iova` on, if the user wants that.
///
/// # Safety
///
/// `mr` is a region of libibverbs.
pub(crate) unsafe fn prefetch(mr: *mut Mr, iova: u64, length: usize, access: c_uint) {
    let flags = match environment::get().prefetch {
        Prefetch::None => return,
        Prefetch::Async => 0,
        Prefetch::Sync => FLUSH,
    };
    let advice = if access & LOCAL_WRITE == 0 {
        READ
    } else {
        WRITE
    };
    // It is given on the program's behalf, not in its call.
    let _whole = Uncancelled::begin();
    for (at, length) in pieces(iova, length as u64) {
        // SAFETY: by this function's contract.
        let status = unsafe { advise(mr, advice, flags, at, length) };
        if status != 0 {
            return tell(status);
        }
    }
}

/// The range in pieces that one piece of advice can cover.
fn pieces(start: u64, length: u64) -> impl Iterator<Item = (u64, u32)> {
    (0..length.div_ceil(PIECE)).map(move |n| {
        let done = n * PIECE;
        (start.wrapping_add(done), (length - done).min(PIECE) as u32)
    })
}

/// # Safety
///
/// `mr` is a region of libibverbs.
unsafe fn advise(mr: *mut Mr, advice: c_uint, flags: u32, addr: u64, length: u32) -> c_int {
    // SAFETY: by this function's contract.
    let pd = unsafe { (*mr).pd };
    // SAFETY: by this function's contract.
    let context = unsafe { (*mr).context };
    // SAFETY: by this function's contract.
    let lkey = unsafe { (*mr).lkey };
    // SAFETY: the context of a region is open.
    let Some(advise) = (unsafe { abi::advise_mr(context) }) else {
        return libc::EOPNOTSUPP;
    };
    let mut range = Sge { addr, length, lkey };
    // SAFETY: the operation's own domain, and one range of a region in it.
    unsafe { advise(pd, advice, flags, &mut range, 1) }
}

/// Says once why there is no prefetch. A range that is not mapped is the program's affair, and what passes (too much advice at
/// once, pages that are taken away meanwhile, a signal) is nobody's: the next region may have more luck, or be another device's.
fn tell(status: c_int) {
    match status {
        libc::EFAULT | libc::ENOMEM | libc::EAGAIN | libc::EINTR => {}
        libc::EOPNOTSUPP | libc::ENOSYS => REFUSED.give(format_args!(
            "no prefetch: ibv_advise_mr failed with {}; the device can't, or rdma-core is older than 59 \
             and does not pass it on",
            Errno(status)
        )),
        _ => FAILED.give(format_args!(
            "a region was not prefetched: ibv_advise_mr failed with {}",
            Errno(status)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_in_pieces() {
        let all: Vec<_> = pieces(4096, 5).collect();
        assert_eq!(all, [(4096, 5)]);
        let all: Vec<_> = pieces(7, 2 * PIECE + 1).collect();
        let whole = PIECE as u32;
        assert_eq!(all, [(7, whole), (7 + PIECE, whole), (7 + 2 * PIECE, 1)]);
        assert_eq!(pieces(0, 0).count(), 0);
    }
}
