// SPDX-License-Identifier: GPL-2.0

//! The workers of one owner: the threads that its faults run in, and what waits for them.
//!
//! Each address space with subscriptions has its own, as few as [`WORKERS`]: an owner whose faults
//! wait for ever makes nobody wait but itself. They are hired when the first access is parked, and
//! go with the address space. What to do next is decided by the core's [`emm::Queue`].
//!
//! A region is known here by its C name only: what a worker does with it is said in `serve.rs`.
//!
//! C header: `glue.h`.

use crate::{
    emm::{self, Before, Do, Job, Need},
    glue,
    lock::{Guard, Level, Locked},
};
use core::ptr::{self, NonNull};
use kernel::{error::to_result, ffi, prelude::*, sync::Arc, types::Opaque};

/// Faults of one owner that may be under way at once. Each takes a thread while it is.
pub(crate) const WORKERS: usize = 64;
/// How long until threads are asked for again, when there was no memory for them. Milliseconds.
const HIRE_AGAIN_MS: u32 = 50;
/// How often a fault is tried again that found no memory. (One whose pages are taken away again and
/// again tries by itself.)
const RESTS: u32 = 12;
/// The first rest before that, which doubles each time, and the longest one. Milliseconds. All of
/// them add up to 7 s.
const FIRST_REST_MS: u32 = 2;
const LONGEST_REST_MS: u32 = 1000;

/// The C name of a region, by which it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) NonNull<glue::emm_region>);

// SAFETY: a name is compared. What it leads to is a region, which any thread may use.
unsafe impl Send for Name {}

/// An access, as the queue has it.
pub(crate) type Access = emm::Access<Name>;
/// What a queue has of an access.
pub(crate) type Parked = emm::Parked<Name>;
type Queue = emm::Queue<Name, KVec<Job<Name>>>;

/// What the owner's lock protects.
///
/// # Invariants
///
/// `crew` is null or a crew that has as many workers as `queue` has jobs.
pub(crate) struct Inner {
    queue: Queue,
    crew: *mut glue::emm_crew,
    hiring: bool,
}

// SAFETY: a crew may be used by any thread that has the lock.
unsafe impl Send for Inner {}

/// One owner's workers.
///
/// A worker that was started, and a hiring that was, own a reference on them.
#[pin_data(PinnedDrop)]
pub(crate) struct Workers {
    #[pin]
    hire: Opaque<glue::emm_hire>,
    #[pin]
    inner: Locked<Inner>,
}

// SAFETY: what is touched is touched under the lock, by any thread.
unsafe impl Send for Workers {}
// SAFETY: as above.
unsafe impl Sync for Workers {}

/// What a worker does after it has done its job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next one.
    Next,
    /// Nothing more.
    Leave,
}

