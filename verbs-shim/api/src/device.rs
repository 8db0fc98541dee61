// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices and protection domains.

use std::{
    ffi::{CStr, c_void},
    fs,
    path::Path,
    ptr,
    sync::Arc,
};

use crate::{
    abi::{self, ODP_IMPLICIT, ODP_SUPPORT},
    access::OnDemand,
    error::{AllocError, OpenError, last},
    ffi::{Verbs, verbs},
    known::{self, Driver, RXE_VENDOR},
};

/// An open device. Clones are the same one; it is closed when the last of them and all that was made from
/// it are gone.
#[derive(Clone)]
pub struct Context(Arc<Opened>);

struct Opened {
    raw: *mut abi::Context,
    verbs: &'static Verbs,
    driver: Driver,
}

// SAFETY: libibverbs' contexts are made to be used by several threads.
unsafe impl Send for Opened {}
// SAFETY: the same.
unsafe impl Sync for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by `Context::open`; what was made from it is gone.
        unsafe { (self.verbs.close_device)(self.raw) };
    }
}

impl Context {
    /// Opens the device of this name, as in `/sys/class/infiniband`.
    ///
    /// # Errors
    ///
    /// libibverbs or the device is missing, or it can't be opened.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let verbs = verbs().ok_or(OpenError::NoLibrary)?;
        // SAFETY: takes a place for the number, or none.
        let list = unsafe { (verbs.get_device_list)(ptr::null_mut()) };
        if list.is_null() {
            return Err(last().into());
        }
        let opened = find(verbs, list, name)
            .ok_or(OpenError::NoDevice)
            .and_then(|device| open(verbs, device, name));
        // SAFETY: the list made above; an open device does not need it.
        unsafe { (verbs.free_device_list)(list) };
        opened
    }

    /// What the device can do on demand; `None` if it has no on-demand paging, or one that corrupts data.
    #[must_use]
    pub fn on_demand(&self) -> Option<OnDemand> {
        // SAFETY: the context is open.
        let caps = unsafe { abi::says(self.as_raw().cast()) }?.odp;
        if caps.general & ODP_SUPPORT == 0 || self.corrupts() {
            return None;
        }
        let mut all = OnDemand::from_bits_truncate(caps.rc) - OnDemand::IMPLICIT;
        all.set(OnDemand::IMPLICIT, caps.general & ODP_IMPLICIT != 0);
        Some(all)
    }

    /// Whether its on-demand paging is known to write to other memory than a region's, at this moment: `mr_backend` of rxe can be
    /// set at any time.
    pub(crate) fn corrupts(&self) -> bool {
        if self.0.driver == Driver::Other {
            return false;
        }
        let backend = fs::read("/sys/module/rdma_rxe/parameters/mr_backend").ok();
        let backend = backend.as_deref().map(<[u8]>::trim_ascii);
        known::corrupting(self.0.driver, backend).is_some()
    }

    /// Makes a protection domain: regions and queue pairs of one work together.
    ///
    /// # Errors
    ///
    /// The device has no more.
    pub fn alloc_domain(&self) -> Result<Domain, AllocError> {
        // SAFETY: the context is open.
        let raw = unsafe { (self.verbs().alloc_pd)(self.0.raw) };
        if raw.is_null() {
            return Err(last().into());
        }
        Ok(Domain(Arc::new(Allocated {
            raw,
            context: self.clone(),
        })))
    }

    /// The `struct ibv_context`, for verbs that this crate lacks.
    #[must_use]
    pub fn as_raw(&self) -> *mut c_void {
        self.0.raw.cast()
    }

    pub(crate) fn verbs(&self) -> &'static Verbs {
        self.0.verbs
    }
}

/// The device of this name in a list that ends with null.
fn find(verbs: &Verbs, list: *mut *mut c_void, wanted: &str) -> Option<*mut c_void> {
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
            unsafe { CStr::from_ptr(name) }.to_bytes() == wanted.as_bytes()
        })
}

fn open(verbs: &'static Verbs, device: *mut c_void, name: &str) -> Result<Context, OpenError> {
    // SAFETY: a device of a list that was not given back.
    let raw = unsafe { (verbs.open_device)(device) };
    if raw.is_null() {
        return Err(last().into());
    }
    // SAFETY: opened just now.
    let says = unsafe { abi::says(raw) };
    let driver = match says {
        Some(says) if says.vendor == RXE_VENDOR => Driver::Rxe,
        // Not all of its versions say so. Of the drivers in the tree, it alone has this attribute.
        _ if Path::new(&format!("/sys/class/infiniband/{name}/parent")).exists() => Driver::Rxe,
        _ => Driver::Other,
    };
    Ok(Context(Arc::new(Opened { raw, verbs, driver })))
}

/// A protection domain. Clones are the same one.
#[derive(Clone)]
pub struct Domain(Arc<Allocated>);

struct Allocated {
    raw: *mut abi::Pd,
    context: Context,
}

// SAFETY: libibverbs' domains are made to be used by several threads.
unsafe impl Send for Allocated {}
// SAFETY: the same.
unsafe impl Sync for Allocated {}

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: allocated by `alloc_domain`; what was made in it is gone, or was left on purpose.
        unsafe { (self.context.verbs().dealloc_pd)(self.raw) };
    }
}

impl Domain {
    /// The `struct ibv_pd`, for verbs that this crate lacks.
    #[must_use]
    pub fn as_raw(&self) -> *mut c_void {
        self.0.raw.cast()
    }

    /// The device.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub(crate) fn raw(&self) -> *mut abi::Pd {
        self.0.raw
    }
}
