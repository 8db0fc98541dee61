// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registration entry points of libibverbs, replaced. Those that change and end regions are in
//! [`crate::ends`].
//!
//! `ibv_reg_mr` and `ibv_reg_mr_iova` are macros in current headers, which end in the functions of these
//! names or in `ibv_reg_mr_iova2`. Device memory and the NULL MR are registered by inline functions of
//! the header and don't come by here; `ibv_dereg_mr` meets them.

use crate::{
    abi::{
        MASK_ADDR, MASK_FD, MASK_IOVA, Mr, MrInitAttr, Pd, RegDmabufMr, RegMr, RegMrEx, RegMrIova,
        RegMrIova2,
    },
    absent::absent,
    ends::{WAYS, without_address},
    maker::Maker,
    outermost::Outermost,
    policy::{Request, Why},
    real::Real,
    register::{left_alone, register},
};
use core::{
    ffi::{CStr, c_int, c_uint, c_void},
    mem,
};

static REG_MR_IOVA2: Real = Real::new(c"ibv_reg_mr_iova2");

/// The names of all hooks.
pub(crate) const NAMES: &[&CStr] = &[
    c"ibv_reg_mr",
    c"ibv_reg_mr_iova",
    c"ibv_reg_mr_iova2",
    c"ibv_reg_mr_ex",
    c"ibv_reg_dmabuf_mr",
    c"ibv_rereg_mr",
    c"ibv_dereg_mr",
    c"ibv_dealloc_pd",
    c"ibv_unimport_pd",
    c"ibv_close_device",
    c"mlx5dv_open_device",
    c"mlx5dv_dr_domain_create",
];

/// Hook of `ibv_reg_mr(3)`.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr(
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> *mut Mr {
    static REAL: Real = Real::new(c"ibv_reg_mr");
    let outermost = Outermost::enter();
    let outermost = outermost.as_ref();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost, maker);
    if real.is_null() {
        return absent(c"ibv_reg_mr");
    }
    // SAFETY: the address is that of `ibv_reg_mr`.
    let real: RegMr = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let call = |access| unsafe { real(pd, addr, length, access as c_int) };
    let request = Request {
        addr: addr as usize,
        iova: addr as u64,
        length,
        access: access as c_uint,
    };
    // SAFETY: the program's protection domain.
    unsafe { register(pd, "ibv_reg_mr", outermost, request, WAYS, call) }
}

/// Hook of `ibv_reg_mr_iova(3)`.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr_iova(
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_int,
) -> *mut Mr {
    static REAL: Real = Real::new(c"ibv_reg_mr_iova");
    let outermost = Outermost::enter();
    let outermost = outermost.as_ref();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost, maker);
    if real.is_null() {
        return absent(c"ibv_reg_mr_iova");
    }
    // SAFETY: the address is that of `ibv_reg_mr_iova`.
    let real: RegMrIova = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let call = |access| unsafe { real(pd, addr, length, iova, access as c_int) };
    let request = Request {
        addr: addr as usize,
        iova,
        length,
        access: access as c_uint,
    };
    // SAFETY: the program's protection domain.
    unsafe { register(pd, "ibv_reg_mr_iova", outermost, request, WAYS, call) }
}

/// Hook of `ibv_reg_mr_iova2`, which the macros `ibv_reg_mr` and `ibv_reg_mr_iova` call.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr_iova2(
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_uint,
) -> *mut Mr {
    let outermost = Outermost::enter();
    let outermost = outermost.as_ref();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REG_MR_IOVA2.get(outermost, maker);
    if real.is_null() {
        return absent(c"ibv_reg_mr_iova2");
    }
    // SAFETY: the address is that of `ibv_reg_mr_iova2`.
    let real: RegMrIova2 = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let call = |access| unsafe { real(pd, addr, length, iova, access) };
    let request = Request {
        addr: addr as usize,
        iova,
        length,
        access,
    };
    // SAFETY: the program's protection domain.
    unsafe { register(pd, "ibv_reg_mr_iova2", outermost, request, WAYS, call) }
}

