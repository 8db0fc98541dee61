//! A small safe layer over libibverbs: context, protection domain and memory region; [`crate::qp`] has the traffic.
//!
//! Addresses are plain numbers here. A region's memory may be unmapped, swapped or remapped while it is registered (that is
//! what is being tested), so nothing in this program makes a Rust reference to registered memory; see [`crate::mem`].

use std::ffi::CStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::child::readable;
use crate::error::errno_of;
use crate::ffi;

/// Local and remote write and read, and atomics.
pub const ALL_ACCESS: u32 = ffi::IBV_ACCESS_LOCAL_WRITE
    | ffi::IBV_ACCESS_REMOTE_WRITE
    | ffi::IBV_ACCESS_REMOTE_READ
    | ffi::IBV_ACCESS_REMOTE_ATOMIC;

/// How queue pairs of a device are connected.
#[derive(Clone, Copy)]
pub struct Link {
    /// The index of the device's own address that traffic uses.
    pub gid_index: u8,
    /// When a request without an answer is sent again: after 4.096 µs times 2 to the power of this.
    pub ack_timeout: u8,
    /// How often it is sent again before the queue pair gives up; rxe takes 7 for no limit.
    pub retries: u8,
}

impl Link {
    /// How long a request waits for its answer.
    pub fn timeout(self) -> Duration {
        Duration::from_nanos(4096 << self.ack_timeout)
    }
}

/// The address of a device's port that `link` names.
///
/// # Safety
///
/// The context is open.
pub(crate) unsafe fn gid(context: *mut ffi::ibv_context, link: Link) -> Result<ffi::ibv_gid> {
    let mut gid = ffi::zeroed::<ffi::ibv_gid>();
    let index = i32::from(link.gid_index);
    // SAFETY: the context is open, `gid` outlives the call.
    let ret = unsafe { ffi::ibv_query_gid(context, 1, index, &mut gid) };
    if ret != 0 {
        bail!("ibv_query_gid index {index}: {}", errno_of(ret));
    }
    Ok(gid)
}

/// An open device.
pub struct Device {
    pub(crate) raw: NonNull<ffi::ibv_context>,
    link: Link,
}

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: libibverbs locks its objects itself.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device called `name`.
    pub fn open(name: &str, link: Link) -> Result<Arc<Self>> {
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        let list = unsafe { ffi::ibv_get_device_list(&mut count) };
        if list.is_null() {
            bail!("ibv_get_device_list: {}", io::Error::last_os_error());
        }
        let mut found = None;
        let mut seen = Vec::new();
        for i in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the list has `count` entries.
            let entry = unsafe { list.add(i) };
            // SAFETY: an entry of the list.
            let device = unsafe { *entry };
            // SAFETY: entries of the list are valid until it is freed.
            let text = unsafe { ffi::ibv_get_device_name(device) };
            // SAFETY: the name is a NUL-terminated string of the device.
            let text = unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned();
            if text == name {
                // SAFETY: as above; the context holds the device beyond the list.
                found = NonNull::new(unsafe { ffi::ibv_open_device(device) });
            }
            seen.push(text);
        }
        // SAFETY: the list came from ibv_get_device_list and is not used again.
        unsafe { ffi::ibv_free_device_list(list) };
        let raw = found.ok_or_else(|| {
            anyhow!(
                "no verbs device {name} (found: {}); is rxe set up?",
                if seen.is_empty() {
                    "none".into()
                } else {
                    seen.join(", ")
                }
            )
        })?;
        Ok(Arc::new(Self { raw, link }))
    }

    /// The context, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_context {
        self.raw.as_ptr()
    }

    /// Waits until the device tells of this `IBV_EVENT_…`; what it tells before is passed over.
    pub fn wait_for_event(&self, event: ffi::ibv_event_type, limit: Duration) -> Result<()> {
        // SAFETY: the context is open.
        let fd = unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().async_fd) };
        let end = Instant::now() + limit;
        while readable(&fd, end)? {
            let mut told: ffi::ibv_async_event = ffi::zeroed();
            // SAFETY: the context is open and `told` is valid for writing.
            if unsafe { ffi::ibv_get_async_event(self.raw.as_ptr(), &mut told) } != 0 {
                bail!("ibv_get_async_event: {}", io::Error::last_os_error());
            }
            // SAFETY: it was got just now.
            unsafe { ffi::ibv_ack_async_event(&mut told) };
            if told.event_type == event {
                return Ok(());
            }
        }
        bail!("the device told of no event {}", event as u32)
    }

    /// The address of its port that traffic uses.
    pub fn gid(&self) -> Result<ffi::ibv_gid> {
        // SAFETY: the context is open.
        unsafe { gid(self.raw.as_ptr(), self.link) }
    }

    /// How its queue pairs are connected.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Whether it offers regions for the whole address space.
    pub fn implicit(&self) -> Result<bool> {
        let mut attr: ffi::ibv_device_attr_ex = ffi::zeroed();
        // SAFETY: the context is open and `attr` is valid for writing.
        let errno = unsafe { ffi::ibv_query_device_ex(self.raw.as_ptr(), ptr::null(), &mut attr) };
        if errno != 0 {
            bail!(
                "ibv_query_device_ex: {}",
                io::Error::from_raw_os_error(errno)
            );
        }
        let bit = u64::from(ffi::IBV_ODP_SUPPORT_IMPLICIT);
        Ok(attr.odp_caps.general_caps & bit != 0)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: everything opened on the context holds an Arc of it, so this is the last use.
        unsafe { ffi::ibv_close_device(self.raw.as_ptr()) };
    }
}

