// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices and protection domains.

use std::{
    ffi::{CStr, OsStr, c_void},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
};

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
    owner: Owner,
}

/// Who ends an object of libibverbs.
enum Owner {
    /// This crate, with the last clone.
    Us,
    /// Somebody else, of whom this is kept as long as there is a clone.
    Other {
        /// Dropped with the last clone.
        _kept: Box<dyn Send + Sync>,
    },
}

// SAFETY: libibverbs' contexts are made to be used by several threads.
unsafe impl Send for Opened {}
// SAFETY: the same.
unsafe impl Sync for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Owner::Us = self.owner {
            // SAFETY: opened by `Context::open`; what was made from it is gone.
            unsafe { (self.verbs.devices.close)(self.raw) };
        }
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
        let driver = unsafe { driver(raw, name.as_bytes()) };
        Ok(Self(Arc::new(Opened {
            raw,
            verbs,
            driver,
            owner: Owner::Us,
        })))
    }

    /// A device that others have opened, by its `struct ibv_context`. It is not closed here; `owner` is dropped with the last of
    /// the clones and all that was made from it, and may be what keeps the device open (an `Arc` of another crate's context),
    /// or nothing: `()`.
    ///
    /// # Errors
    ///
    /// libibverbs is missing from this process, or too old.
    ///
    /// # Safety
    ///
    /// `raw` is an open context of the process's `libibverbs.so.1`, not of another one that is linked in, and stays
    /// open until `owner` is dropped.
    pub unsafe fn from_raw(
        raw: *mut c_void,
        owner: impl Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let verbs = verbs().ok_or(OpenError::NoLibrary)?;
        let raw: *mut abi::Context = raw.cast();
        // SAFETY: by this function's contract.
        let device = unsafe { (*raw).device };
        // SAFETY: an open context has a device.
        let name = unsafe { (verbs.devices.name)(device.cast_mut()) };
        // SAFETY: the name is part of the device.
        let name = unsafe { CStr::from_ptr(name) };
        // SAFETY: by this function's contract.
        let driver = unsafe { driver(raw, name.to_bytes()) };
        Ok(Self(Arc::new(Opened {
            raw,
            verbs,
            driver,
            owner: Owner::Other {
                _kept: Box::new(owner),
            },
        })))
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
            ours: true,
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
unsafe fn driver(raw: *mut abi::Context, name: &[u8]) -> Driver {
    let folder = Path::new("/sys/class/infiniband").join(OsStr::from_bytes(name));
    // SAFETY: by this function's contract.
    let says = unsafe { abi::says(raw) };
    match says {
        Some(says) if says.vendor == RXE_VENDOR => Driver::Rxe,
        // Not all of its versions say so. Of the drivers in the tree, it alone has this attribute.
        _ if folder.join("parent").exists() => Driver::Rxe,
        _ => Driver::Other,
    }
}

/// A protection domain. Clones are the same one.
#[derive(Clone)]
pub struct Domain(Arc<Allocated>);

struct Allocated {
    raw: *mut abi::Pd,
    context: Context,
    /// To be given back with the last clone.
    ours: bool,
}

// SAFETY: libibverbs' domains are made to be used by several threads.
unsafe impl Send for Allocated {}
// SAFETY: the same.
unsafe impl Sync for Allocated {}

impl Drop for Allocated {
    fn drop(&mut self) {
        if self.ours {
            // SAFETY: allocated by `alloc_domain`; what was made in it is gone, or was left on purpose.
            unsafe { (self.context.verbs().dealloc_pd)(self.raw) };
        }
    }
}

impl Domain {
    /// A protection domain that others have made, by its `struct ibv_pd`: regions and queue pairs of this crate then work with
    /// theirs. It is not given back here; `owner` is dropped with the last of the clones and all that was made from it, and may be
    /// what keeps the domain (an `Arc` of another crate's domain), or nothing: `()`.
    ///
    /// ```no_run
    /// # fn f(pd: std::sync::Arc<Vec<u8>>, raw: *mut std::ffi::c_void) -> Result<(), Box<dyn std::error::Error>> {
    /// use unpinned::{Access, Domain, Paging};
    /// // `pd` is a domain of another crate, and `raw` its `ibv_pd`.
    /// // SAFETY: `pd` keeps the domain, and with it the device.
    /// let domain = unsafe { Domain::from_raw(raw, pd)? };
    /// let region = domain.register(vec![0; 4096], Access::LOCAL_WRITE, Paging::OnDemand)?;
    /// println!("lkey {}", region.lkey()); // for requests on queue pairs of the other crate
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// libibverbs is missing from this process, or too old.
    ///
    /// # Safety
    ///
    /// `raw` is a domain of the process's `libibverbs.so.1`, not of another one that is linked in; it stays, and its context stays open,
    /// until `owner` is dropped.
    pub unsafe fn from_raw(
        raw: *mut c_void,
        owner: impl Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let raw: *mut abi::Pd = raw.cast();
        // SAFETY: by this function's contract.
        let context = unsafe { (*raw).context };
        // Who has the context alone still needs what keeps it: so the owner goes there.
        // SAFETY: by this function's contract.
        let context = unsafe { Context::from_raw(context.cast(), owner)? };
        Ok(Self(Arc::new(Allocated {
            raw,
            context,
            ours: false,
        })))
    }

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
