// SPDX-License-Identifier: MIT OR Apache-2.0

//! libibverbs, loaded when it is asked: this program must start where there is none.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr,
};

use anyhow::{Context as _, Result, bail};

use crate::abi::{self, Context, OdpCaps};

// SAFETY: to be called as the manual pages say; the types are those of verbs.h.
type GetDeviceList = unsafe extern "C" fn(*mut c_int) -> *mut *mut c_void;
type FreeDeviceList = unsafe extern "C" fn(*mut *mut c_void);
type GetDeviceName = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type OpenDevice = unsafe extern "C" fn(*mut c_void) -> *mut Context;
type CloseDevice = unsafe extern "C" fn(*mut Context) -> c_int;

/// The functions that are used.
struct Verbs {
    get_device_list: GetDeviceList,
    free_device_list: FreeDeviceList,
    get_device_name: GetDeviceName,
    open_device: OpenDevice,
    close_device: CloseDevice,
}

fn load() -> Result<Verbs> {
    // SAFETY: the name ends with a zero byte; libibverbs is made to be loaded.
    let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        bail!("libibverbs.so.1 is not installed");
    }
    let find = |name: &CStr| {
        // SAFETY: a valid handle, and a name that ends with a zero byte.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        if address.is_null() {
            bail!("libibverbs.so.1 has no {}", name.to_string_lossy());
        }
        Ok(address)
    };
    Ok(Verbs {
        // SAFETY: the function of this name has this type, here and below.
        get_device_list: unsafe {
            std::mem::transmute::<*mut c_void, GetDeviceList>(find(c"ibv_get_device_list")?)
        },
        // SAFETY: as above.
        free_device_list: unsafe {
            std::mem::transmute::<*mut c_void, FreeDeviceList>(find(c"ibv_free_device_list")?)
        },
        // SAFETY: as above.
        get_device_name: unsafe {
            std::mem::transmute::<*mut c_void, GetDeviceName>(find(c"ibv_get_device_name")?)
        },
        // SAFETY: as above.
        open_device: unsafe {
            std::mem::transmute::<*mut c_void, OpenDevice>(find(c"ibv_open_device")?)
        },
        // SAFETY: as above.
        close_device: unsafe {
            std::mem::transmute::<*mut c_void, CloseDevice>(find(c"ibv_close_device")?)
        },
    })
}

/// What the device of this name can do on demand.
///
/// # Errors
///
/// libibverbs is missing, the device is unknown to it, or it can't be opened.
pub fn odp_caps(name: &str) -> Result<OdpCaps> {
    let verbs = load()?;
    let wanted = CString::new(name).context("a device's name has no zero byte")?;
    // SAFETY: takes a place for the number, or none.
    let list = unsafe { (verbs.get_device_list)(ptr::null_mut()) };
    if list.is_null() {
        bail!(
            "libibverbs finds no devices: {}",
            std::io::Error::last_os_error()
        );
    }
    let caps = find(&verbs, list, &wanted)
        .with_context(|| format!("libibverbs has no driver for {name}"))
        .and_then(|device| query(&verbs, device));
    // SAFETY: the list made above; the device was closed.
    unsafe { (verbs.free_device_list)(list) };
    caps
}

/// The device of this name in a list that ends with null.
fn find(verbs: &Verbs, list: *mut *mut c_void, wanted: &CStr) -> Option<*mut c_void> {
    (0..)
        .map(|at| {
            let place = list.wrapping_add(at);
            // SAFETY: the list is read up to its end, not beyond.
            unsafe { *place }
        })
        .take_while(|device| !device.is_null())
        .find(|device| {
            // SAFETY: a device of the list.
            let name = unsafe { (verbs.get_device_name)(*device) };
            // SAFETY: the name is part of the device.
            unsafe { CStr::from_ptr(name) == wanted }
        })
}

fn query(verbs: &Verbs, device: *mut c_void) -> Result<OdpCaps> {
    // SAFETY: a device of a list that was not given back.
    let context = unsafe { (verbs.open_device)(device) };
    if context.is_null() {
        bail!("it can't be opened: {}", std::io::Error::last_os_error());
    }
    // SAFETY: the context is open.
    let caps = unsafe { abi::says(context) }.map(|says| says.odp);
    // SAFETY: opened above, and not used any more.
    unsafe { (verbs.close_device)(context) };
    caps.context("it does not answer ibv_query_device_ex")
}
