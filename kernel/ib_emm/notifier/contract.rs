// SPDX-License-Identifier: GPL-2.0

//! What a subscriber is told, and what it promises. `include/emm.h` states the same for C.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

use core::{cell::Cell, ffi::c_void};
use kernel::{bindings, mm::Mm, prelude::*};

/// What a subscriber is told. Ranges are user addresses [`start`, `end`).
pub(crate) trait EmmNotifier: Send + Sync + 'static {
    /// The address space goes away. May sleep. The last word: when it has returned, nothing more is
    /// told.
    fn emm_release(&self);

    /// The VM is about to unmap or re-protect pages of the range. On return nothing accesses them,
    /// and nothing begins to until the matching end. May sleep only if `event.blockable`; never
    /// allocates.
    ///
    /// # Errors
    ///
    /// `EAGAIN`, "not now", only if not `event.blockable`, and of a client that said so when it
    /// subscribed ([`Subscription::refusing`](super::Subscription::refusing)): the VM lets be what
    /// it was about to do, and may try again. The end follows in this case too.
    fn emm_invalidate_start(&self, event: &Invalidation<'_>) -> Result;

    /// The invalidation with the same range is over. Must not sleep.
    fn emm_invalidate_end(&self, event: &Invalidation<'_>);

    /// Whether a page of the range was used since the last call with `clear`. Must not sleep.
    fn emm_referenced(&self, start: u64, end: u64, clear: bool) -> bool;
}

/// Why the VM takes pages, or the rights to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// The range is unmapped, or moves.
    Unmap = bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP,
    /// Pages go, or are replaced by others; the mapping stays.
    Clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
    /// The mapping's rights change.
    ProtectionVma = bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA,
    /// The rights of single pages change.
    ProtectionPage = bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE,
    /// From now on it is noted who writes: same pages, same rights.
    SoftDirty = bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY,
    /// Pages move from or to a device's memory: that of `owner`.
    Migrate = bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE,
    /// Pages are to be used by the device of `owner` alone.
    Exclusive = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE,
}

impl Kind {
    /// The VM's `event`. One that is not known here takes pages.
    pub(super) fn of(event: bindings::mmu_notifier_event) -> Self {
        [
            Self::Unmap,
            Self::ProtectionVma,
            Self::ProtectionPage,
            Self::SoftDirty,
            Self::Migrate,
            Self::Exclusive,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == event)
        .unwrap_or(Self::Clear)
    }
}

/// How long the clients of one invalidation may keep it waiting for the sake of others, all
/// together. Nanoseconds.
#[derive(Debug)]
pub(crate) struct Patience(Cell<u64>);

impl Patience {
    /// So much for one invalidation.
    pub(crate) const fn new(ns: u64) -> Self {
        Self(Cell::new(ns))
    }

    /// What is left.
    pub(crate) fn left(&self) -> u64 {
        self.0.get()
    }

    /// `ns` of it are gone.
    pub(crate) fn spend(&self, ns: u64) {
        self.0.set(self.0.get().saturating_sub(ns));
    }
}

/// One invalidation, as its start and its end tell it.
pub(crate) struct Invalidation<'a> {
    /// The address space.
    pub(crate) mm: &'a Mm,
    /// First user address.
    pub(crate) start: u64,
    /// The address behind the last one.
    pub(crate) end: u64,
    /// Whether whoever is told may sleep.
    pub(crate) blockable: bool,
    /// Why.
    pub(crate) kind: Kind,
    /// Whose migration or exclusive use it is: a number to be compared, never followed.
    pub(crate) owner: *const c_void,
    /// What all who are told may spend on waiting together.
    pub(crate) patience: &'a Patience,
}
