// SPDX-License-Identifier: MIT OR Apache-2.0

//! Parking, serving, cancelling and stopping against each other, in every order that loom finds: the
//! real queue, under a lock as the kernel module has it.
//!
//! What must hold in each of them:
//! - Whoever is parked and not cancelled is told, once, and then finds what its fault ended with.
//! - When cancelling has returned, nobody is told any more: the driver may free its cookie.
//! - A region goes only when nobody is parked for it, and a job that began holds it.
//! - Nobody waits for ever.
//!
//! That the models can tell is shown by breaking it in one place at a time.

use ib_emm::emm::{Access, Asks, Before, Do, Job, Need, PageRange, Parked, Queue};
use loom::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use std::{cell::UnsafeCell, panic};

const ESRCH: i32 = -3;
const NEED: Need<u8> = Need {
    region: 0,
    range: PageRange::one(5),
    asks: Asks::Access { write: true },
    rounds: 0,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The driver is told when the lock was given back.
    TellsUnlocked,
    /// A job is over when the lock was given back after its last access: one may have joined it.
    FinishesUnlocked,
    /// The region is held when the lock was given back.
    HoldsUnlocked,
    /// Stopping does not mark the region first.
    StopsUnmarked,
}

struct Inner {
    queue: Queue<u8, Vec<Job<u8>>>,
    /// Jobs whose worker was started.
    started: usize,
    /// No more will be parked.
    over: bool,
}

struct Owner {
    bug: Bug,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The region was stopped, and went, unless a worker holds it.
    stopped: AtomicBool,
    gone: AtomicBool,
    held: AtomicUsize,
}

struct Cookie {
    parked: UnsafeCell<Parked<u8>>,
    told: AtomicUsize,
    freed: AtomicBool,
}

// SAFETY: `parked` is touched under the owner's lock only.
unsafe impl Send for Cookie {}
// SAFETY: as above.
unsafe impl Sync for Cookie {}

impl Cookie {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            parked: UnsafeCell::default(),
            told: AtomicUsize::new(0),
            freed: AtomicBool::new(false),
        })
    }

    fn access(&self) -> Access<u8> {
        // SAFETY: in an `Arc` that outlives the threads, and touched under the lock.
        unsafe { Access::new(&self.parked) }
    }

    fn tell(&self) {
        assert!(!self.freed.load(SeqCst), "told after it was freed");
        assert_eq!(self.told.fetch_add(1, SeqCst), 0, "told twice");
    }
}

impl Owner {
    fn new(bug: Bug) -> Arc<Self> {
        Arc::new(Self {
            bug,
            inner: Mutex::new(Inner {
                queue: Queue::new(vec![Job::new()]),
                started: 0,
                over: false,
            }),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            held: AtomicUsize::new(0),
        })
    }

    fn act(&self, inner: &mut Inner, todo: Do) {
        if let Do::Start(_) = todo {
            inner.started += 1;
        }
        self.changed.notify_all();
    }

    /// An access that misses; whether it was parked.
    fn park(&self, cookie: &Cookie) -> bool {
        let mut inner = self.inner.lock().unwrap();
        if self.stopped.load(SeqCst) {
            return false;
        }
        assert!(!self.gone.load(SeqCst), "parked for a region that went");
        let todo = inner.queue.park(cookie.access(), NEED);
        self.act(&mut inner, todo);
        true
    }

    fn cancel(&self, cookie: &Cookie) {
        let mut inner = self.inner.lock().unwrap();
        let todo = inner.queue.cancel(cookie.access());
        self.act(&mut inner, todo);
    }

    fn over(&self) {
        self.inner.lock().unwrap().over = true;
        self.changed.notify_all();
    }

    /// The one worker, until nothing comes any more.
    fn work(&self, cookies: &[Arc<Cookie>]) {
        loop {
            let mut inner = self.inner.lock().unwrap();
            while inner.started == 0 {
                if inner.over {
                    return;
                }
                inner = self.changed.wait(inner).unwrap();
            }
            inner.started -= 1;
            loop {
                let need = inner.queue.begin(0);
                if need.is_some() && self.bug != Bug::HoldsUnlocked {
                    self.hold();
                }
                drop(inner);
                if need.is_some() && self.bug == Bug::HoldsUnlocked {
                    self.hold();
                }
                // Here it is in its fault.
                inner = self.inner.lock().unwrap();
                while let Some(access) = inner.queue.end_one(0, 0) {
                    let cookie = cookies.iter().find(|c| c.access() == access).unwrap();
                    if self.bug == Bug::TellsUnlocked {
                        drop(inner);
                        thread::yield_now();
                        cookie.tell();
                        inner = self.inner.lock().unwrap();
                    } else {
                        cookie.tell();
                    }
                    self.changed.notify_all();
                }
                if self.bug == Bug::FinishesUnlocked {
                    drop(inner);
                    thread::yield_now();
                    inner = self.inner.lock().unwrap();
                }
                if need.is_some() {
                    self.held.fetch_sub(1, SeqCst);
                }
                if !inner.queue.finish(0) {
                    break;
                }
            }
        }
    }

