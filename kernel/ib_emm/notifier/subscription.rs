// SPDX-License-Identifier: GPL-2.0

//! A subscription: a client, and its place in the hub of an address space.

use super::{
    contract::EmmNotifier,
    hub::{Entry, HubRef},
    vm,
};
use crate::{
    emm::{PageRange, PAGE_SHIFT},
    workers::Workers,
};
use core::{marker::PhantomPinned, ptr::NonNull};
use kernel::{
    mm::{Mm, MmWithUser},
    prelude::*,
    sync::Arc,
};

/// A client that is told of what happens to a range of an address space, from its construction to
/// its end.
///
/// # Invariants
///
/// `entry` was entered in `hub`, and its client is this one's.
#[pin_data(PinnedDrop)]
pub(crate) struct Subscription<T: EmmNotifier> {
    #[pin]
    entry: Entry,
    hub: HubRef,
    #[pin]
    client: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: what is touched is touched under the hub's lock, by any thread, and the client is `Send`.
unsafe impl<T: EmmNotifier> Send for Subscription<T> {}
// SAFETY: `&Subscription` gives the client, which is `Sync`, and the hub's mm, which is too.
unsafe impl<T: EmmNotifier> Sync for Subscription<T> {}

impl<T: EmmNotifier> Subscription<T> {
    /// Subscribes `client` to the user addresses [`start`, `last`] of `mm`. Sleeps; takes the
    /// mmap_lock, which the caller does not hold.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`, and those of `client`.
    pub(crate) fn new<'a, E>(
        mm: &'a MmWithUser,
        start: u64,
        last: u64,
        client: impl PinInit<T, E> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        Error: From<E>,
        E: 'a,
    {
        Self::with(false, mm, start, last, client)
    }

    /// The same for a client that may refuse a start which must not block.
    pub(crate) fn refusing<'a, E>(
        mm: &'a MmWithUser,
        start: u64,
        last: u64,
        client: impl PinInit<T, E> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        Error: From<E>,
        E: 'a,
    {
        Self::with(true, mm, start, last, client)
    }

    /// Either of these.
    pub(crate) fn with<'a, E>(
        refuses: bool,
        mm: &'a MmWithUser,
        start: u64,
        last: u64,
        client: impl PinInit<T, E> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        Error: From<E>,
        E: 'a,
    {
        let pages = PageRange::new(start >> PAGE_SHIFT, (last >> PAGE_SHIFT) + 1);
        // INVARIANT: the last step enters it in the hub's tree.
        try_pin_init!(Self {
            client <- client,
            hub: vm::get(mm, refuses)?,
            entry <- Entry::new(hub, start, last, NonNull::<T>::from(&*client)),
            _pin: PhantomPinned,
            _: {
                // SAFETY: the client is initialised, and pinned as the entry is. `drop` takes the
                // entry out before either goes.
                unsafe { hub.enter(entry.as_ref(), pages) }?;
            },
        }? Error)
    }

    /// Ends it before it is dropped: the client is told nothing more when this returns. Sleeps. Not
    /// called from callbacks.
    pub(crate) fn end(&self) {
        // SAFETY: the entry was entered in the hub, by the type's invariant.
        unsafe { self.hub.leave(&self.entry) };
    }

    /// Who is told.
    pub(crate) fn client(&self) -> &T {
        &self.client
    }

    /// The workers of the address space subscribed to.
    pub(crate) fn workers(&self) -> &Arc<Workers> {
        self.hub.workers()
    }

    /// The address space subscribed to.
    pub(crate) fn mm(&self) -> &Mm {
        self.hub.mm()
    }
}

#[pinned_drop]
impl<T: EmmNotifier> PinnedDrop for Subscription<T> {
    /// No callback runs on return. Sleeps. Not called from callbacks.
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: the entry was entered in the hub, by the type's invariant.
        unsafe { self.hub.leave(&self.entry) };
    }
}
