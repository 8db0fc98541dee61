// SPDX-License-Identifier: GPL-2.0

//! Cookies: what a driver's access is parked in when it misses (`struct emm_fault`).
//!
//! A driver has one for each of its threads of control. Its state is that of the core's
//! [`emm::Parked`](crate::emm::Parked), under the lock of the owner whose workers do the fault; which
//! owner that is, under the cookie's own lock, which is held over the other one.

use crate::{
    emm::{Before, Need},
    glue,
    lock::{Level, Locked},
    workers::{Access, Name, Parked, Workers},
};
use core::{cell::UnsafeCell, marker::PhantomPinned, ptr::NonNull};
use kernel::{
    container_of,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A driver's cookie.
///
/// # Invariants
///
/// - `parked` is touched under the lock of the workers that `owner` names, and by nobody if there are
///   none; it is idle then.
/// - `driver` is valid, and its function may be called while this is not idle.
#[pin_data(PinnedDrop)]
pub(crate) struct Cookie {
    driver: NonNull<glue::emm_fault>,
    /// An access missed, and has yet to succeed or to be cancelled. Changed under `owner`'s lock, read
    /// without: an access that never missed takes none.
    busy: Atomic<bool>,
    /// The page that was brought in last for the access that goes on, and how often. Touched by the
    /// driver's thread of control only.
    page: Atomic<u64>,
    rounds: Atomic<u32>,
    ended: Atomic<bool>,
    #[pin]
    owner: Locked<Option<Arc<Workers>>>,
    parked: UnsafeCell<Parked>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: what is touched is touched under locks, by any thread; the driver's function may be called
// by any.
unsafe impl Send for Cookie {}
// SAFETY: as above.
unsafe impl Sync for Cookie {}

impl Cookie {
    /// The cookie of `driver`, with nothing parked in it. May sleep.
    ///
    /// # Safety
    ///
    /// `driver` is valid until this is dropped, and its function can be called, as
    /// `include/emm_region.h` says, while an access is parked in this.
    pub(crate) unsafe fn new(driver: NonNull<glue::emm_fault>) -> Result<Pin<KBox<Self>>> {
        // SAFETY: this function's contract.
        KBox::pin_init(unsafe { Self::of(driver) }, GFP_KERNEL)
    }

    /// The same, in its place.
    ///
    /// # Safety
    ///
    /// That of [`Self::new`].
    pub(crate) unsafe fn of(driver: NonNull<glue::emm_fault>) -> impl PinInit<Self> {
        // INVARIANT: idle, and without an owner. The rest is this function's contract.
        pin_init!(Self {
            driver,
            busy: Atomic::new(false),
            page: Atomic::new(u64::MAX),
            rounds: Atomic::new(0),
            ended: Atomic::new(false),
            owner <- Locked::new(None, Level::Outer),
            parked: UnsafeCell::new(Parked::new()),
            _pin: PhantomPinned,
        })
    }

    fn access(&self) -> Access {
        // SAFETY: this is pinned, `drop` takes it out before it goes, and it is touched as the type's
        // invariant says.
        unsafe { Access::new(&self.parked) }
    }

    /// An access with this cookie begins.
    ///
    /// # Errors
    ///
    /// What the fault ended with that the last one was parked for: nobody is told again.
    pub(crate) fn enter(&self) -> Result {
        if !self.busy.load(Relaxed) {
            return Ok(());
        }
        match self.look() {
            Before::Idle | Before::Parked => Ok(()),
            Before::Ended(0) => {
                self.ended.store(true, Relaxed);
                Ok(())
            }
            Before::Ended(errno) => Err(Error::from_errno(errno)),
        }
    }

    /// What became of what was parked. Idle after that, unless it is parked still.
    #[cold]
    pub(crate) fn look(&self) -> Before {
        let owner = self.owner.lock();
        owner
            .as_ref()
            .map_or(Before::Idle, |workers| workers.before(self.access()))
    }

    /// An access with this cookie needs nothing more: it is not parked any longer, if it was.
    ///
    /// # Returns
    ///
    /// Whether it missed before, and somebody may wait for it to have come.
    pub(crate) fn leave(&self) -> bool {
        if !self.busy.load(Relaxed) {
            return false;
        }
        self.cancel();
        self.page.store(u64::MAX, Relaxed);
        true
    }

    /// An access with this cookie misses `page`: how often that was brought in for it before.
    pub(crate) fn rounds(&self, page: u64) -> u32 {
        let ended = self.ended.load(Relaxed);
        let rounds = if self.page.load(Relaxed) == page {
            self.rounds.load(Relaxed).saturating_add(ended.into())
        } else {
            0
        };
        self.ended.store(false, Relaxed);
        self.page.store(page, Relaxed);
        self.rounds.store(rounds, Relaxed);
        rounds
    }

    /// Parks an access until a fault for `need` has ended, of a region of the owner of `workers`, if
    /// `alive` says that the region is not stopped.
    ///
    /// # Returns
    ///
    /// `EAGAIN`, or `ESRCH` if it is stopped.
    ///
    /// # Safety
    ///
    /// That of [`Workers::park`].
    #[cold]
    pub(crate) unsafe fn park(
        &self,
        workers: &Arc<Workers>,
        need: Need<Name>,
        alive: impl FnOnce() -> bool,
    ) -> Error {
        let mut owner = self.owner.lock();
        if let Some(old) = owner.as_ref() {
            if Arc::ptr_eq(old, workers)
                && workers.needs(self.access(), &need)
                && workers.before(self.access()) == Before::Parked
            {
                return EAGAIN;
            }
            old.cancel(self.access());
        }
        // SAFETY: this function's contract.
        let parked = unsafe { workers.park(self.access(), need, alive) };
        *owner = parked.is_ok().then(|| workers.clone());
        self.busy.store(parked.is_ok(), Relaxed);
        parked.err().unwrap_or(EAGAIN)
    }

    /// On return nothing is parked in it, and the driver's function does not run. Waits for nothing.
    pub(crate) fn cancel(&self) {
        let mut owner = self.owner.lock();
        if let Some(workers) = owner.take() {
            workers.cancel(self.access());
        }
        self.busy.store(false, Relaxed);
    }

    /// Tells the driver of `access` to go on.
    ///
    /// # Safety
    ///
    /// `access` is that of a cookie, whose owner's lock is held since it ended.
    pub(crate) unsafe fn tell(access: Access) {
        let parked = access.as_ptr().cast_mut().cast::<UnsafeCell<Parked>>();
        // SAFETY: accesses are those of cookies, by this function's contract.
        let cookie = unsafe { container_of!(parked, Self, parked) };
        // SAFETY: the cookie is valid: to go, it has to be cancelled first, under the lock.
        let driver = unsafe { (*cookie).driver };
        // SAFETY: the driver's part is valid as long as the cookie.
        if let Some(done) = unsafe { (*driver.as_ptr()).done } {
            // SAFETY: the function may be called, by the type's invariant.
            unsafe { done(driver.as_ptr()) };
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Cookie {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
