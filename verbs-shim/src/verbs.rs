// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registration entry points of libibverbs, hooked.
//!
//! `ibv_reg_mr` is a macro in current headers, which ends in the function of that name or in
//! `ibv_reg_mr_iova2`; libibverbs itself calls the latter through its own PLT, so that one
//! registration can come by here twice. A registration that is on-demand already is passed on as
//! it is, which makes the second pass do nothing.
//!
//! Source: `infiniband/verbs.h` of rdma-core 56.

use crate::policy::{self, Backing, Choice, KEPT, Mode, UNPINNED};
use core::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    mem, ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

/// `IBV_ACCESS_ON_DEMAND`
const ON_DEMAND: c_uint = 1 << 6;
/// `IBV_REREG_MR_CHANGE_ACCESS`
const REREG_ACCESS: c_int = 1 << 2;

/// `struct ibv_pd`, as far as it is read.
#[repr(C)]
pub struct Pd {
    context: *const Context,
}

/// `struct ibv_context`, as far as it is read.
#[repr(C)]
struct Context {
    device: *const c_void,
}

/// `struct ibv_mr`, as far as it is read.
#[repr(C)]
pub struct Mr {
    context: *const Context,
    pd: *const Pd,
}

type RegMr = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
type RegMrIova = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, u64, c_int) -> *mut Mr;
type RegMrIova2 = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, u64, c_uint) -> *mut Mr;
type ReregMr = unsafe extern "C" fn(*mut Mr, c_int, *mut Pd, *mut c_void, usize, c_int) -> c_int;
type DeviceName = unsafe extern "C" fn(*const c_void) -> *const c_char;

/// A function of libibverbs, looked up once.
struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address; null if libibverbs is not there or lacks it.
    fn get(&self) -> *mut c_void {
        let known = self.address.load(Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name ends with a zero byte.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null() {
            // Python and others load libibverbs locally: it is behind nobody then.
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
            // SAFETY: the name ends with a zero byte; the handle is kept.
            let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), flags) };
            if !library.is_null() {
                // SAFETY: a valid handle, and a name that ends with a zero byte.
                found = unsafe { libc::dlsym(library, self.name.as_ptr()) };
            }
        }
        self.address.store(found, Relaxed);
        found
    }
}

static REG_MR: Real = Real::new(c"ibv_reg_mr");
static REG_MR_IOVA: Real = Real::new(c"ibv_reg_mr_iova");
static REG_MR_IOVA2: Real = Real::new(c"ibv_reg_mr_iova2");
static REREG_MR: Real = Real::new(c"ibv_rereg_mr");
static DEVICE_NAME: Real = Real::new(c"ibv_get_device_name");

fn set_errno(value: c_int) {
    // SAFETY: callable anywhere.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno.
    unsafe { *errno = value };
}

fn errno() -> c_int {
    // SAFETY: callable anywhere.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno.
    unsafe { *errno }
}

/// Where the on-demand paging of the device behind `pd` comes from.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs, or null.
unsafe fn backing(pd: *const Pd) -> Backing {
    let name_of = DEVICE_NAME.get();
    if pd.is_null() || name_of.is_null() {
        return Backing::Device;
    }
    // SAFETY: `pd` is valid.
    let context = unsafe { (*pd).context };
    // SAFETY: the context of a valid protection domain is open.
    let device = unsafe { (*context).device };
    // SAFETY: the address is that of `ibv_get_device_name`.
    let name_of: DeviceName = unsafe { mem::transmute(name_of) };
    // SAFETY: the device of an open context.
    let name = unsafe { name_of(device) };
    // SAFETY: the name is part of the device.
    let name = unsafe { CStr::from_ptr(name) };
    let mut backend = [0; 32];
    let backend = policy::read_file(c"/sys/module/rdma_rxe/parameters/mr_backend", &mut backend);
    policy::backing(is_rxe(name), backend)
}

/// Whether the device is Soft-RoCE: of the drivers in the tree, it alone has the attribute `parent`.
fn is_rxe(device: &CStr) -> bool {
    let mut path = [0_u8; 128];
    let parts = [
        b"/sys/class/infiniband/".as_slice(),
        device.to_bytes(),
        b"/parent",
    ];
    let mut len = 0;
    for part in parts {
        let Some(room) = path[..127].get_mut(len..len + part.len()) else {
            return false;
        };
        room.copy_from_slice(part);
        len += part.len();
    }
    // SAFETY: the path ends with a zero byte: its last byte is never written.
    unsafe { libc::access(path.as_ptr().cast(), libc::F_OK) == 0 }
}

