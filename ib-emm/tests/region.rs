// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region against a model VM: every translation that can be used must be what the VM maps now.
//!
//! The model VM changes its mapping of a page only between the start and the end of an
//! invalidation of it, as the real one does. Faults are split in two (ask, install), so that
//! invalidations come between.

mod common;

use common::HostNodes;
use ib_emm::emm::{
    Begin, Entry, Finish, Geometry, PAGE_SIZE, PageRange, Pool, RegionState, Window,
};
use proptest::prelude::*;
use std::pin::Pin;

const START: u64 = 0x7f00_0010_3000 + 77;
const LENGTH: u64 = 1500 * PAGE_SIZE;

#[derive(Clone, Debug)]
enum Op {
    /// A fault asks the VM.
    Ask(u64, u64, bool),
    /// The fault's answer, given when it asked, is installed.
    Install(usize),
    Start(u64, u64),
    /// The VM remaps the pages of an invalidation under way, then ends it.
    End(usize),
    Access(u64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let page = 0..1502u64;
    prop_oneof![
        3 => (page.clone(), 1..40u64, any::<bool>()).prop_map(|(p, n, w)| Op::Ask(p, n, w)),
        3 => any::<usize>().prop_map(Op::Install),
        2 => (page.clone(), 1..900u64).prop_map(|(p, n)| Op::Start(p, n)),
        2 => any::<usize>().prop_map(Op::End),
        6 => (page, any::<bool>()).prop_map(|(p, w)| Op::Access(p, w)),
    ]
}

struct Fault {
    window: Pin<Box<Window>>,
    want: PageRange,
    write: bool,
    answer: Vec<u64>,
}

struct Model {
    state: RegionState<HostNodes>,
    mem: HostNodes,
    /// What the VM maps: a frame for each page.
    vm: Vec<u64>,
    next_frame: u64,
    in_flight: Vec<PageRange>,
    faults: Vec<Fault>,
}

impl Model {
    fn new() -> Self {
        let geometry = Geometry::new(START, LENGTH).unwrap();
        let mem = HostNodes::default();
        Self {
            state: RegionState::new(geometry, mem.clone()),
            mem,
            vm: (0..geometry.pages().end).collect(),
            next_frame: 1 << 20,
            in_flight: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn pages(&self) -> PageRange {
        Geometry::new(START, LENGTH).unwrap().pages()
    }

    fn step(&mut self, op: Op) {
        let all = self.pages();
        match op {
            Op::Ask(page, len, write) => {
                let page = all.start + page % all.len();
                let want = PageRange::new(page, page + len)
                    .intersect(&PageRange::part_of(page))
                    .intersect(&all);
                let mut window = Box::pin(Window::new());
                // SAFETY: `Install`, or the end of the test, finishes it.
                let begun = unsafe { self.state.begin_fault(want, write, window.as_mut()) };
                match begun {
                    Begin::Go(range, _) => {
                        assert!(range.intersect(&all) == range, "inside the region");
                        assert!(
                            range.intersect(&PageRange::part_of(range.start)) == range,
                            "inside one part"
                        );
                        let busy = |r: &PageRange| r.overlaps(&range);
                        assert!(!self.in_flight.iter().any(busy), "held off");
                        assert!(
                            !self.faults.iter().any(|f| busy(&f.window.range())),
                            "single flight"
                        );
                        let answer = (range.start..range.end)
                            .map(|p| self.vm[p as usize])
                            .collect();
                        self.faults.push(Fault {
                            window,
                            want,
                            write,
                            answer,
                        });
                    }
                    Begin::Ready => assert!(
                        (want.start..want.end).all(|p| self
                            .state
                            .table()
                            .get(p)
                            .is_some_and(|e| e.allows(write)))
                    ),
                    Begin::Wait => assert!(
                        self.in_flight.iter().any(|r| r.overlaps(&want))
                            || self.faults.iter().any(|f| f.window.range().overlaps(&want)),
                        "nobody waits without a reason"
                    ),
                    Begin::Dead => unreachable!("never killed"),
                }
            }
            Op::Install(at) if !self.faults.is_empty() => {
                let at = at % self.faults.len();
                self.finish(at);
            }
            Op::Start(page, len) => {
                // Few at once: spilled holds are looser, and have their own test.
                if self.in_flight.len() < 5 {
                    let page = all.start + page % all.len();
                    let range = PageRange::new(page, page + len).intersect(&all);
                    self.state.hold(range);
                    let mut rest = range;
                    while self.state.clear_next(&mut rest, |_| ()) {}
                    self.in_flight.push(range);
                }
            }
            Op::End(at) if !self.in_flight.is_empty() => {
                let range = self.in_flight.swap_remove(at % self.in_flight.len());
                for page in range.start..range.end {
                    self.vm[page as usize] = self.next_frame;
                    self.next_frame += 1;
                }
                assert!(self.state.unhold(range));
            }
            Op::Access(page, write) => {
                let page = all.start + page % all.len();
                if let Some(entry) = self.state.access(page, write) {
                    assert_eq!(entry.pfn(), self.vm[page as usize], "a stale translation");
                    assert!(
                        !self.in_flight.iter().any(|r| r.contains(page)),
                        "an access between start and end"
                    );
                    assert!(entry.allows(write));
                }
            }
            Op::Install(_) | Op::End(_) => (),
        }
    }

    fn finish(&mut self, at: usize) {
        let mut fault = self.faults.swap_remove(at);
        let range = fault.window.range();
        let mem = self.mem.clone();
        let mut pool = Pool::new(&mem);
        assert!(pool.fill(6));
        let answer = fault.answer.iter().copied();
        let end = self.state.finish_fault(
            fault.window.as_mut(),
            fault.want,
            answer,
            fault.write,
            false,
            &mut pool,
        );
        if end == Finish::Installed {
            let got = self.state.table().get(range.start);
            assert!(got.is_some_and(|e: Entry| e.allows(fault.write)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_stale_translation(ops in prop::collection::vec(op(), 1..300)) {
        let mut model = Model::new();
        for op in ops {
            model.step(op);
        }
        while !model.faults.is_empty() {
            model.finish(0);
        }
        model.state.kill();
        let mut rest = model.pages();
        while model.state.clear_next(&mut rest, |_| ()) {}
        prop_assert_eq!(model.mem.live(), 0, "all memory is back");
    }
}

#[test]
fn geometry_of_odd_regions() {
    let g = Geometry::new(START, LENGTH).unwrap();
    assert_eq!(g.base() % (512 * PAGE_SIZE), 0);
    assert_eq!(g.pages().len(), 1501, "an odd start touches one page more");
    let (page, at) = g.locate(0);
    assert_eq!((g.address(page) + at as u64, at), (START, 77));
    assert!(g.holds(0, LENGTH) && g.holds(LENGTH, 0) && !g.holds(1, LENGTH));
    assert!(!g.holds(u64::MAX, 2), "no wrap");
    assert_eq!(
        g.clip(0, START),
        g.clip(START - 77, START),
        "the first page is shared"
    );
    assert!(g.clip(0, START - 77).is_empty());
    assert_eq!(g.clip(0, u64::MAX), g.pages());
    assert!(Geometry::new(5, 0).is_none() && Geometry::new(5, u64::MAX).is_none());
    let all = Geometry::new(0, u64::MAX).unwrap();
    assert_eq!(all.pages().end, 1 << 52);
}

#[test]
fn a_cold_sequential_message_takes_few_faults() {
    let mut model = Model::new();
    let all = model.pages();
    let (mut page, mut faults) = (all.start, 0);
    while page < all.start + 1024 {
        model.step(Op::Ask(page - all.start, 1, true));
        let got = model.faults.last().unwrap().window.range();
        assert_eq!(got.start, page);
        model.step(Op::Install(0));
        page = got.end;
        faults += 1;
    }
    assert!(faults <= 16, "{faults} faults for 4 MiB");
}

#[test]
fn random_reads_bring_in_what_they_need() {
    let mut model = Model::new();
    let mut pages = 0;
    for i in 0..500 {
        model.step(Op::Ask(i * 701 % 1500, 1, false));
        if let Some(fault) = model.faults.last() {
            pages += fault.window.range().len();
            model.step(Op::Install(0));
        }
    }
    assert!(pages <= 625, "{pages} pages for 500 reads");
}

#[test]
fn a_killed_region_serves_nothing() {
    let mut model = Model::new();
    model.step(Op::Ask(0, 1, true));
    model.state.kill();
    let mut fault = model.faults.pop().unwrap();
    let mem = model.mem.clone();
    let mut pool = Pool::new(&mem);
    assert!(pool.fill(6));
    let end = model.state.finish_fault(
        fault.window.as_mut(),
        fault.want,
        fault.answer.iter().copied(),
        true,
        false,
        &mut pool,
    );
    assert_eq!(end, Finish::Dead);
    let mut window = Box::pin(Window::new());
    // SAFETY: a dead region opens no window.
    let begun = unsafe { model.state.begin_fault(fault.want, true, window.as_mut()) };
    assert_eq!(begun, Begin::Dead);
}
