// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which copy of a library made an object.
//!
//! A process can have several: a Python wheel brings a libibverbs of its own beside the system's, and each has its own layout of what
//! lies behind the public fields. So an object goes back to the copy that made it, whoever calls.

use crate::abi::{self, Context, Mr, Pd};
use core::{
    ffi::c_void,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A place in the object that made something; 0 if that can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker(usize);

impl Maker {
    /// Of something that does not say it: a context of an ABI from before 2012, or a null pointer.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The libibverbs of a region.
    ///
    /// # Safety
    ///
    /// `mr` is a region of libibverbs, or null.
    pub(crate) unsafe fn of_region(mr: *const Mr) -> Self {
        if mr.is_null() {
            return Self::UNKNOWN;
        }
        // SAFETY: by this function's contract.
        let context = unsafe { (*mr).context };
        // SAFETY: the context of a region is open.
        unsafe { Self::of_context(context) }
    }

    /// The libibverbs of a protection domain.
    ///
    /// # Safety
    ///
    /// `pd` is a protection domain of libibverbs, or null.
    pub(crate) unsafe fn of_domain(pd: *const Pd) -> Self {
        if pd.is_null() {
            return Self::UNKNOWN;
        }
        // SAFETY: by this function's contract.
        let context = unsafe { (*pd).context };
        // SAFETY: the context of a protection domain is open.
        unsafe { Self::of_context(context) }
    }

    /// The libibverbs of a context.
    ///
    /// # Safety
    ///
    /// `context` is an open context of libibverbs, or null.
    pub(crate) unsafe fn of_context(context: *mut Context) -> Self {
        if context.is_null() {
            return Self::UNKNOWN;
        }
        // SAFETY: by this function's contract.
        Self(unsafe { abi::library_of(context) } as usize)
    }

    /// The provider of a context.
    ///
    /// # Safety
    ///
    /// `context` is an open context of libibverbs, or null.
    pub(crate) unsafe fn provider_of_context(context: *mut Context) -> Self {
        if context.is_null() {
            return Self::UNKNOWN;
        }
        // SAFETY: by this function's contract.
        Self(unsafe { abi::provider_of(context) } as usize)
    }

    /// The provider of a device.
    ///
    /// # Safety
    ///
    /// `device` is a device of libibverbs, or null.
    pub(crate) unsafe fn provider_of_device(device: *const c_void) -> Self {
        if device.is_null() {
            return Self::UNKNOWN;
        }
        // SAFETY: by this function's contract.
        Self(unsafe { abi::provider_of_device(device) } as usize)
    }

    /// The place; 0 if it is unknown.
    pub(crate) fn place(self) -> usize {
        self.0
    }

    /// A number of its own, below [`MAKERS`]; `None` if it is unknown, or if there are more than that.
    pub(crate) fn number(self) -> Option<usize> {
        if self == Self::UNKNOWN {
            return None;
        }
        MET.iter().position(|slot| {
            let held = slot.load(Relaxed);
            held == self.0 || held == 0 && self.takes(slot)
        })
    }

    #[cold]
    fn takes(self, slot: &AtomicUsize) -> bool {
        match slot.compare_exchange(0, self.0, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(held) => held == self.0,
        }
    }
}

/// How many have numbers. Functions of others are looked up at each call.
pub(crate) const MAKERS: usize = 8;

/// The makers, by their numbers.
static MET: [AtomicUsize; MAKERS] = [const { AtomicUsize::new(0) }; MAKERS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_run_out() {
        assert_eq!(Maker::UNKNOWN.number(), None);
        let numbers: Vec<_> = (1..=MAKERS + 1).map(|at| Maker(at).number()).collect();
        assert_eq!(numbers[..2], [Some(0), Some(1)]);
        assert_eq!(numbers[MAKERS - 1..], [Some(MAKERS - 1), None]);
        assert_eq!(Maker(2).number(), Some(1));
    }
}
