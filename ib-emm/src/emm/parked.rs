// SPDX-License-Identifier: MIT OR Apache-2.0

//! Accesses that wait for a fault, and the jobs that do the faults.
//!
//! An access never waits in its driver's thread: what misses is *parked*, a *job* of the owner's
//! faults, and the access is tried again. One [`Queue`] an owner keeps both, so that one owner's
//! faults, however long they take, use up nothing of another's: its jobs are few, and what finds
//! none free waits in the queue, which costs a link and no thread. Accesses that miss the same page
//! are served by one job.
//!
//! A parked access is in one place at a time:
//!
//! ```text
//!  Idle ── park ──► Waiting ── a job is free ──► Served ── the job ended ──► Ended ── next access ──► Idle
//!                      └──────────── cancel: back to Idle, at any time ────────┘
//! ```
//!
//! All of it is touched under the queue's lock, which the environment brings. A job that nobody
//! waits for any more is *doomed*: its fault is to be ended, and nobody joins it.

use super::PageRange;
use core::{
    cell::UnsafeCell,
    marker::{PhantomData, PhantomPinned},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// How many waiting accesses a job that begins looks at for others of its page.
const JOIN: usize = 256;

/// What a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// An access.
    Access {
        /// It writes.
        write: bool,
    },
    /// Advice.
    Prefetch {
        /// The pages are to be written.
        write: bool,
    },
    /// Advice for what is there already: nothing is faulted in, and nobody waited for.
    Present,
}

impl Asks {
    /// Whether the pages are to be written.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Access { write } | Self::Prefetch { write } => write,
            Self::Present => false,
        }
    }
}

/// What is needed of the region that the environment calls `region`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<R> {
    /// Which region.
    pub region: R,
    /// The pages. An access needs the first one, and goes on to the others.
    pub range: PageRange,
    /// What for.
    pub asks: Asks,
    /// How often the page was brought in for this access before, and taken away before it came.
    pub rounds: u32,
}

impl<R: Copy + PartialEq> Need<R> {
    /// Whether a fault for this makes `other` go on as well.
    fn serves(&self, other: &Self) -> bool {
        let (Asks::Access { write }, Asks::Access { write: wanted }) = (self.asks, other.asks)
        else {
            return false;
        };
        let same = self.region == other.region && self.range.start == other.range.start;
        same && (write || !wanted)
    }
}

/// Where a parked access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Waiting,
    Served(usize),
    Ended(i32),
}

/// What a queue has of an access; the environment makes it part of the driver's cookie.
#[derive(Debug)]
pub struct Parked<R> {
    place: Place,
    need: Option<Need<R>>,
    prev: Option<NonNull<Parked<R>>>,
    next: Option<NonNull<Parked<R>>>,
    _pin: PhantomPinned,
}

impl<R> Parked<R> {
    /// Not parked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            place: Place::Idle,
            need: None,
            prev: None,
            next: None,
            _pin: PhantomPinned,
        }
    }
}

impl<R> Default for Parked<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// The way to a [`Parked`] that a queue's users hold.
///
/// # Invariants
///
/// What it leads to is valid until it is idle for good, and touched under the lock of the one queue
/// that it is used with only.
#[derive(Debug)]
pub struct Access<R>(NonNull<Parked<R>>);

impl<R> Clone for Access<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Access<R> {}

impl<R> PartialEq for Access<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<R> Access<R> {
    /// The access whose part for queues is `cell`.
    ///
    /// # Safety
    ///
    /// `cell` stays where it is, and valid, until no queue has it: each [`Queue::park`] is followed by
    /// a [`Queue::cancel`], or by an end, before it goes. It is handed to one queue at a time, and
    /// touched by nothing else.
    #[must_use]
    pub unsafe fn new(cell: &UnsafeCell<Parked<R>>) -> Self {
        // INVARIANT: by this function's contract.
        // SAFETY: a reference's address is not null.
        Self(unsafe { NonNull::new_unchecked(cell.get()) })
    }

    /// The address of what it leads to: the environment finds its cookie by it.
    #[must_use]
    pub const fn as_ptr(self) -> *const Parked<R> {
        self.0.as_ptr()
    }

    // `with` and not a reference to keep: the queue's `&mut self` stands for its lock.
    fn with<T>(self, f: impl FnOnce(&mut Parked<R>) -> T) -> T {
        // SAFETY: valid, by the type's invariant, and nobody else has it: whoever calls this has the
        // queue to itself. `f` is of this file, and takes no other way to it.
        f(unsafe { &mut *self.0.as_ptr() })
    }
}

/// Accesses in order of their coming.
///
/// # Invariants
///
/// Those in it are linked by `prev` and `next` from `head` to `tail`, and are in no other list.
#[derive(Debug)]
struct List<R> {
    head: Option<NonNull<Parked<R>>>,
    tail: Option<NonNull<Parked<R>>>,
    _owns: PhantomData<Parked<R>>,
}

