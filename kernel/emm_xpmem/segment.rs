// SPDX-License-Identifier: GPL-2.0

//! Memory that a process shares.
//!
//! C header: `glue.h`.

use crate::{glue, limits::Charge};
use kernel::{
    cred::Credential,
    error::to_result,
    mm::{Mm, MmWithUser},
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc,
    },
    types::Opaque,
};

/// Bytes of a page.
pub(crate) const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// The files that attachments are mappings of, while the module is loaded.
pub(crate) struct Files(());

impl Files {
    /// Once, when the module is loaded.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context, and once.
        to_result(unsafe { glue::emm_xpmem_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // SAFETY: `new` succeeded. Each file holds the module, so there are none.
        unsafe { glue::emm_xpmem_exit() };
    }
}

/// The identity of a segment, as user space has it: above 0, and never another one's.
pub(crate) type SegId = i64;

/// What is shared: a range of the owner's address space.
///
/// # Invariants
///
/// `inner` is initialised, and ended only once: by who set `ended`.
#[pin_data(PinnedDrop)]
pub(crate) struct Segment {
    #[pin]
    inner: Opaque<glue::emm_xpmem_segment>,
    /// Compared, and asked for its user namespace.
    mm: ARef<Mm>,
    /// Who made it, then.
    owner: ARef<Credential>,
    /// Permissions, 0 to 0o777.
    mode: u32,
    start: u64,
    length: u64,
    ended: Atomic<bool>,
    _charge: Charge,
}

// SAFETY: C code may be called for it on any thread.
unsafe impl Send for Segment {}
// SAFETY: … and by several at once.
unsafe impl Sync for Segment {}

/// What a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read.
    Read,
    /// To read and write.
    Write,
}

impl Segment {
    /// `length` bytes at `start` of the current process, whose memory is `mm`: all that lies behind
    /// `start`, now and later, if that is `u64::MAX`. Pages are shared as a whole. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is empty, not in user space, or has an attachment in it; `ENOMEM`, `EINTR`.
    pub(crate) fn new(
        mm: &MmWithUser,
        start: u64,
        length: u64,
        mode: u32,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let limit = user_space();
        let all = length == u64::MAX;
        let length = if all { limit.saturating_sub(start) } else { length };
        let end = start.checked_add(length).ok_or(EINVAL)?;
        if length == 0 || end > limit {
            return Err(EINVAL);
        }
        // The end of user space is that of a page.
        let (first, bytes) = whole_pages(start, length).ok_or(EINVAL)?;
        // Those of all the address space are found when they are touched: no region has them.
        // SAFETY: the current process has memory, as it is `mm`, and its lock is not held.
        if !all && unsafe { glue::emm_xpmem_is_attached(first, bytes) } {
            return Err(EINVAL);
        }
        let raw = mm.as_raw();
        let bytes = if all && first == 0 { u64::MAX } else { bytes };
        Arc::pin_init(
            try_pin_init!(Self {
                // SAFETY: `slot` is pinned, hence stays until `drop` gives it back; `mm` has users.
                inner <- Opaque::try_ffi_init(move |slot| to_result(unsafe {
                    glue::emm_xpmem_segment_init(slot, raw, first, bytes)
                })),
                mm: ARef::from(&**mm),
                owner: current_credential(),
                mode,
                start,
                length,
                ended: Atomic::new(false),
                _charge: charge,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// As C has it.
    pub(crate) fn as_raw(&self) -> *mut glue::emm_xpmem_segment {
        self.inner.get()
    }

    /// The owner's address of `length` bytes at `offset`, if they lie in it.
    pub(crate) fn address(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        (length > 0 && end <= self.length).then(|| self.start + offset)
    }

    /// Whether it is memory of `mm`.
    pub(crate) fn is_of(&self, mm: &Mm) -> bool {
        core::ptr::eq(&*self.mm, mm)
    }

    /// Whether the current thread may have it, for `access`.
    pub(crate) fn permits(&self, access: Access) -> bool {
        let wants = match access {
            Access::Read => 4,
            Access::Write => 6,
        };
        // SAFETY: both are valid, as they are references.
        unsafe {
            glue::emm_xpmem_permits(
                self.owner.as_ptr(),
                self.mm.as_raw(),
                self.mode,
                wants,
            )
        }
    }

    /// Nobody reaches it any more. Sleeps.
    pub(crate) fn end(&self) {
        if !self.ended.xchg(true, Relaxed) {
            // SAFETY: initialised, and this is the only time, by the type's invariant.
            unsafe { glue::emm_xpmem_segment_end(self.as_raw()) };
        }
    }

    /// Whether it was ended, or its owner is gone. Sleeps.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.load(Relaxed) || self.mm.mmget_not_zero().is_none()
    }

    /// Takes out what attachments have of it. They fault anew. Sleeps.
    pub(crate) fn zap(&self) {
        // SAFETY: initialised, by the type's invariant.
        unsafe { glue::emm_xpmem_segment_zap(self.as_raw()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Segment {
    fn drop(self: Pin<&mut Self>) {
        self.end();
        // SAFETY: ended above or before; who has an attachment has a reference on this.
        unsafe { glue::emm_xpmem_segment_free(self.as_raw()) };
    }
}

/// The first address behind user space.
pub(crate) fn user_space() -> u64 {
    // SAFETY: reads a property of the current task.
    unsafe { glue::emm_xpmem_task_size() }
}

/// The pages that `length` bytes at `start` lie in, as bytes.
pub(crate) fn whole_pages(start: u64, length: u64) -> Option<(u64, u64)> {
    let first = start - start % PAGE;
    let end = start.checked_add(length)?.checked_next_multiple_of(PAGE)?;
    Some((first, end - first))
}

fn current_credential() -> ARef<Credential> {
    // SAFETY: the current task's; the reference is given to the caller.
    let cred = unsafe { glue::emm_xpmem_current_cred() };
    // SAFETY: valid, and the reference is ours.
    unsafe { ARef::from_raw(core::ptr::NonNull::new_unchecked(cred.cast_mut().cast())) }
}
