// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions behind the hooks.
//!
//! A program's call goes on to who comes next: another preloaded library that wraps verbs, or libibverbs. What such a library or
//! libibverbs itself calls from inside comes by here too, and goes to libibverbs' own function. Under an audit the wrapper's "next"
//! would be this library again, and so on for ever.
//!
//! Of several copies of libibverbs, "own" is the one that made the object of the call.

use crate::{
    maker::{MAKERS, Maker},
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

    /// Whether an object is a copy of it, by whatever name: it has what is made for no program.
    pub(crate) fn is_copy(self, object: &Object<'_>) -> bool {
        self.is(object.name()) > 0 || object.find(self.inner()).is_some()
    }

    /// A function of it that other libraries have no reason to wrap: what providers call, or mlx5's steering's own.
    pub(crate) fn inner(self) -> &'static CStr {
        match self {
            Self::Verbs => c"ibv_cmd_reg_mr",
            Self::Mlx5 => c"mlx5dv_init_obj",
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

/// A function that was found; or that there is none, with the address 0.
struct Found {
    address: usize,
    holds_for: u64,
}

impl Found {
    /// There is none, and none will come.
    const NOTHING: Self = Self {
        address: 0,
        holds_for: FOR_GOOD,
    };

    fn new(object: &Object<'_>, name: &CStr) -> Option<Self> {
        let address = object.find(name)?;
        Some(Self {
            address,
            ..Self::missing_in(object)
        })
    }

    /// The object lacks it.
    fn missing_in(object: &Object<'_>) -> Self {
        let stays = object.at < start::objects();
        Self {
            address: 0,
            holds_for: if stays { FOR_GOOD } else { object.unloaded },
        }
    }
}

/// A function of a library.
pub(crate) struct Real {
    name: &'static CStr,
    library: Library,
    /// Of another preloaded library.
    next: Place,
    /// Of the library, where nothing tells which copy of it.
    own: Place,
    /// Of the copies of the library, by the numbers of their makers.
    of: [Place; MAKERS],
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
            of: [const { Place::new() }; MAKERS],
        }
    }

    /// Where a call goes on with an object of `maker`: to who comes next if it is the program's, and to the library's own function if
    /// it comes from inside another. Null if the library is not loaded or lacks it.
    pub(crate) fn get(&self, outermost: Option<&Outermost>, maker: Maker) -> *mut c_void {
        let next = match outermost {
            Some(_) => self.next.get(|| self.find_next()),
            None => ptr::null_mut(),
        };
        if next.is_null() {
            self.own(maker)
        } else {
            next
        }
    }

    /// The function of the copy of the library that made the object; null if it is not loaded or lacks it.
    pub(crate) fn own(&self, maker: Maker) -> *mut c_void {
        if maker == Maker::UNKNOWN {
            return self.own.get(|| self.find_own());
        }
        match maker.number() {
            Some(number) => self.of[number].get(|| self.find_of(maker)),
            None => self
                .find_of(maker)
                .map_or(ptr::null_mut(), |found| found.address as *mut c_void),
        }
    }

    /// In an object behind this one that came with the program, as preloaded ones do. If that is a copy of the library itself, nobody
    /// comes between: which copy a call goes to is a matter of its object.
    #[cold]
    fn find_next(&self) -> Option<Found> {
        let came = start::objects();
        if came == 0 {
            return None;
        }
        let here = ptr::from_ref(self) as usize;
        let mut behind = false;
        let mut found = None;
        each_object(|object| {
            if behind && object.at < came {
                found = Found::new(object, self.name);
                if found.is_some() && self.library.is_copy(object) {
                    found = Some(Found::NOTHING);
                }
            }
            behind |= object.holds(here);
            found.is_none() && object.at < came
        });
        // Of those that came with the program none goes, and no other comes.
        found.or(Some(Found::NOTHING))
    }

    /// In the copy of the library that holds the maker's place.
    #[cold]
    fn find_of(&self, maker: Maker) -> Option<Found> {
        let mut found = None;
        each_object(|object| {
            if !object.holds(maker.place()) {
                return true;
            }
            found = Found::new(object, self.name).or_else(|| {
                let lacks = self.library.is_copy(object);
                lacks.then(|| Found::missing_in(object))
            });
            false
        });
        // A maker that is no such library: a driver that fills in all of a context.
        found.or_else(|| self.find_own())
    }

    /// In the library, wherever it is: Python and others load it for themselves alone.
    #[cold]
    fn find_own(&self) -> Option<Found> {
        let mut best = 0;
        let mut found = None;
        each_object(|object| {
            // One that came with the program is the one that it is linked with.
            let rank = match self.library.is(object.name()) {
                0 => 0,
                rank if object.at < start::objects() => rank + 2,
                rank => rank,
            };
            let better = (rank > best).then(|| Found::new(object, self.name));
            if let Some(new) = better.flatten() {
                best = rank;
                found = Some(new);
            }
            best < 4
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
