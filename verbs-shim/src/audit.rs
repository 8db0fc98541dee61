// SPDX-License-Identifier: MIT OR Apache-2.0

//! `LD_AUDIT`: for programs that ask libibverbs' handle for its functions, by `dlsym` or `dlvsym`.
//!
//! Such a look-up never meets a preloaded library. The dynamic linker tells an audit library of each
//! symbol that it binds, and takes the address that this one answers.
//!
//! An audit library lives in a namespace of its own, with a libc of its own, and another `errno`. So the
//! hooks that answer are those of the preloaded copy: `libverbs_shim.so` has to be in both variables.
//!
//! Source: `rtld-audit(7)`, `<link.h>`.

use crate::{
    hooks,
    real::Library,
    symbols::{self, Symbol, file_name},
    sys,
};
use core::{
    ffi::{CStr, c_char, c_long, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed},
};

/// `LAV_CURRENT` of glibc 2.35; older ones have 1.
const VERSION: c_uint = 2;
/// `LM_ID_BASE`: the program's namespace.
const BASE: c_long = 0;
/// `LA_FLG_BINDTO | LA_FLG_BINDFROM`
const TELL_ME: c_uint = 3;
/// `LA_SYMB_NOPLTENTER | LA_SYMB_NOPLTEXIT`
const NO_CALLS: c_uint = 3;

/// What an object is to this library; kept in the cookie that the linker hands back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Object {
    /// Any other
    Other = 0,
    /// libibverbs, or the provider of mlx5
    Verbs,
    /// The preloaded copy of this library
    Own,
}

/// `struct link_map`, as far as it is read.
#[repr(C)]
pub struct LinkMap {
    start: usize,
    name: *const c_char,
    dynamic: *mut c_void,
}

/// Start of the preloaded copy, and its dynamic section; 0 and null if there is none.
static PRELOADED: AtomicUsize = AtomicUsize::new(0);
static DYNAMIC: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// The linker's handshake.
///
/// # Safety
///
/// Called by the dynamic linker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn la_version(version: c_uint) -> c_uint {
    // A setuid program: 0 has the linker forget this library.
    if sys::is_secure() {
        return 0;
    }
    version.min(VERSION)
}

/// An object was loaded.
///
/// # Safety
///
/// Called by the dynamic linker, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn la_objopen(
    map: *mut LinkMap,
    namespace: c_long,
    cookie: *mut usize,
) -> c_uint {
    // SAFETY: the linker's map, which begins with these fields.
    let start = unsafe { (*map).start };
    // SAFETY: the same.
    let name = unsafe { (*map).name };
    // SAFETY: the same.
    let dynamic = unsafe { (*map).dynamic };
    // SAFETY: the linker's names end with a zero byte; the program's own is empty.
    let mut object = classify(unsafe { CStr::from_ptr(name) });
    // A copy of libibverbs by another name.
    let has = |library: Library| {
        // SAFETY: the object was just loaded.
        unsafe { symbols::find_in(start, dynamic, library.inner()) }.is_some()
    };
    if namespace == BASE && object == Object::Other && (has(Library::Verbs) || has(Library::Mlx5)) {
        object = Object::Verbs;
    }
    // SAFETY: the linker gives room for a cookie.
    unsafe { *cookie = object as usize };
    if namespace != BASE {
        return 0;
    }
    // Of several the first one, which comes first in the program's own look-ups too.
    if object == Object::Own && DYNAMIC.load(Relaxed).is_null() {
        PRELOADED.store(start, Relaxed);
        DYNAMIC.store(dynamic, Relaxed);
    }
    TELL_ME
}

/// What the object of this path is.
fn classify(path: &CStr) -> Object {
    let name = file_name(path.to_bytes());
    if Library::Verbs.is(name) > 0 || Library::Mlx5.is(name) > 0 {
        Object::Verbs
    } else if name.starts_with(b"libverbs_shim") {
        Object::Own
    } else {
        Object::Other
    }
}

/// A symbol is bound: answers with the address to be used.
///
/// # Safety
///
/// Called by the dynamic linker, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn la_symbind64(
    symbol: *mut Symbol,
    _index: c_uint,
    from: *mut usize,
    to: *mut usize,
    flags: *mut c_uint,
    name: *const c_char,
) -> usize {
    // SAFETY: the linker gives room for flags.
    unsafe { *flags |= NO_CALLS };
    // SAFETY: the linker's symbol; `value` is its address here.
    let found = unsafe { (*symbol).value } as usize;
    // SAFETY: the cookies were set by `la_objopen`.
    let from = unsafe { *from };
    // SAFETY: the same.
    let to = unsafe { *to };
    // What the hooks look up themselves is what they are to get, and so is what these libraries call in each other.
    let inside = from == Object::Own as usize || from == Object::Verbs as usize;
    if inside || to != Object::Verbs as usize {
        return found;
    }
    // SAFETY: the linker's names end with a zero byte.
    redirect(unsafe { CStr::from_ptr(name) }).unwrap_or(found)
}

/// The address of the preloaded copy's hook of this name: by its own table, for it may be another version than this copy.
fn redirect(name: &CStr) -> Option<usize> {
    if !hooks::NAMES.contains(&name) {
        return None;
    }
    // SAFETY: an object that came with the program, which stays.
    unsafe { symbols::find_in(PRELOADED.load(Relaxed), DYNAMIC.load(Relaxed), name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_by_name() {
        assert!(classify(c"/usr/lib/x86_64-linux-gnu/libibverbs.so.1") == Object::Verbs);
        assert!(classify(c"/opt/x/libverbs_shim.so") == Object::Own);
        assert!(classify(c"/opt/libibverbs.so.1/libother.so") == Object::Other);
        assert!(classify(c"") == Object::Other);
    }
}
