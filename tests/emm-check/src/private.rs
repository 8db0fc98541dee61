//! Two verbs that rxe's provider in rdma-core 56 lacks: `ibv_advise_mr` (it has it from 59 on) and `ibv_rereg_mr` end in
//! EOPNOTSUPP there without asking the kernel. libibverbs exports what other providers call for them, as private symbols, which
//! are looked up here: `ibv_cmd_advise_mr` takes the arguments of `ibv_advise_mr`, `ibv_cmd_rereg_mr` also room for the
//! kernel's command and answer.

use std::ffi::CStr;
use std::io;
use std::ptr;

use anyhow::{Result, bail};

use crate::ffi;
use crate::qp::errno_of;
use crate::verbs::{Mr, Pd};

// SAFETY: to be called with live objects, as the manual pages of the public functions say; the types are those of rdma-core's headers.
type AdviseMr = unsafe extern "C" fn(
    *mut ffi::ibv_pd,
    ffi::ib_uverbs_advise_mr_advice,
    u32,
    *mut ffi::ibv_sge,
    u32,
) -> i32;

// SAFETY: as above; command and answer have the sizes that are passed.
type ReregMr = unsafe extern "C" fn(
    *mut ffi::ibv_mr,
    u32,
    *mut libc::c_void,
    usize,
    u64,
    i32,
    *mut ffi::ibv_pd,
    *mut ReregCommand,
    usize,
    *mut ffi::ib_uverbs_rereg_mr_resp,
    usize,
) -> i32;

/// `struct ibv_rereg_mr` of libibverbs.
#[repr(C)]
#[derive(Default)]
struct ReregCommand {
    header: ffi::ib_uverbs_cmd_hdr,
    body: ffi::ib_uverbs_rereg_mr,
}

fn symbol(name: &CStr) -> Result<*mut libc::c_void> {
    // The bindings have opened it, for themselves only; it stays open.
    let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
    // SAFETY: the name is NUL-terminated.
    let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), flags) };
    if library.is_null() {
        bail!("libibverbs.so.1 is not loaded");
    }
    // SAFETY: the library is open, the name is NUL-terminated.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        bail!("libibverbs has no {}", name.to_string_lossy());
    }
    Ok(found)
}

fn result(ret: i32) -> io::Result<()> {
    if ret == 0 { Ok(()) } else { Err(errno_of(ret)) }
}

/// `ibv_advise_mr`.
#[derive(Clone, Copy)]
pub struct Advise(AdviseMr);

impl Advise {
    /// Looks it up.
    pub fn find() -> Result<Self> {
        let found = symbol(c"ibv_cmd_advise_mr")?;
        // SAFETY: the function has this type since libibverbs 34.
        Ok(Self(unsafe {
            std::mem::transmute::<*mut libc::c_void, AdviseMr>(found)
        }))
    }

    /// Advises about the elements of `list`.
    pub fn give(&self, pd: &Pd, advice: u32, flags: u32, list: &[ffi::ibv_sge]) -> io::Result<()> {
        let mut list = list.to_vec();
        let len = list.len() as u32;
        // SAFETY: the domain is alive, and the list outlives the call.
        result(unsafe { (self.0)(pd.as_raw(), advice, flags, list.as_mut_ptr(), len) })
    }
}

/// What a region is to become; what is None stays.
#[derive(Clone, Copy, Default)]
pub struct Change<'a> {
    /// Another protection domain, which must outlive the region.
    pub pd: Option<&'a Pd>,
    /// Other access.
    pub access: Option<u32>,
    /// Another range: address and length.
    pub range: Option<(usize, usize)>,
    /// More flags, for those that do not exist.
    pub flags: u32,
}

/// `ibv_rereg_mr`.
#[derive(Clone, Copy)]
pub struct Rereg(ReregMr);

impl Rereg {
    /// Looks it up.
    pub fn find() -> Result<Self> {
        let found = symbol(c"ibv_cmd_rereg_mr")?;
        // SAFETY: the function has this type since libibverbs 34; `struct verbs_mr` begins with the public one.
        Ok(Self(unsafe {
            std::mem::transmute::<*mut libc::c_void, ReregMr>(found)
        }))
    }

    /// Changes the region.
    pub fn change(&self, mr: &Mr, change: Change<'_>) -> io::Result<()> {
        let mut command = ReregCommand::default();
        let mut answer = ffi::ib_uverbs_rereg_mr_resp::default();
        let mut flags = change.flags;
        for (asked, flag) in [
            (change.pd.is_some(), ffi::IBV_REREG_MR_CHANGE_PD),
            (change.access.is_some(), ffi::IBV_REREG_MR_CHANGE_ACCESS),
            (change.range.is_some(), ffi::IBV_REREG_MR_CHANGE_TRANSLATION),
        ] {
            flags |= if asked { flag } else { 0 };
        }
        let (start, length) = change.range.unwrap_or_default();
        // SAFETY: region and domain are alive, and command and answer have the sizes that are said.
        result(unsafe {
            (self.0)(
                mr.as_raw(),
                flags,
                start as *mut libc::c_void,
                length,
                start as u64,
                change.access.unwrap_or(0) as i32,
                change.pd.map_or(ptr::null_mut(), Pd::as_raw),
                &mut command,
                size_of::<ReregCommand>(),
                &mut answer,
                size_of::<ffi::ib_uverbs_rereg_mr_resp>(),
            )
        })
    }
}