/// Registers `length` bytes through `register`, which gets the access flags.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs.
unsafe fn register_on_demand(
    pd: *const Pd,
    length: usize,
    access: c_uint,
    register: impl Fn(c_uint) -> *mut Mr,
) -> *mut Mr {
    let mode = policy::mode();
    if access & ON_DEMAND != 0 || mode == Mode::Off {
        return register(access);
    }
    let before = errno();
    // SAFETY: by this function's contract.
    let backing = unsafe { backing(pd) };
    let choice = policy::choose(mode, backing);
    set_errno(before);
    if choice == Choice::Keep {
        KEPT.add(length);
        policy::warn_once(format_args!(
            "memory stays pinned: the on-demand paging of in-tree rxe corrupts data; load \
             ib_emm and set /sys/module/rdma_rxe/parameters/mr_backend to emm (or VERBS_SHIM=force)"
        ));
        set_errno(before);
        return register(access);
    }
    let mr = register(access | ON_DEMAND);
    if !mr.is_null() {
        UNPINNED.add(length);
        return mr;
    }
    if choice == Choice::OnDemand {
        return mr;
    }
    let cause = errno();
    policy::warn_once(format_args!(
        "memory stays pinned: on-demand registration of {length} bytes failed with errno {cause}"
    ));
    KEPT.add(length);
    set_errno(before);
    register(access)
}

/// Null, with `errno` set: libibverbs or this function of it is not there.
fn absent() -> *mut Mr {
    set_errno(libc::ENOSYS);
    ptr::null_mut()
}

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
    let real = REG_MR.get();
    if real.is_null() {
        return absent();
    }
    // SAFETY: the address is that of `ibv_reg_mr`.
    let real: RegMr = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let register = |access| unsafe { real(pd, addr, length, access as c_int) };
    // SAFETY: the program's protection domain.
    unsafe { register_on_demand(pd, length, access as c_uint, register) }
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
    let real = REG_MR_IOVA.get();
    if real.is_null() {
        return absent();
    }
    // SAFETY: the address is that of `ibv_reg_mr_iova`.
    let real: RegMrIova = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let register = |access| unsafe { real(pd, addr, length, iova, access as c_int) };
    // SAFETY: the program's protection domain.
    unsafe { register_on_demand(pd, length, access as c_uint, register) }
}

/// Hook of `ibv_reg_mr_iova2(3)`.
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
    let real = REG_MR_IOVA2.get();
    if real.is_null() {
        return absent();
    }
    // SAFETY: the address is that of `ibv_reg_mr_iova2`.
    let real: RegMrIova2 = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let register = |access| unsafe { real(pd, addr, length, iova, access) };
    // SAFETY: the program's protection domain.
    unsafe { register_on_demand(pd, length, access, register) }
}

/// Hook of `ibv_rereg_mr(3)`: a change of access keeps the region on demand. A region that could
/// not be made so is changed as the program asks.
///
/// # Safety
///
/// As the function itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_rereg_mr(
    mr: *mut Mr,
    flags: c_int,
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    let real = REREG_MR.get();
    if real.is_null() {
        set_errno(libc::ENOSYS);
        return libc::ENOSYS;
    }
    // SAFETY: the address is that of `ibv_rereg_mr`.
    let real: ReregMr = unsafe { mem::transmute(real) };
    // SAFETY: the program's arguments, and flags that the function knows.
    let change = |access| unsafe { real(mr, flags, pd, addr, length, access) };
    let on_demand = access | ON_DEMAND as c_int;
    if flags & REREG_ACCESS == 0 || on_demand == access || policy::mode() == Mode::Off {
        return change(access);
    }
    // SAFETY: the program's region.
    let own_pd = unsafe { (*mr).pd };
    // SAFETY: the protection domain of a registered region is valid.
    let backing = unsafe { backing(own_pd) };
    match policy::choose(policy::mode(), backing) {
        Choice::Keep => change(access),
        Choice::OnDemand => change(on_demand),
        Choice::TryOnDemand => match change(on_demand) {
            0 => 0,
            _ => change(access),
        },
    }
}
