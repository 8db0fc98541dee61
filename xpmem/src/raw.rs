// SPDX-License-Identifier: MIT OR Apache-2.0

//! The seven calls as they are, on the process's one descriptor of `/dev/xpmem`.
//!
//! It is opened by the first call, and again by the first one after a fork. Without the device a call fails with the error of opening
//! it, `ENOENT` if the module is not loaded.

use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::ptr::null_mut;

use crate::abi::{ATTACH, Attach, DETACH, GET, Get, MAKE, Make, One, RELEASE, REMOVE, VERSION};
use crate::device::{Device, Linux, System};

/// Who answers calls.
pub(crate) trait Driver: Sync {
    /// # Safety
    ///
    /// `argument` is what `request` takes, and may be read and written twice.
    unsafe fn call(&self, request: c_ulong, argument: *mut c_void) -> Result<c_int, c_int>;
}

impl<S: System + Sync> Driver for Device<S> {
    unsafe fn call(&self, request: c_ulong, argument: *mut c_void) -> Result<c_int, c_int> {
        // SAFETY: as the caller promises.
        unsafe { self.call(request, argument) }
    }
}

static DEVICE: Device<Linux> = Device::new(Linux);

/// The device of this machine.
pub(crate) fn device() -> &'static dyn Driver {
    &DEVICE
}

/// Calls with a structure of `abi` as argument.
///
/// # Safety
///
/// `request` takes a `T`.
unsafe fn with<T>(driver: &dyn Driver, request: c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: as the caller promises; the structure outlives the call.
    let answer = unsafe { driver.call(request, (&raw mut *argument).cast()) };
    answer.map(drop).map_err(io::Error::from_raw_os_error)
}

pub(crate) fn make_by(driver: &dyn Driver, mut make: Make) -> io::Result<i64> {
    // SAFETY: it takes this.
    unsafe { with(driver, MAKE, &mut make) }?;
    Ok(make.segid)
}

pub(crate) fn get_by(driver: &dyn Driver, mut get: Get) -> io::Result<i64> {
    // SAFETY: it takes this.
    unsafe { with(driver, GET, &mut get) }?;
    Ok(get.apid)
}

pub(crate) fn attach_by(driver: &dyn Driver, mut attach: Attach) -> io::Result<*mut c_void> {
    // SAFETY: it takes this.
    unsafe { with(driver, ATTACH, &mut attach) }?;
    Ok(std::ptr::with_exposed_provenance_mut(attach.vaddr as usize))
}

pub(crate) fn one_by(driver: &dyn Driver, request: c_ulong, id: i64) -> io::Result<()> {
    // SAFETY: those with one field take this.
    unsafe { with(driver, request, &mut One { id }) }
}

/// The version of the interface: `0x26005` or newer.
///
/// # Errors
/// No device.
pub fn version() -> io::Result<c_int> {
    // SAFETY: it takes no argument.
    let answer = unsafe { device().call(VERSION, null_mut()) };
    answer.map_err(io::Error::from_raw_os_error)
}

/// Lets other processes attach `size` bytes at `vaddr`, or the pages that they are in, or all of the address space, now and later ([`crate::abi::WHOLE`]).
/// Returns the segment's identifier.
///
/// # Errors
/// `EINVAL`: a wrong range, type or mode, or an attachment is in the range; `ENOMEM`.
///
/// # Safety
///
/// Who may attach it reads the memory, and writes it if the mode lets him, at any time until the segment is removed: no reference and no
/// copy of the compiler's must rest on what it holds.
pub unsafe fn make(
    vaddr: *mut c_void,
    size: usize,
    permit_type: c_int,
    permit_value: u64,
) -> io::Result<i64> {
    let make = Make {
        vaddr: vaddr.expose_provenance() as u64,
        size,
        permit_type,
        permit_value,
        segid: 0,
    };
    make_by(device(), make)
}

/// Ends a segment of this process. Who has attached it gets SIGBUS where he touches it.
///
/// # Errors
/// `EINVAL`, `ENOENT`: no such segment; `EACCES`: another process's.
pub fn remove(segid: i64) -> io::Result<()> {
    one_by(device(), REMOVE, segid)
}

/// Gets a permit for a segment, [`crate::abi::RDONLY`] or [`crate::abi::RDWR`]. Returns the permit's identifier.
///
/// # Errors
/// `EINVAL`: a wrong number; `ENOENT`: no such segment; `EACCES`: its mode, or its owner's other rights, do not allow it.
pub fn get(segid: i64, flags: c_int, permit_type: c_int) -> io::Result<i64> {
    let get = Get {
        segid,
        flags,
        permit_type,
        ..Get::default()
    };
    get_by(device(), get)
}

/// Gives a permit back, with what is attached by it.
///
/// # Errors
/// `EINVAL`, `ENOENT`: no such permit; `EACCES`: another process's.
///
/// # Safety
///
/// Nothing refers to memory that is attached by it.
pub unsafe fn release(apid: i64) -> io::Result<()> {
    one_by(device(), RELEASE, apid)
}

/// Maps `size` bytes, or the pages that they are in, at `offset` of the permit's segment, at `vaddr` if it is not null. Returns where.
///
/// # Errors
/// `EINVAL`: a wrong range, or an address or offset inside of a page; `ENOENT`: no such permit; `ENOMEM`.
///
/// # Safety
///
/// Nothing refers to what is mapped at `vaddr`: it is replaced.
pub unsafe fn attach(
    apid: i64,
    offset: i64,
    size: usize,
    vaddr: *mut c_void,
) -> io::Result<*mut c_void> {
    let attach = Attach {
        apid,
        offset,
        size,
        vaddr: vaddr.expose_provenance() as u64,
        ..Attach::default()
    };
    attach_by(device(), attach)
}

/// Unmaps the attachment that `vaddr` is in.
///
/// # Errors
/// `EINVAL`: there is none.
///
/// # Safety
///
/// Nothing refers to its memory.
pub unsafe fn detach(vaddr: *mut c_void) -> io::Result<()> {
    one_by(device(), DETACH, vaddr.expose_provenance() as i64)
}