/// A protection domain.
pub struct Pd {
    pub(crate) raw: NonNull<ffi::ibv_pd>,
    pub(crate) device: Arc<Device>,
}

// SAFETY: see Device.
unsafe impl Send for Pd {}
// SAFETY: see Device.
unsafe impl Sync for Pd {}

impl Pd {
    /// The device it belongs to.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The domain, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_pd {
        self.raw.as_ptr()
    }

    /// Allocates a protection domain.
    pub fn new(device: &Arc<Device>) -> Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = NonNull::new(unsafe { ffi::ibv_alloc_pd(device.raw.as_ptr()) })
            .ok_or_else(io::Error::last_os_error)
            .context("ibv_alloc_pd")?;
        Ok(Arc::new(Self {
            raw,
            device: device.clone(),
        }))
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: regions and queue pairs hold an Arc of their domain, so none is left.
        unsafe { ffi::ibv_dealloc_pd(self.raw.as_ptr()) };
    }
}

/// A registered range of this process's addresses.
pub struct Mr {
    raw: NonNull<ffi::ibv_mr>,
    _pd: Arc<Pd>,
}

// SAFETY: see Device.
unsafe impl Send for Mr {}
// SAFETY: see Device.
unsafe impl Sync for Mr {}

impl Mr {
    /// Registers `len` bytes at `addr`, known to the device by their own address.
    pub fn new(pd: &Arc<Pd>, addr: usize, len: usize, access: u32) -> io::Result<Self> {
        // SAFETY: the kernel checks the range; only memory of `crate::mem::Map`s is registered for writing.
        let raw = unsafe { ffi::ibv_reg_mr(pd.raw.as_ptr(), addr as *mut _, len, access as i32) };
        Self::wrap(pd, raw)
    }

    /// The same with `iova` as the address the device uses.
    pub fn with_iova(
        pd: &Arc<Pd>,
        addr: usize,
        len: usize,
        iova: u64,
        access: u32,
    ) -> io::Result<Self> {
        // SAFETY: as in `new`.
        let raw =
            unsafe { ffi::ibv_reg_mr_iova2(pd.raw.as_ptr(), addr as *mut _, len, iova, access) };
        Self::wrap(pd, raw)
    }

    fn wrap(pd: &Arc<Pd>, raw: *mut ffi::ibv_mr) -> io::Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            raw,
            _pd: pd.clone(),
        })
    }

    /// The registration, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_mr {
        self.raw.as_ptr()
    }

    /// Ends the registration; one that is refused comes back.
    pub fn deregister(self) -> Result<(), (Self, io::Error)> {
        // SAFETY: the region is registered. If this ends it, `drop` is not called.
        match unsafe { ffi::ibv_dereg_mr(self.raw.as_ptr()) } {
            0 => {
                let mut this = ManuallyDrop::new(self);
                // SAFETY: `this` is not used again, nor dropped.
                unsafe { ptr::drop_in_place(&mut this._pd) };
                Ok(())
            }
            errno => Err((self, errno_of(errno))),
        }
    }

    /// The local key.
    pub fn lkey(&self) -> u32 {
        // SAFETY: the region is registered until drop.
        unsafe { self.raw.as_ref() }.lkey
    }

    /// The remote key.
    pub fn rkey(&self) -> u32 {
        // SAFETY: the region is registered until drop.
        unsafe { self.raw.as_ref() }.rkey
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        // SAFETY: the region was registered and is not used again.
        unsafe { ffi::ibv_dereg_mr(self.raw.as_ptr()) };
    }
}
