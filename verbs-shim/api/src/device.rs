// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices and protection domains.

use std::{ffi::c_void, fs, io, path::Path, sync::Arc};

use verbs_abi::load::NotOpened;

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
        unsafe { (self.verbs.devices.close)(self.raw) };
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
        let raw = verbs.devices.open_by_name(name.as_bytes());
        let raw = raw.map_err(|why| match why {
            NotOpened::Unknown => OpenError::NoDevice,
            NotOpened::NoList(errno) | NotOpened::Refused(errno) => {
                io::Error::from_raw_os_error(errno).into()
            }
        })?;
        // SAFETY: opened just now.
        let driver = unsafe { driver(raw, name) };
        Ok(Self(Arc::new(Opened { raw, verbs, driver })))
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

/// The kind of device that has this name.
///
/// # Safety
///
/// `raw` is open.
unsafe fn driver(raw: *mut abi::Context, name: &str) -> Driver {
    // SAFETY: by this function's contract.
    let says = unsafe { abi::says(raw) };
    match says {
        Some(says) if says.vendor == RXE_VENDOR => Driver::Rxe,
        // Not all of its versions say so. Of the drivers in the tree, it alone has this attribute.
        _ if Path::new(&format!("/sys/class/infiniband/{name}/parent")).exists() => Driver::Rxe,
        _ => Driver::Other,
    }
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
