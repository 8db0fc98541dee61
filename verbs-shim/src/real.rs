// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions behind the hooks.
//!
//! A program's call goes on to who comes next: another preloaded library that wraps verbs, or libibverbs. What such a library or
//! libibverbs itself calls from inside comes by here too, and goes to libibverbs' own function. Under an audit the wrapper's "next"
//! would be this library again, and so on for ever.

use crate::{
    outermost::Outermost,
    start,
    symbols::{Object, each_object},
};
use core::{
    ffi::{CStr, c_void},
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A library with functions that are hooked.
#[derive(Clone, Copy)]
pub(crate) enum Library {
    /// libibverbs
    Verbs,
    /// The provider of mlx5, which has functions of its own.
    Mlx5,
}

impl Library {
    /// Whether an object of this name is it: 2 if so, 1 if it is one of a Python wheel, which brings copies with a hash in their
    /// names (`libibverbs-1de1263b.so.1.14`), 0 else.
    pub(crate) fn is(self, name: &[u8]) -> u8 {
        let (usual, renamed): (_, &[u8]) = match self {
            Self::Verbs => (b"libibverbs.so".as_slice(), b"libibverbs-"),
            Self::Mlx5 => (b"libmlx5.so".as_slice(), b"libmlx5-"),
        };
        match name.starts_with(usual) {
            true => 2,
            false => u8::from(name.starts_with(renamed)),
        }
    }
}

/// An address, looked up at its first use.
struct Place {
    address: AtomicPtr<c_void>,
    /// For how many unloaded objects it holds; [`FOR_GOOD`] if its object never goes.
    holds_for: AtomicU64,
}

const FOR_GOOD: u64 = u64::MAX;
const NEVER: u64 = u64::MAX - 1;

impl Place {
    const fn new() -> Self {
        Self {
            address: AtomicPtr::new(ptr::null_mut()),
            holds_for: AtomicU64::new(NEVER),
        }
    }

    fn get(&self, look_up: impl FnOnce() -> Option<Found>) -> *mut c_void {
        let holds = match self.holds_for.load(Acquire) {
            FOR_GOOD => true,
            NEVER => false,
            then => then == unloaded(),
        };
        if holds {
            return self.address.load(Relaxed);
        }
        let Some(found) = look_up() else {
            return ptr::null_mut();
        };
        let address = found.address as *mut c_void;
        self.address.store(address, Relaxed);
        self.holds_for.store(found.holds_for, Release);
        address
    }
}

/// How often objects were unloaded up to now.
fn unloaded() -> u64 {
    let mut count = 0;
    each_object(|object| {
        count = object.unloaded;
        false
    });
    count
}

/// A function that was found.
struct Found {
    address: usize,
    holds_for: u64,
}

impl Found {
    fn new(object: &Object<'_>, name: &CStr) -> Option<Self> {
        let address = object.find(name)?;
        let stays = object.at < start::objects();
        Some(Self {
            address,
            holds_for: if stays { FOR_GOOD } else { object.unloaded },
        })
    }
}

/// A function of a library.
pub(crate) struct Real {
    name: &'static CStr,
    library: Library,
    next: Place,
    own: Place,
}

impl Real {
    /// libibverbs' function of this name.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self::of(Library::Verbs, name)
    }

    /// The library's function of this name.
    pub(crate) const fn of(library: Library, name: &'static CStr) -> Self {
        Self {
            name,
            library,
            next: Place::new(),
            own: Place::new(),
        }
    }

    /// Where a call goes on: to who comes next if it is the program's, and to the library's own function if it comes from inside
    /// another. Null if the library is not loaded or lacks it.
    pub(crate) fn get(&self, outermost: Option<&Outermost>) -> *mut c_void {
        match outermost {
            Some(_) => self
                .next
                .get(|| self.find_next().or_else(|| self.find_own())),
            None => self.own(),
        }
    }

    /// The library's own function; null if it is not loaded or lacks it.
    pub(crate) fn own(&self) -> *mut c_void {
        self.own.get(|| self.find_own())
    }

    /// In an object behind this one that came with the program, as preloaded ones do.
    #[cold]
    fn find_next(&self) -> Option<Found> {
        let here = ptr::from_ref(self) as usize;
        let mut behind = false;
        let mut found = None;
        each_object(|object| {
            if behind && object.at < start::objects() {
                found = Found::new(object, self.name);
            }
            behind |= object.holds(here);
            found.is_none()
        });
        found
    }

    /// In the library, wherever it is: Python and others load it for themselves alone.
    #[cold]
    fn find_own(&self) -> Option<Found> {
        let mut best = 0;
        let mut found = None;
        each_object(|object| {
            let rank = self.library.is(object.name());
            let better = (rank > best).then(|| Found::new(object, self.name));
            if let Some(new) = better.flatten() {
                best = rank;
                found = Some(new);
            }
            best < 2
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_by_name() {
        assert_eq!(Library::Verbs.is(b"libibverbs.so.1"), 2);
        assert_eq!(Library::Verbs.is(b"libibverbs-1de1263b.so.1.14"), 1);
        assert_eq!(Library::Verbs.is(b"libmlx5.so.1"), 0);
        assert_eq!(Library::Mlx5.is(b"libmlx5.so.1"), 2);
        assert_eq!(Library::Mlx5.is(b"libmlx5-rdmav59.so"), 1);
        assert_eq!(Library::Mlx5.is(b""), 0);
    }
}