    fn hold(&self) {
        assert!(!self.gone.load(SeqCst), "a region is held that went");
        self.held.fetch_add(1, SeqCst);
    }

    /// The region goes: nobody may name it from now on, but for a worker that holds it.
    fn stop(&self, cookies: &[Arc<Cookie>]) {
        if self.bug != Bug::StopsUnmarked {
            self.stopped.store(true, SeqCst);
        }
        loop {
            let mut inner = self.inner.lock().unwrap();
            let Some((access, todo)) = inner.queue.stop_one(0, ESRCH) else {
                break;
            };
            let cookie = cookies.iter().find(|c| c.access() == access).unwrap();
            cookie.tell();
            self.act(&mut inner, todo);
        }
        // The last reference but the workers'.
        self.gone.store(true, SeqCst);
    }

    /// What the driver does when it was told.
    fn look(&self, cookie: &Cookie) -> Before {
        self.inner.lock().unwrap().queue.before(cookie.access())
    }

    fn await_told(&self, cookie: &Cookie) {
        let mut inner = self.inner.lock().unwrap();
        while cookie.told.load(SeqCst) == 0 {
            inner = self.changed.wait(inner).unwrap();
        }
    }
}

fn model(bug: Bug, scenario: fn(&Arc<Owner>)) {
    let mut builder = loom::model::Builder::new();
    // More switches than that show nothing new, and take for ever.
    builder.preemption_bound = Some(2);
    builder.check(move || scenario(&Owner::new(bug)));
}

/// Two drivers miss the same page.
fn two_drivers(owner: &Arc<Owner>) {
    let cookies = [Cookie::new(), Cookie::new()];
    let worker = {
        let (owner, cookies) = (owner.clone(), cookies.clone());
        thread::spawn(move || owner.work(&cookies))
    };
    let other = {
        let (owner, cookie) = (owner.clone(), cookies[1].clone());
        thread::spawn(move || {
            assert!(owner.park(&cookie));
            owner.await_told(&cookie);
            assert_eq!(owner.look(&cookie), Before::Ended(0));
        })
    };
    assert!(owner.park(&cookies[0]));
    owner.await_told(&cookies[0]);
    assert_eq!(owner.look(&cookies[0]), Before::Ended(0));
    assert_eq!(owner.look(&cookies[0]), Before::Idle, "told again");
    other.join().unwrap();
    owner.over();
    worker.join().unwrap();
}

/// A driver cancels, and frees its cookie.
fn cancel(owner: &Arc<Owner>) {
    let cookies = [Cookie::new(), Cookie::new()];
    let worker = {
        let (owner, cookies) = (owner.clone(), cookies.clone());
        thread::spawn(move || owner.work(&cookies))
    };
    assert!(owner.park(&cookies[0]));
    assert!(owner.park(&cookies[1]));
    owner.cancel(&cookies[0]);
    cookies[0].freed.store(true, SeqCst);
    owner.await_told(&cookies[1]);
    owner.over();
    worker.join().unwrap();
}

/// A region is stopped, and goes, while one access is parked for it.
fn stop(owner: &Arc<Owner>) {
    let cookies = [Cookie::new()];
    let worker = {
        let (owner, cookies) = (owner.clone(), cookies.clone());
        thread::spawn(move || owner.work(&cookies))
    };
    let stopper = {
        let (owner, cookies) = (owner.clone(), cookies.clone());
        thread::spawn(move || owner.stop(&cookies))
    };
    if owner.park(&cookies[0]) {
        owner.await_told(&cookies[0]);
        assert!(matches!(owner.look(&cookies[0]), Before::Ended(0 | ESRCH)));
    }
    stopper.join().unwrap();
    owner.over();
    worker.join().unwrap();
}

mod holds {
    use super::*;

    #[test]
    fn two_drivers_of_one_page() {
        model(Bug::None, two_drivers);
    }

    #[test]
    fn cancelling() {
        model(Bug::None, cancel);
    }

    #[test]
    fn stopping() {
        model(Bug::None, stop);
    }
}

mod catches {
    use super::*;

    fn caught(bug: Bug, scenario: fn(&Arc<Owner>)) {
        let result = panic::catch_unwind(move || model(bug, scenario));
        assert!(result.is_err(), "no order shows the fault");
    }

    #[test]
    fn telling_without_the_lock() {
        caught(Bug::TellsUnlocked, cancel);
    }

    #[test]
    fn a_job_that_is_over_when_somebody_joined_it() {
        caught(Bug::FinishesUnlocked, two_drivers);
    }

    #[test]
    fn holding_a_region_without_the_lock() {
        caught(Bug::HoldsUnlocked, stop);
    }

    #[test]
    fn stopping_without_a_mark() {
        caught(Bug::StopsUnmarked, stop);
    }
}