impl Workers {
    /// None yet, and nothing for them to do. May sleep.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let new = pin_init!(Self {
            // SAFETY: `slot` is valid for writing, and pinned.
            hire <- Opaque::ffi_init(|slot| unsafe { glue::emm_hire_init(slot) }),
            // INVARIANT: there is no crew, and no job.
            inner <- Locked::new(
                Inner {
                    queue: Queue::new(KVec::new()),
                    crew: ptr::null_mut(),
                    hiring: false,
                },
                Level::Inner,
            ),
            _: {
                // SAFETY: counts.
                unsafe { glue::emm_crews_get() };
            },
        });
        Arc::pin_init(new, GFP_KERNEL)
    }

    /// Parks `access` until a fault for `need` has ended, if `alive` says so under the lock.
    ///
    /// # Safety
    ///
    /// If `alive` says so, the region that is needed stays valid until [`Self::stop`] for it
    /// returns, or `access` is not parked any more.
    pub(crate) unsafe fn park(
        self: &Arc<Self>,
        access: Access,
        need: Need<Name>,
        alive: impl FnOnce() -> bool,
    ) -> Result {
        let mut inner = self.inner.lock();
        if !alive() {
            return Err(ESRCH);
        }
        let todo = inner.queue.park(access, need);
        self.act(&inner, todo);
        if !inner.queue.is_employed() && !inner.hiring {
            inner.hiring = true;
            self.start_hiring(0);
        }
        Ok(())
    }

    /// Takes `access` out, wherever it is. When this returns, its driver is not being told, and is
    /// not told any more.
    pub(crate) fn cancel(self: &Arc<Self>, access: Access) {
        let mut inner = self.inner.lock();
        let todo = inner.queue.cancel(access);
        self.act(&inner, todo);
    }

    /// What became of `access`. Whoever is told that its fault ended is the only one.
    pub(crate) fn before(&self, access: Access) -> Before {
        self.inner.lock().queue.before(access)
    }

    /// Whether `access` is parked for just this.
    pub(crate) fn needs(&self, access: Access, need: &Need<Name>) -> bool {
        self.inner.lock().queue.needs(access, need)
    }

    /// Ends all that is parked for `region`, with `ESRCH`. The caller has made sure that nothing more
    /// is. Workers that are at it are told to end, and not waited for.
    pub(crate) fn stop(self: &Arc<Self>, region: Name, tell: impl Fn(Access)) {
        loop {
            let mut inner = self.inner.lock();
            let Some((access, todo)) = inner.queue.stop_one(region, ESRCH.to_errno()) else {
                return;
            };
            tell(access);
            self.act(&inner, todo);
        }
    }

    fn act(self: &Arc<Self>, inner: &Guard<'_, Inner>, todo: Do) {
        match todo {
            Do::Nothing => {}
            Do::Start(at) => self.start_worker(inner, at, 0),
            // SAFETY: there is a crew, as there are jobs, and the lock is held.
            Do::End(at) => unsafe { glue::emm_worker_kill(inner.crew, at as u32) },
        }
    }

    fn start_worker(self: &Arc<Self>, inner: &Guard<'_, Inner>, at: usize, ms: u32) {
        // The worker's reference, which `serve.rs` gives back.
        let _ = Arc::into_raw(self.clone());
        // SAFETY: there is a crew, as there are jobs. The worker is not started: it had no job, or
        // is here itself.
        unsafe { glue::emm_worker_start(inner.crew, at as u32, ms) };
    }

    fn start_hiring(self: &Arc<Self>, ms: u32) {
        // The hiring's reference, which `emm_hire_run` gives back.
        let this = Arc::into_raw(self.clone());
        // SAFETY: initialised when this was made, and not started: `hiring` says so.
        unsafe { glue::emm_hire_start(self.hire.get(), this.cast(), ms) };
    }

    /// Makes the threads. Sleeps.
    fn hire(self: &Arc<Self>) {
        let jobs = || -> Result<KVec<Job<Name>>> {
            let mut jobs = KVec::with_capacity(WORKERS, GFP_KERNEL)?;
            for _ in 0..WORKERS {
                jobs.push(Job::new(), GFP_KERNEL)?;
            }
            Ok(jobs)
        };
        let Ok(jobs) = jobs() else {
            return self.start_hiring(HIRE_AGAIN_MS);
        };
        // SAFETY: what it is told of is this, while a worker that was started has a reference.
        let crew = unsafe { glue::emm_crew_new(Arc::as_ptr(self).cast(), WORKERS as u32) };
        if crew.is_null() {
            return self.start_hiring(HIRE_AGAIN_MS);
        }
        let mut inner = self.inner.lock();
        // INVARIANT: as many of both.
        inner.crew = crew;
        inner.queue.employ(jobs);
        loop {
            match inner.queue.start() {
                Do::Nothing => return,
                todo => self.act(&inner, todo),
            }
        }
    }

    /// The current thread begins job `at`. From now on it may be ended by a signal.
    ///
    /// # Returns
    ///
    /// What is needed, and what `hold` made of the region, which is valid while it is called. `None`
    /// if nobody waits for it any more.
    pub(crate) fn begin<T>(
        &self,
        at: usize,
        hold: impl FnOnce(Name) -> T,
    ) -> Option<(Need<Name>, T)> {
        // SAFETY: sets what the current thread does with a signal.
        unsafe { glue::emm_worker_allow() };
        let mut inner = self.inner.lock();
        let need = inner.queue.begin(at)?;
        // SAFETY: there is a crew, as there are jobs, and the lock is held.
        unsafe { glue::emm_worker_is(inner.crew, at as u32, true) };
        Some((need, hold(need.region)))
    }

    /// What job `at` was for has ended with `outcome` (0 or a negative errno): those who wait are
    /// told, by `tell`, under the lock.
    pub(crate) fn tell(&self, at: usize, outcome: i32, tell: impl Fn(Access)) {
        loop {
            // Others, and interrupts, between two of them.
            let mut inner = self.inner.lock();
            let Some(access) = inner.queue.end_one(at, outcome) else {
                return;
            };
            tell(access);
        }
    }

    /// The current thread did what job `at` needed, with `result`: those who wait are told, by
    /// `tell`, under the lock. Passing errors are tried again first, after a rest.
    pub(crate) fn end(self: &Arc<Self>, at: usize, result: Result, tell: impl Fn(Access)) -> Then {
        let mut inner = self.inner.lock();
        if !inner.crew.is_null() {
            // SAFETY: there is a crew, and the lock is held.
            unsafe { glue::emm_worker_is(inner.crew, at as u32, false) };
        }
        let outcome = result.map_or_else(|error| error.to_errno(), |()| 0);
        let passing = result == Err(ENOMEM);
        let rest = if passing {
            inner.queue.rest(at, RESTS)
        } else {
            None
        };
        let then = if let Some(before) = rest {
            let ms = FIRST_REST_MS << before.min(16);
            self.start_worker(&inner, at, ms.min(LONGEST_REST_MS));
            Then::Leave
        } else {
            while let Some(access) = inner.queue.end_one(at, outcome) {
                tell(access);
                // Others, and interrupts, between two of them.
                drop(inner);
                inner = self.inner.lock();
            }
            // Under the lock that nobody was left under: others may join the job until it is over.
            if inner.queue.finish(at) {
                Then::Next
            } else {
                Then::Leave
            }
        };
        drop(inner);
        // SAFETY: sets what the current thread does with a signal. No more comes: it is not the
        // job's thread any more.
        unsafe { glue::emm_worker_disallow() };
        then
    }
}

#[pinned_drop]
impl PinnedDrop for Workers {
    /// In any context: nothing is parked, nor does a worker run.
    fn drop(self: Pin<&mut Self>) {
        let crew = self.inner.lock().crew;
        if !crew.is_null() {
            // SAFETY: it is ours, and started workers would own references.
            unsafe { glue::emm_crew_end(crew) };
        }
        // SAFETY: counts.
        unsafe { glue::emm_crews_put() };
    }
}

/// See `glue.h`.
///
/// # Safety
///
/// `owner` is what `start_hiring` handed out, and its reference.
#[no_mangle]
pub(crate) unsafe extern "C" fn emm_hire_run(owner: *const ffi::c_void) {
    // SAFETY: by this function's contract.
    unsafe { Arc::from_raw(owner.cast::<Workers>()) }.hire();
}

/// The module's part of all workers, while it is loaded.
pub(crate) struct Crews(());

impl Crews {
    /// Once, when the module is loaded.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context, and nobody made it before.
        to_result(unsafe { glue::emm_crews_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Crews {
    /// Waits for the last worker.
    fn drop(&mut self) {
        // SAFETY: `new` made it.
        unsafe { glue::emm_crews_exit() };
    }
}
