// SPDX-License-Identifier: GPL-2.0

//! The permission to attach a segment.
//!
//! C header: `glue.h`.

use crate::{
    glue,
    limits::Charge,
    segment::{Access, Segment},
};
use kernel::{container_of, prelude::*, sync::Arc, types::Opaque};

/// The identity of a grant, as user space has it: above 0, and never another one's.
pub(crate) type ApId = i64;

/// What a process got by GET. Each attachment has a reference.
///
/// # Invariants
///
/// `inner` is initialised, and its segment is `segment`'s.
#[pin_data]
pub(crate) struct Grant {
    #[pin]
    inner: Opaque<glue::emm_xpmem_grant>,
    segment: Arc<Segment>,
    _charge: Charge,
}

// SAFETY: C code may be called for it on any thread.
unsafe impl Send for Grant {}
// SAFETY: … and by several at once.
unsafe impl Sync for Grant {}

impl Grant {
    /// One for `access` to `segment`, which was permitted.
    pub(crate) fn new(
        segment: Arc<Segment>,
        access: Access,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let raw = segment.as_raw();
        let writable = access == Access::Write;
        Arc::pin_init(
            pin_init!(Self {
                // SAFETY: `slot` is valid for writing; the segment outlives it, as it is held here.
                inner <- Opaque::ffi_init(move |slot| unsafe {
                    glue::emm_xpmem_grant_init(slot, raw, writable)
                }),
                segment,
                _charge: charge,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// What it is for.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Maps `length` bytes at `address` of the owner into the current process, at `at` if that is not
    /// 0. Sleeps; the current process's mmap_lock is not held.
    pub(crate) fn attach(self: Arc<Self>, address: u64, length: u64, at: u64) -> Result<u64> {
        let inner = Arc::into_raw(self);
        // SAFETY: valid: it was just made from an `Arc`.
        let inner = unsafe { (*inner).inner.get() };
        // SAFETY: the reference is given away here. The current process has memory: an ioctl of it
        // is this one's caller.
        let at = unsafe { glue::emm_xpmem_attach(inner, address, length, at) };
        if at < 0 {
            return Err(Error::from_errno(at as i32));
        }
        Ok(at as u64)
    }

    /// Nothing can be reached with it any more. `here`: the current process is the one that got it;
    /// its attachments are unmapped. Sleeps.
    pub(crate) fn release(&self, here: bool) {
        // SAFETY: C code reads it at any time, and nobody writes anything else.
        unsafe { (&raw mut (*self.inner.get()).released).write_volatile(true) };
        if here {
            // SAFETY: initialised; the current process has memory, and its mmap_lock is not held.
            unsafe { glue::emm_xpmem_detach_all(self.inner.get()) };
        }
        // Those that are elsewhere, if any.
        self.segment.zap();
    }
}

as_declared!(emm_xpmem_grant_put);

/// See `glue.h`.
///
/// # Safety
///
/// `grant` is part of a [`Grant`], of which the caller gives a reference back.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_xpmem_grant_put(grant: *mut glue::emm_xpmem_grant) {
    let inner = Opaque::cast_from(grant);
    // SAFETY: by this function's contract.
    let grant = unsafe { container_of!(inner, Grant, inner) };
    // SAFETY: by this function's contract; `attach` took it out of an `Arc`.
    drop(unsafe { Arc::from_raw(grant) });
}
