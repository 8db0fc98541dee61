// SPDX-License-Identifier: MIT OR Apache-2.0

//! Completion events by a file descriptor.

use std::{
    ffi::c_void,
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    device::Context,
    error::{ChannelError, last},
    ffi::CompChannel,
};

/// Where the events of queue pairs arrive that were made with [`QueuePair::with_events`]. Clones are the same one.
///
/// It is a file descriptor, readable when there is an event: for `poll`, for `epoll`, and for asynchronous run times (of tokio,
/// `AsyncFd`). It does not block.
///
/// ```no_run
/// # fn f(domain: unpinned::Domain) -> Result<(), Box<dyn std::error::Error>> {
/// use unpinned::{Channel, QueuePair};
/// let channel = Channel::new(domain.context())?;
/// let queue = QueuePair::with_events(&domain, 1, 16, &channel, 7)?;
/// // … connected, and requests posted:
/// let done = loop {
///     if let Some(done) = queue.poll()? {
///         break done;
///     }
///     queue.request_event()?;
///     // What came before it was asked for makes no event.
///     if let Some(done) = queue.poll()? {
///         break done;
///     }
///     assert_eq!(channel.wait(None)?, Some(7));
/// };
/// # Ok(()) }
/// ```
///
/// [`QueuePair::with_events`]: crate::QueuePair::with_events
#[derive(Clone)]
pub struct Channel(Arc<Made>);

struct Made {
    raw: *mut CompChannel,
    context: Context,
}

// SAFETY: libibverbs' channels are made to be used by several threads.
unsafe impl Send for Made {}
// SAFETY: the same.
unsafe impl Sync for Made {}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made by `Channel::new`; queues that use it hold a clone, so there are none.
        unsafe { (self.context.verbs().destroy_channel)(self.raw) };
    }
}

impl Channel {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The process has no file descriptors left.
    pub fn new(context: &Context) -> Result<Self, ChannelError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.verbs().create_channel)(context.as_raw().cast()) };
        if raw.is_null() {
            return Err(last().into());
        }
        let made = Self(Arc::new(Made {
            raw,
            context: context.clone(),
        }));
        let fd = made.as_raw_fd();
        // SAFETY: an open descriptor; reads a number.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        // SAFETY: an open descriptor; takes a number.
        let set = unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
        if flags < 0 || set < 0 {
            return Err(last().into());
        }
        Ok(made)
    }

    /// Takes an event, if there is one: the `id` of the queue pair whose completion made it.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn take(&self) -> io::Result<Option<usize>> {
        let verbs = self.0.context.verbs();
        let (mut cq, mut id) = (ptr::null_mut(), ptr::null_mut::<c_void>());
        // SAFETY: a live channel, and room for the answers.
        if unsafe { (verbs.get_cq_event)(self.0.raw, &mut cq, &mut id) } != 0 {
            let error = last();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: a queue of which there is an event is not destroyed before that is acknowledged.
        unsafe { (verbs.ack_cq_events)(cq, 1) };
        Ok(Some(id.addr()))
    }

    /// Waits for an event: for ever, or as long as is said. `None` if there was none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Option<usize>> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if let Some(id) = self.take()? {
                return Ok(Some(id));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            // Rounded up, or the last millisecond would be spent without a pause.
            let left = left.map_or(-1, |left| {
                i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            });
            let mut fd = libc::pollfd {
                fd: self.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one descriptor.
            if unsafe { libc::poll(&mut fd, 1, left) } < 0 {
                let error = last();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }

    /// The device.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// The `struct ibv_comp_channel`, for verbs that this crate lacks.
    #[must_use]
    pub fn as_raw(&self) -> *mut c_void {
        self.0.raw.cast()
    }

    pub(crate) fn raw(&self) -> *mut CompChannel {
        self.0.raw
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: a live channel.
        unsafe { (*self.0.raw).fd }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel lives.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("fd", &self.as_raw_fd())
            .finish_non_exhaustive()
    }
}
