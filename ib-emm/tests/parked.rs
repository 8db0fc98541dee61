// SPDX-License-Identifier: MIT OR Apache-2.0

//! Parked accesses and the jobs that serve them, against a naive model: whoever is parked ends once,
//! unless it is cancelled; no job is idle while somebody waits; what nobody waits for is ended.

use ib_emm::emm::{Access, Asks, Before, Do, Job, Need, PageRange, Parked, Queue};
use proptest::prelude::*;
use std::cell::UnsafeCell;

const JOBS: usize = 3;
const ACCESSES: usize = 12;
const ESRCH: i32 = -3;

fn need(region: u8, page: u64, write: bool) -> Need<u8> {
    Need {
        region,
        range: PageRange::new(page, page + 3),
        asks: Asks::Access { write },
        rounds: 0,
    }
}

/// What is known of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Idle,
    Parked(Need<u8>),
    Ended(i32),
}

/// What is known of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    Free,
    /// Its worker was started and has yet to begin, maybe after a rest.
    Started {
        doomed: bool,
        rests: bool,
    },
    Works {
        need: Need<u8>,
        doomed: bool,
    },
}

struct World {
    queue: Queue<u8, Vec<Job<u8>>>,
    /// Never grows: none of them moves.
    cells: Vec<UnsafeCell<Parked<u8>>>,
    is: Vec<Is>,
    workers: Vec<Worker>,
}

#[derive(Clone, Debug)]
enum Op {
    Park(usize, u8, u64, bool),
    Cancel(usize),
    Look(usize),
    Begin(usize),
    End(usize, i32),
    Rest(usize),
    Stop(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..ACCESSES, 0..2u8, 0..4u64, any::<bool>()).prop_map(|(i, r, p, w)| Op::Park(i, r, p, w)),
        1 => (0..ACCESSES).prop_map(Op::Cancel),
        1 => (0..ACCESSES).prop_map(Op::Look),
        4 => (0..JOBS).prop_map(Op::Begin),
        4 => (0..JOBS, prop_oneof![Just(0), Just(-14)]).prop_map(|(j, e)| Op::End(j, e)),
        1 => (0..JOBS).prop_map(Op::Rest),
        1 => (0..2u8).prop_map(Op::Stop),
    ];
    prop::collection::vec(op, 0..60)
}

impl World {
    fn new() -> Self {
        Self {
            queue: Queue::new((0..JOBS).map(|_| Job::new()).collect()),
            cells: (0..ACCESSES).map(|_| UnsafeCell::default()).collect(),
            is: vec![Is::Idle; ACCESSES],
            workers: vec![Worker::Free; JOBS],
        }
    }

    fn access(&self, i: usize) -> Access<u8> {
        // SAFETY: the cell stays where it is, lives as long as the queue, and is touched by it only.
        unsafe { Access::new(&self.cells[i]) }
    }

    fn number(&self, access: Access<u8>) -> usize {
        let at = |i: &usize| self.access(*i) == access;
        (0..ACCESSES).find(at).expect("one of ours")
    }

    fn act(&mut self, todo: Do) {
        match todo {
            Do::Nothing => {}
            Do::Start(at) => {
                assert_eq!(self.workers[at], Worker::Free, "a job is started once");
                self.workers[at] = Worker::Started {
                    doomed: false,
                    rests: false,
                };
            }
            Do::End(at) => match &mut self.workers[at] {
                Worker::Works { doomed, .. }
                | Worker::Started {
                    doomed,
                    rests: false,
                } if !*doomed => {
                    *doomed = true;
                }
                other => panic!("{other:?} is told to end"),
            },
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Park(i, region, page, write) => {
                if let Is::Parked(_) = self.is[i] {
                    return;
                }
                let need = need(region, page, write);
                self.is[i] = Is::Parked(need);
                let todo = self.queue.park(self.access(i), need);
                self.act(todo);
            }
            Op::Cancel(i) => {
                let todo = self.queue.cancel(self.access(i));
                if !matches!(self.is[i], Is::Parked(_)) {
                    assert_eq!(todo, Do::Nothing);
                }
                self.is[i] = Is::Idle;
                self.act(todo);
            }
            Op::Look(i) => {
                let wanted = match self.is[i] {
                    Is::Idle => Before::Idle,
                    Is::Parked(_) => Before::Parked,
                    Is::Ended(outcome) => {
                        self.is[i] = Is::Idle;
                        Before::Ended(outcome)
                    }
                };
                assert_eq!(self.queue.before(self.access(i)), wanted);
            }
            Op::Begin(at) => self.begin(at),
            Op::End(at, outcome) => self.end(at, outcome),
            Op::Rest(at) => {
                let Worker::Works { doomed, .. } = self.workers[at] else {
                    return;
                };
                let rests = self.queue.rest(at, 2).is_some();
                assert!(!(rests && doomed), "nobody waits for it");
                if rests {
                    self.workers[at] = Worker::Started {
                        doomed: false,
                        rests: true,
                    };
                }
            }
            Op::Stop(region) => {
                while let Some((access, todo)) = self.queue.stop_one(region, ESRCH) {
                    let i = self.number(access);
                    assert!(matches!(self.is[i], Is::Parked(need) if need.region == region));
                    self.is[i] = Is::Ended(ESRCH);
                    self.act(todo);
                }
                let of_region = |is: &Is| matches!(is, Is::Parked(need) if need.region == region);
                assert!(!self.is.iter().any(of_region), "all of it is stopped");
            }
        }
    }