impl<R> List<R> {
    const fn new() -> Self {
        Self {
            head: None,
            tail: None,
            _owns: PhantomData,
        }
    }

    const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    fn first(&self) -> Option<Access<R>> {
        // INVARIANT: only what `Access` leads to is entered.
        self.head.map(Access)
    }

    fn after(access: Access<R>) -> Option<Access<R>> {
        // INVARIANT: only what `Access` leads to is entered.
        access.with(|a| a.next).map(Access)
    }

    /// Enters `access`, which is in no list.
    fn push(&mut self, access: Access<R>) {
        access.with(|a| {
            a.prev = self.tail;
            a.next = None;
        });
        match self.tail.map(Access) {
            Some(last) => last.with(|l| l.next = Some(access.0)),
            None => self.head = Some(access.0),
        }
        self.tail = Some(access.0);
    }

    /// Takes `access` out, which is in this list.
    fn remove(&mut self, access: Access<R>) {
        let (prev, next) = access.with(|a| (a.prev.take(), a.next.take()));
        match prev.map(Access) {
            Some(prev) => prev.with(|p| p.next = next),
            None => self.head = next,
        }
        match next.map(Access) {
            Some(next) => next.with(|n| n.prev = prev),
            None => self.tail = prev,
        }
    }
}

/// A worker's job.
#[derive(Debug)]
pub struct Job<R> {
    need: Option<Need<R>>,
    served: List<R>,
    doomed: bool,
    resting: bool,
    tries: u32,
}

impl<R> Job<R> {
    /// Nothing to do.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            need: None,
            served: List::new(),
            doomed: false,
            resting: false,
            tries: 0,
        }
    }
}

impl<R> Default for Job<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to be done for a job by its number, when the queue has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Do {
    /// Nothing.
    Nothing,
    /// A worker is to begin it ([`Queue::begin`]).
    Start(usize),
    /// Nobody waits for it any more: its worker is to be ended, by a signal.
    End(usize),
}

/// What an access finds that was, or was not, parked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Before {
    /// Nothing.
    Idle,
    /// It is parked still.
    Parked,
    /// Its fault ended with this (0 or a negative errno), which nobody is told again.
    Ended(i32),
}

/// The parked accesses of one owner and its jobs, as many as `J` has.
///
/// # Invariants
///
/// - An access is in `waiting`, or in `served` of one job, as its place says, or in no list.
/// - A job with a need that is not doomed has somebody in `served`; one without a need has nobody.
#[derive(Debug)]
pub struct Queue<R, J> {
    waiting: List<R>,
    jobs: J,
    parked: usize,
}

// SAFETY: accesses are reached through `&mut self` only, and hold no thread's own data.
unsafe impl<R: Send, J: Send> Send for Queue<R, J> {}

