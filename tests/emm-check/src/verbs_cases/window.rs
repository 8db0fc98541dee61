//! A memory window.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::ffi;
use crate::pair::{End, Work, posted};
use crate::qp::{OpError, Piece};
use crate::verbs::{Mr, Pd};

/// Where a window lies and what it allows.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    pub mr: &'a Mr,
    /// Address as the region's owner knows it.
    pub addr: usize,
    pub len: usize,
    pub access: u32,
}

impl Bounds<'_> {
    /// The same, as libibverbs has it.
    pub fn info(&self) -> ffi::ibv_mw_bind_info {
        ffi::ibv_mw_bind_info {
            mr: self.mr.as_raw(),
            addr: self.addr as u64,
            length: self.len as u64,
            mw_access_flags: self.access,
        }
    }
}

/// The window.
pub struct Window {
    raw: NonNull<ffi::ibv_mw>,
    _pd: Arc<Pd>,
}

impl Window {
    /// Allocates one that is not bound.
    pub fn new(pd: &Arc<Pd>, mw_type: ffi::ibv_mw_type::Type) -> Result<Self> {
        // SAFETY: the domain is alive.
        let raw = unsafe { ffi::ibv_alloc_mw(pd.as_raw(), mw_type) };
        Ok(Self {
            raw: NonNull::new(raw)
                .ok_or_else(io::Error::last_os_error)
                .context("ibv_alloc_mw")?,
            _pd: pd.clone(),
        })
    }

    fn is_type_1(&self) -> bool {
        // SAFETY: the window is allocated.
        unsafe { self.raw.as_ref() }.type_ == ffi::IBV_MW_TYPE_1
    }

    /// The window, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_mw {
        self.raw.as_ptr()
    }

    /// Its remote key now.
    pub fn rkey(&self) -> u32 {
        // SAFETY: the window is allocated.
        unsafe { self.raw.as_ref() }.rkey
    }

    /// A remote piece at `addr`.
    pub fn remote(&self, addr: usize) -> Piece {
        Piece {
            addr: addr as u64,
            key: self.rkey(),
        }
    }

    /// Binds it on the queue pair that will serve it, and waits.
    pub fn bind(&mut self, end: &End, to: Bounds<'_>) -> Result<(), OpError> {
        if self.is_type_1() {
            return self.bind_1(end, to.info());
        }
        // SAFETY: takes a number only.
        let key = unsafe { ffi::ibv_inc_rkey(self.rkey()) };
        end.run(Work::Bind(self.raw.as_ptr(), key, to.info()), &[])?;
        // SAFETY: the window is allocated; its owner keeps the key of type 2.
        unsafe { self.raw.as_mut() }.rkey = key;
        Ok(())
    }

    /// Takes a window of type 1 off its region, which the provider of rdma-core 56 looks at although nothing is bound to it.
    pub fn unbind(&mut self, end: &End, mr: &Mr) -> Result<(), OpError> {
        let info = ffi::ibv_mw_bind_info {
            mr: mr.as_raw(),
            ..ffi::zeroed()
        };
        self.bind_1(end, info)
    }

    fn bind_1(&mut self, end: &End, info: ffi::ibv_mw_bind_info) -> Result<(), OpError> {
        let mut bind = ffi::ibv_mw_bind {
            wr_id: 0,
            send_flags: ffi::IBV_SEND_SIGNALED,
            bind_info: info,
        };
        // SAFETY: queue pair and window are alive, and `bind` outlives the call.
        posted(unsafe { ffi::ibv_bind_mw(end.qp.as_raw(), self.raw.as_ptr(), &mut bind) })?;
        end.sent.wait().map(drop)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: allocated, and not used again.
        unsafe { ffi::ibv_dealloc_mw(self.raw.as_ptr()) };
    }
}