    fn begin(&mut self, at: usize) {
        let Worker::Started { doomed, rests } = self.workers[at] else {
            return;
        };
        match self.queue.begin(at) {
            Some(need) => {
                assert!(!doomed, "nobody waits for it");
                let waits = |is: &Is| matches!(is, Is::Parked(n) if n.region == need.region);
                assert!(
                    self.is.iter().any(waits),
                    "its region is known by who waits"
                );
                self.workers[at] = Worker::Works { need, doomed };
            }
            None => {
                assert!(doomed || rests, "somebody waits for it");
                self.finish(at);
            }
        }
    }

    fn end(&mut self, at: usize, outcome: i32) {
        let Worker::Works { need, doomed } = self.workers[at] else {
            return;
        };
        let mut served = 0;
        while let Some(access) = self.queue.end_one(at, outcome) {
            let i = self.number(access);
            let Is::Parked(theirs) = self.is[i] else {
                panic!("{:?} ends", self.is[i]);
            };
            assert_eq!(
                (theirs.region, theirs.range.start),
                (need.region, need.range.start)
            );
            assert!(need.asks.writes() || !theirs.asks.writes());
            self.is[i] = Is::Ended(outcome);
            served += 1;
        }
        assert_eq!(served == 0, doomed, "a job is doomed when nobody waits");
        self.finish(at);
    }

    fn finish(&mut self, at: usize) {
        self.workers[at] = if self.queue.finish(at) {
            Worker::Started {
                doomed: false,
                rests: false,
            }
        } else {
            Worker::Free
        };
    }

    fn check(&self) {
        let parked = |is: &&Is| matches!(is, Is::Parked(_));
        let count = self.is.iter().filter(parked).count();
        assert_eq!(self.queue.parked(), count);
    }

    /// Lets all jobs work until there is nothing to do.
    fn drain(&mut self) {
        while let Some(at) = self.workers.iter().position(|w| *w != Worker::Free) {
            self.begin(at);
            self.end(at, 0);
        }
        let parked = |is: &Is| matches!(is, Is::Parked(_));
        assert!(!self.is.iter().any(parked), "somebody waits for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn who_is_parked_ends_once(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.drain();
    }
}

/// Many accesses of one page take one job, also those that came before a job was free.
#[test]
fn one_page_takes_one_job() {
    let mut world = World::new();
    for (i, page) in [(0, 9), (1, 8), (2, 7), (3, 6), (4, 6), (5, 6)] {
        world.apply(&Op::Park(i, 0, page, false));
    }
    world.apply(&Op::Begin(0));
    world.apply(&Op::End(0, 0));
    world.apply(&Op::Park(6, 0, 6, false));
    world.apply(&Op::Begin(0));
    world.apply(&Op::End(0, 0));
    for i in 3..7 {
        assert_eq!(world.is[i], Is::Ended(0), "access {i}");
    }
}

/// Those who wait are served in the order in which they came, whatever comes later.
#[test]
fn who_came_first_is_served_first() {
    let mut world = World::new();
    for i in 0..ACCESSES {
        world.apply(&Op::Park(i, 0, i as u64, true));
    }
    for served in 0..ACCESSES {
        world.apply(&Op::Begin(0));
        // Two other jobs never end: they have the second and the third.
        if (1..3).contains(&served) {
            continue;
        }
        world.apply(&Op::End(0, 0));
        assert_eq!(world.is[served], Is::Ended(0), "access {served}");
    }
}

/// What nobody waits for is given up, also if it rests; then its job serves others.
#[test]
fn a_job_that_rests_is_given_up() {
    let mut world = World::new();
    world.apply(&Op::Park(0, 0, 1, true));
    world.apply(&Op::Begin(0));
    world.apply(&Op::Rest(0));
    world.apply(&Op::Cancel(0));
    world.apply(&Op::Park(1, 0, 1, true));
    world.drain();
    assert_eq!(world.is, {
        let mut is = vec![Is::Idle; ACCESSES];
        is[1] = Is::Ended(0);
        is
    });
}

/// A fault that meets what may pass is not tried for ever.
#[test]
fn rests_are_bounded() {
    let mut world = World::new();
    world.apply(&Op::Park(0, 0, 1, true));
    for rest in 0..2 {
        assert!(world.queue.begin(0).is_some());
        assert_eq!(world.queue.rest(0, 2), Some(rest));
    }
    assert!(world.queue.begin(0).is_some());
    assert_eq!(world.queue.rest(0, 2), None);
}
