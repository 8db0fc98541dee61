//! Completion queues that are waited for by event.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::error::{OpError, hang_limit};
use crate::ffi;
use crate::hang;
use crate::verbs::Device;

/// A completion queue with a channel of its own.
pub struct Cq {
    raw: NonNull<ffi::ibv_cq>,
    channel: NonNull<ffi::ibv_comp_channel>,
    /// An event was asked for and has not come yet.
    armed: AtomicBool,
    _device: Arc<Device>,
}

// SAFETY: see Device.
unsafe impl Send for Cq {}
// SAFETY: see Device; two threads that wait at once could get each other's completions, which is no memory error.
unsafe impl Sync for Cq {}

impl Drop for Cq {
    fn drop(&mut self) {
        // SAFETY: its queue pairs are destroyed before.
        unsafe { ffi::ibv_destroy_cq(self.raw.as_ptr()) };
        // SAFETY: its only queue is gone.
        unsafe { ffi::ibv_destroy_comp_channel(self.channel.as_ptr()) };
    }
}

impl Cq {
    /// Makes a queue for 128 completions.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        // SAFETY: the context is open.
        let channel = unsafe { ffi::ibv_create_comp_channel(device.raw.as_ptr()) };
        let channel = NonNull::new(channel)
            .ok_or_else(io::Error::last_os_error)
            .context("ibv_create_comp_channel")?;
        // SAFETY: the context is open, and the channel is its own.
        let raw = unsafe {
            ffi::ibv_create_cq(
                device.raw.as_ptr(),
                128,
                ptr::null_mut(),
                channel.as_ptr(),
                0,
            )
        };
        let Some(raw) = NonNull::new(raw) else {
            let error = io::Error::last_os_error();
            // SAFETY: nothing uses the channel.
            unsafe { ffi::ibv_destroy_comp_channel(channel.as_ptr()) };
            return Err(error).context("ibv_create_cq");
        };
        Ok(Self {
            raw,
            channel,
            armed: AtomicBool::new(false),
            _device: device.clone(),
        })
    }

    /// Completions that it has room for.
    pub fn room(&self) -> usize {
        // SAFETY: the queue is alive.
        unsafe { self.raw.as_ref() }.cqe as usize
    }

    /// The queue, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_cq {
        self.raw.as_ptr()
    }

    /// Takes a completion, if there is one.
    pub fn poll(&self) -> Result<Option<ffi::ibv_wc>, OpError> {
        let mut wc = ffi::zeroed::<ffi::ibv_wc>();
        // SAFETY: the queue is alive and there is room for one completion.
        match unsafe { ffi::ibv_poll_cq(self.raw.as_ptr(), 1, &mut wc) } {
            n if n < 0 => Err(OpError::Post(libc::EIO)),
            0 => Ok(None),
            _ => Ok(Some(wc)),
        }
    }

    /// Looks for a completion again and again, as most programs do.
    pub fn spin(&self) -> Result<ffi::ibv_wc, OpError> {
        let deadline = Instant::now() + hang_limit();
        loop {
            match self.poll()? {
                Some(wc) if wc.status == ffi::IBV_WC_SUCCESS => return Ok(wc),
                Some(wc) => return Err(OpError::Status(wc.status)),
                None if Instant::now() > deadline => return Err(hang::seen()),
                None => {}
            }
        }
    }

    /// Waits for one completion. The soft device works on the CPUs that would poll, so this sleeps until it
    /// has something to say.
    pub fn wait(&self) -> Result<ffi::ibv_wc, OpError> {
        let deadline = Instant::now() + hang_limit();
        loop {
            if let Some(wc) = self.poll()? {
                return if wc.status == ffi::IBV_WC_SUCCESS {
                    Ok(wc)
                } else {
                    Err(OpError::Status(wc.status))
                };
            }
            if !self.armed.swap(true, Relaxed) {
                // SAFETY: the queue is alive. What came before the call is found by the next look.
                if unsafe { ffi::ibv_req_notify_cq(self.raw.as_ptr(), 0) } != 0 {
                    return Err(OpError::Post(libc::EIO));
                }
                continue;
            }
            self.sleep(deadline)?;
        }
    }

    /// Sleeps until the event that was asked for, and takes it.
    fn sleep(&self, deadline: Instant) -> Result<(), OpError> {
        // SAFETY: the channel is alive.
        let fd = unsafe { (*self.channel.as_ptr()).fd };
        let mut ready = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid descriptor.
        match unsafe { libc::poll(&mut ready, 1, left) } {
            0 => return Err(hang::seen()),
            n if n < 0 => return Ok(()),
            _ => {}
        }
        let (mut which, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel is alive and both pointers are valid for writing.
        if unsafe { ffi::ibv_get_cq_event(self.channel.as_ptr(), &mut which, &mut context) } == 0 {
            // SAFETY: this is the event just taken.
            unsafe { ffi::ibv_ack_cq_events(self.raw.as_ptr(), 1) };
            self.armed.store(false, Relaxed);
        }
        Ok(())
    }
}