/// Hook of `ibv_reg_mr_ex(3)`. Memory by address is registered like anywhere else; the rest (dma-bufs,
/// processing hints, what later versions add) is left alone.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr_ex(pd: *mut Pd, attr: *mut MrInitAttr) -> *mut Mr {
    static REAL: Real = Real::new(c"ibv_reg_mr_ex");
    let outermost = Outermost::enter();
    let outermost = outermost.as_ref();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost, maker);
    if real.is_null() {
        return absent(c"ibv_reg_mr_ex");
    }
    // SAFETY: the address is that of `ibv_reg_mr_ex`.
    let real: RegMrEx = unsafe { mem::transmute(real) };
    // SAFETY: the program's attributes, which have this field in every version.
    let mask = unsafe { (*attr).comp_mask };
    // SAFETY: the same.
    let length = unsafe { (*attr).length };
    if mask & MASK_ADDR == 0 || mask & !(MASK_ADDR | MASK_IOVA) != 0 {
        let why = if mask & MASK_FD == 0 {
            Why::Unknown
        } else {
            Why::DmaBuf
        };
        // SAFETY: the program's arguments.
        return without_address(left_alone(why, length, outermost, || unsafe {
            real(pd, attr)
        }));
    }
    // SAFETY: the mask names no field behind those that are copied.
    let attr = unsafe { *attr };
    let call = |access: c_uint| {
        let mut attr = MrInitAttr {
            access: access as c_int,
            ..attr
        };
        // SAFETY: the program's arguments, and flags that the function knows.
        unsafe { real(pd, &mut attr) }
    };
    let addr = attr.addr as usize;
    let request = Request {
        addr,
        iova: match mask & MASK_IOVA {
            0 => addr as u64,
            _ => attr.iova,
        },
        length,
        access: attr.access as c_uint,
    };
    // SAFETY: the program's protection domain.
    unsafe { register(pd, "ibv_reg_mr_ex", outermost, request, WAYS, call) }
}

/// Hook of `ibv_reg_dmabuf_mr(3)`: counts only, for there are no pages of the process.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_dmabuf_mr(
    pd: *mut Pd,
    offset: u64,
    length: usize,
    iova: u64,
    fd: c_int,
    access: c_int,
) -> *mut Mr {
    static REAL: Real = Real::new(c"ibv_reg_dmabuf_mr");
    let outermost = Outermost::enter();
    let outermost = outermost.as_ref();
    // SAFETY: the program's protection domain.
    let maker = unsafe { Maker::of_domain(pd) };
    let real = REAL.get(outermost, maker);
    if real.is_null() {
        return absent(c"ibv_reg_dmabuf_mr");
    }
    // SAFETY: the address is that of `ibv_reg_dmabuf_mr`.
    let real: RegDmabufMr = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments.
    let call = || unsafe { real(pd, offset, length, iova, fd, access) };
    without_address(left_alone(Why::DmaBuf, length, outermost, call))
}

#[cfg(test)]
mod tests {
    use super::NAMES;
    use std::{collections::BTreeSet, fs, path::Path};

    /// The functions of this crate that have a C name of their own, by the sources: those of libibverbs and its providers.
    fn exported() -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            // The first piece is in front of all of them.
            for piece in text.split("#[unsafe(no_mangle)]\n").skip(1) {
                let name = piece.split_once(" fn ").unwrap().1;
                names.insert(name.split('(').next().unwrap().to_owned());
            }
        }
        names.retain(|name| name.starts_with("ibv_") || name.starts_with("mlx5dv_"));
        names
    }

    /// What an audit redirects to is what there is.
    #[test]
    fn names_are_those_of_the_hooks() {
        let names: BTreeSet<_> = NAMES
            .iter()
            .map(|name| name.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names.len(), NAMES.len(), "one is there twice");
        assert_eq!(names, exported());
    }
}