impl<R, J> Queue<R, J>
where
    R: Copy + PartialEq,
    J: Deref<Target = [Job<R>]> + DerefMut,
{
    /// A queue with these jobs, which have nothing to do. There may be none yet.
    #[must_use]
    pub const fn new(jobs: J) -> Self {
        Self {
            waiting: List::new(),
            jobs,
            parked: 0,
        }
    }

    /// Accesses that wait or are served.
    #[must_use]
    pub const fn parked(&self) -> usize {
        self.parked
    }

    /// Gives it its jobs, instead of none. [`start`](Self::start) follows until it says nothing more.
    pub fn employ(&mut self, jobs: J) {
        debug_assert!(self.jobs.is_empty(), "jobs may be running");
        self.jobs = jobs;
    }

    /// Whether it has jobs.
    #[must_use]
    pub fn is_employed(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Parks `access`, which is idle, until a fault for `need` has ended.
    pub fn park(&mut self, access: Access<R>, need: Need<R>) -> Do {
        debug_assert!(
            access.with(|a| matches!(a.place, Place::Idle | Place::Ended(_))),
            "an access is parked once"
        );
        self.parked += 1;
        let serves = |job: &Job<R>| !job.doomed && job.need.is_some_and(|n| n.serves(&need));
        let at = self.jobs.iter().position(serves);
        access.with(|a| {
            a.need = Some(need);
            a.place = at.map_or(Place::Waiting, Place::Served);
        });
        match at {
            Some(at) => {
                self.jobs[at].served.push(access);
                Do::Nothing
            }
            None => {
                self.waiting.push(access);
                self.start()
            }
        }
    }

    /// Gives the access that waits longest a job, if one is free.
    pub fn start(&mut self) -> Do {
        if self.waiting.is_empty() {
            return Do::Nothing;
        }
        match self.jobs.iter().position(|job| job.need.is_none()) {
            Some(at) if self.assign(at) => Do::Start(at),
            _ => Do::Nothing,
        }
    }

    /// Gives the free job `at` something to do.
    fn assign(&mut self, at: usize) -> bool {
        let Some(first) = self.waiting.first() else {
            return false;
        };
        let Some(need) = first.with(|a| a.need) else {
            return false;
        };
        let mut look = Some(first);
        for _ in 0..JOIN {
            let Some(access) = look else { break };
            look = List::after(access);
            let joins = access == first || access.with(|a| a.need.is_some_and(|n| need.serves(&n)));
            if joins {
                self.waiting.remove(access);
                self.jobs[at].served.push(access);
                access.with(|a| a.place = Place::Served(at));
            }
        }
        let job = &mut self.jobs[at];
        (job.need, job.doomed, job.tries) = (Some(need), false, 0);
        true
    }

    /// A worker begins job `at`, or goes on with it after a rest.
    ///
    /// # Returns
    ///
    /// What is needed, or `None` if it is doomed: [`finish`](Self::finish) follows at once. Somebody
    /// waits for what is needed, at this moment.
    #[must_use]
    pub fn begin(&mut self, at: usize) -> Option<Need<R>> {
        let job = &mut self.jobs[at];
        job.resting = false;
        job.need.filter(|_| !job.doomed)
    }

    /// Whether job `at` may be left for a while and tried again, because what it met may pass.
    ///
    /// # Returns
    ///
    /// How often it was tried before, if somebody waits for it still: its worker leaves, and is
    /// started again after a rest. At most `most` times.
    #[must_use]
    pub fn rest(&mut self, at: usize, most: u32) -> Option<u32> {
        let job = &mut self.jobs[at];
        if job.doomed || job.tries >= most {
            return None;
        }
        job.tries += 1;
        job.resting = true;
        Some(job.tries - 1)
    }

    /// Takes one of the accesses that job `at` served, whose fault ended with `outcome` (0 or a
    /// negative errno). The driver is to be told.
    #[must_use]
    pub fn end_one(&mut self, at: usize, outcome: i32) -> Option<Access<R>> {
        let access = self.jobs[at].served.first()?;
        self.jobs[at].served.remove(access);
        access.with(|a| a.place = Place::Ended(outcome));
        self.parked -= 1;
        Some(access)
    }

    /// Job `at` is over: nobody is served by it any more, as [`end_one`](Self::end_one) just said
    /// under the same lock.
    ///
    /// # Returns
    ///
    /// Whether its worker goes on with the next one.
    #[must_use]
    pub fn finish(&mut self, at: usize) -> bool {
        debug_assert!(self.jobs[at].served.is_empty(), "somebody waits for it");
        self.jobs[at].need = None;
        self.assign(at)
    }

    /// What became of `access`, which is idle after that if its fault ended.
    pub fn before(&mut self, access: Access<R>) -> Before {
        access.with(|a| match a.place {
            Place::Idle => Before::Idle,
            Place::Waiting | Place::Served(_) => Before::Parked,
            Place::Ended(outcome) => {
                a.place = Place::Idle;
                Before::Ended(outcome)
            }
        })
    }

    /// Whether `access` is parked for exactly this.
    #[must_use]
    pub fn needs(&self, access: Access<R>, need: &Need<R>) -> bool {
        access.with(|a| a.need.as_ref() == Some(need))
    }

    /// Takes `access` out, wherever it is: the driver is not told. It is idle after that.
    pub fn cancel(&mut self, access: Access<R>) -> Do {
        match access.with(|a| core::mem::replace(&mut a.place, Place::Idle)) {
            Place::Idle | Place::Ended(_) => Do::Nothing,
            Place::Waiting => {
                self.waiting.remove(access);
                self.parked -= 1;
                Do::Nothing
            }
            Place::Served(at) => {
                self.jobs[at].served.remove(access);
                self.parked -= 1;
                self.doom_if_idle(at)
            }
        }
    }

    fn doom_if_idle(&mut self, at: usize) -> Do {
        let job = &mut self.jobs[at];
        if !job.served.is_empty() || job.doomed {
            return Do::Nothing;
        }
        job.doomed = true;
        // One that rests has no worker now; it ends when it begins again.
        if job.resting {
            Do::Nothing
        } else {
            Do::End(at)
        }
    }

    /// Takes one access that is parked for something of `region`, which goes: it ended with `outcome`,
    /// and the driver is to be told.
    ///
    /// # Returns
    ///
    /// The access, and what is to be done for its job; `None` if there is no more.
    #[must_use]
    pub fn stop_one(&mut self, region: R, outcome: i32) -> Option<(Access<R>, Do)> {
        let of_region = |need: Option<Need<R>>| need.is_some_and(|n| n.region == region);
        let mut at = self.waiting.first();
        while let Some(access) = at {
            if of_region(access.with(|a| a.need)) {
                self.waiting.remove(access);
                self.parked -= 1;
                access.with(|a| a.place = Place::Ended(outcome));
                return Some((access, Do::Nothing));
            }
            at = List::after(access);
        }
        let of_job = |job: &Job<R>| of_region(job.need) && !job.served.is_empty();
        let job = self.jobs.iter().position(of_job)?;
        let access = self.end_one(job, outcome)?;
        Some((access, self.doom_if_idle(job)))
    }
}
