// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region against a model VM: every translation that can be used must be what the VM maps now.
//!
//! The model VM changes its mapping of a page only between the start and the end of an
//! invalidation of it, as the real one does. Faults are split in two (ask, install), so that
//! invalidations and the owner's exit come between.

mod op;

pub use self::op::{Change, Op};

use super::{HostGate, HostNodes};
use ib_emm::emm::{
    Begin, Entry, Finish, Frame, Geometry, Losses, MOST_PATIENCE, PAGE_SIZE, PART_PAGES, PageRange,
    Pool, Stats, Window,
};
use std::pin::Pin;

/// First byte of the region, off all boundaries.
pub const START: u64 = 0x7f00_0010_3000 + 77;
/// Its bytes: two whole parts and some pages on either side.
pub const LENGTH: u64 = 1500 * PAGE_SIZE;

/// A thread that faults, and another one.
const FAULT: usize = 1;
const OTHER: usize = 2;

/// Invalidations that a region tells apart.
const SLOTS: usize = 6;

/// A page of the VM.
#[derive(Clone, Copy, PartialEq)]
struct Page {
    /// Which mapping this is. Frames are named after it, so that those of one mapping lie in a
    /// row.
    generation: u64,
    present: bool,
    writable: bool,
}

/// What a page's translation should be.
#[derive(Clone, Copy)]
struct Translation {
    pfn: u64,
    writable: bool,
    /// Written through since it was entered.
    written: bool,
    /// One for the whole part.
    huge: bool,
}

/// What the VM answered.
enum Answer {
    Pages(Vec<Frame>),
    Huge(Option<Frame>),
}

struct Fault {
    window: Pin<Box<Window<HostGate>>>,
    want: PageRange,
    write: bool,
    prefetch: bool,
    /// The most pages that the VM has for it.
    most: usize,
    answer: Answer,
    /// An invalidation of some of its pages began.
    stale: bool,
    nodes: usize,
}

impl Fault {
    /// What it asks for.
    fn range(&self) -> PageRange {
        self.window.as_ref().lock().range()
    }
}

/// The fault that starves.
struct Starved {
    page: u64,
    losses: Losses,
    /// How often it lost since.
    since: u32,
    /// The last time because its page was held off.
    held_off: bool,
}

/// A region, its VM, and what should be translated.
pub struct Model {
    gate: HostGate,
    mem: HostNodes,
    all: PageRange,
    vm: Vec<Page>,
    table: Vec<Option<Translation>>,
    generations: u64,
    in_flight: Vec<PageRange>,
    /// More were in flight at once than are told apart, and some still are.
    crowded: bool,
    faults: Vec<Fault>,
    starved: Option<Starved>,
    dead: bool,
    stats: Stats,
}

fn pfn(page: u64, generation: u64) -> u64 {
    generation << 12 | page
}

impl Page {
    /// What it maps, as page `page`.
    fn frame(&self, page: u64) -> Frame {
        Frame {
            pfn: pfn(page, self.generation),
            writable: self.writable,
        }
    }
}

impl Default for Model {
    /// Nothing translated, everything mapped for writing.
    fn default() -> Self {
        let geometry = Geometry::new(START, LENGTH).unwrap();
        let mem = HostNodes::default();
        let all = geometry.pages();
        let page = Page {
            generation: 0,
            present: true,
            writable: true,
        };
        Self {
            gate: HostGate::new(geometry, mem.clone()),
            mem,
            all,
            vm: vec![page; all.end as usize],
            table: vec![None; all.end as usize],
            generations: 0,
            in_flight: Vec::new(),
            crowded: false,
            faults: Vec::new(),
            starved: None,
            dead: false,
            stats: Stats::default(),
        }
    }
}

impl Model {
    /// Lets `op` happen to both and compares what comes of it.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Ask {
                page,
                len,
                write,
                prefetch,
                ahead,
                most,
            } => {
                let page = self.page(page);
                let want = PageRange::new(page, page + u64::from(len % 40) + 1)
                    .intersect(&PageRange::part_of(page))
                    .intersect(&self.all);
                self.ask(want, (write, prefetch, ahead), usize::from(most));
            }
            Op::AskHuge { page, write } => self.ask_huge(self.page(page), write),
            Op::Install { fault, poor } if !self.faults.is_empty() => {
                self.install(usize::from(fault) % self.faults.len(), poor);
            }
            Op::Start { page, len } => {
                let page = self.page(page);
                let end = page + u64::from(len % 900) + 1;
                self.start(PageRange::new(page, end).intersect(&self.all));
            }
            Op::End {
                invalidation,
                change,
            } if !self.in_flight.is_empty() => {
                self.end(usize::from(invalidation) % self.in_flight.len(), change);
            }
            Op::Narrow { fault } if !self.faults.is_empty() => {
                self.narrow(usize::from(fault) % self.faults.len());
            }
            Op::Renew { fault } if !self.faults.is_empty() => {
                self.renew(usize::from(fault) % self.faults.len());
            }
            Op::GiveUp { fault } if !self.faults.is_empty() => {
                let at = usize::from(fault) % self.faults.len();
                drop(self.faults.swap_remove(at));
            }
            Op::Install { .. }
            | Op::End { .. }
            | Op::Narrow { .. }
            | Op::Renew { .. }
            | Op::GiveUp { .. } => (),
            Op::Access { page, write } => self.access(self.page(page), write),
            Op::Starve { page } => self.starve(self.page(page)),
            Op::Lose { held_off } => self.lose(held_off),
            Op::Exit { sure } if sure == u8::MAX => self.exit(),
            Op::Exit { .. } => (),
        }
        assert_eq!(self.gate.read().stats(), self.stats);
    }

    /// Ends all faults and the owner.
    pub fn finish(mut self) {
        while !self.faults.is_empty() {
            self.install(0, false);
        }
        for page in self.all.start..self.all.end {
            let expected = self.table[page as usize];
            let entry = self.gate.read().table().get(page);
            assert_eq!(entry.map(Entry::pfn), expected.map(|t| t.pfn));
            let huge = expected.is_some_and(|t| t.huge);
            assert_eq!(self.gate.read().table().is_huge(page), huge);
        }
        self.exit();
    }

    /// The range that the last fault asked for.
    pub fn asked(&self) -> Option<PageRange> {
        Some(self.faults.last()?.range())
    }

    /// Faults in flight.
    pub fn faults(&self) -> usize {
        self.faults.len()
    }

    /// The region's first page.
    pub fn first(&self) -> u64 {
        self.all.start
    }

    fn page(&self, page: u16) -> u64 {
        self.all.start + u64::from(page) % self.all.len()
    }

    fn has(&self, page: u64, write: bool) -> bool {
        self.table[page as usize].is_some_and(|t| t.writable || !write)
    }

    fn is_held(&self, range: &PageRange) -> bool {
        self.in_flight.iter().any(|r| r.overlaps(range))
    }

    fn is_busy(&self, range: &PageRange) -> bool {
        self.faults.iter().any(|f| f.range().overlaps(range))
    }

    fn ask(&mut self, want: PageRange, (write, prefetch, ahead): (bool, bool, bool), most: usize) {
        let window = Box::pin(Window::new(self.gate.clone()));
        let begun = window.as_ref().lock().begin_fault(want, write, ahead);
        let first = (want.start..want.end).find(|page| !self.has(*page, write));
        let needed = PageRange::new(first.unwrap_or(want.end), want.end);
        match begun {
            Begin::Dead => assert!(self.dead),
            Begin::Ready => assert!(!self.dead && needed.is_empty()),
            Begin::HeldOff => {
                assert!(!self.dead && !needed.is_empty());
                let reason = self.is_held(&needed);
                assert!(reason || self.crowded, "nobody waits without a reason");
            }
            Begin::Wait => {
                assert!(!self.dead && !needed.is_empty());
                assert!(self.is_busy(&needed) && !self.is_held(&needed));
            }
            Begin::Go(range, nodes) => {
                assert!(!self.dead && !needed.is_empty());
                assert!(!self.is_held(&range), "held off");
                assert!(!self.is_busy(&range), "single flight");
                assert!(range.start == needed.start && range.end >= needed.end);
                assert!(ahead || range == needed, "what is needed, and no more");
                let part = PageRange::part_of(range.start).intersect(&self.all);
                assert_eq!(range.intersect(&part), range, "in one part of the region");
                let guess = needed.end..range.end;
                assert!(guess.clone().all(|page| !self.has(page, write)));
                assert_eq!(nodes, self.gate.read().table().missing(range.start));
                let pages = self.answer(range, want, write, most);
                self.faults.push(Fault {
                    window,
                    want,
                    write,
                    prefetch,
                    most,
                    answer: Answer::Pages(pages),
                    stale: false,
                    nodes,
                });
                self.copy_on_write(range.start, write);
            }
        }
    }

    fn ask_huge(&mut self, page: u64, write: bool) {
        let part = PageRange::part_of(page);
        let window = Box::pin(Window::new(self.gate.clone()));
        let begun = window.as_ref().lock().begin_huge(page);
        let Some((range, nodes)) = begun else {
            let outside = part.intersect(&self.all) != part;
            let reason = outside || self.dead || self.is_held(&part) || self.is_busy(&part);
            assert!(reason || self.crowded, "nobody is refused without a reason");
            return;
        };
        assert_eq!(range, part);
        assert!(!self.dead && !self.is_held(&part) && !self.is_busy(&part));
        let pages = &self.vm[part.start as usize..part.end as usize];
        let one = pages.iter().all(|page| *page == pages[0]);
        let usable = one && pages[0].present && (pages[0].writable || !write);
        let frame = usable.then(|| pages[0].frame(part.start));
        self.faults.push(Fault {
            window,
            want: part,
            write,
            prefetch: false,
            most: usize::MAX,
            answer: Answer::Huge(frame),
            stale: false,
            nodes,
        });
    }

    /// What the page tables have of `range`, of which `want` was asked for. What is guessed has its
    /// own rights.
    fn answer(&self, range: PageRange, want: PageRange, write: bool, most: usize) -> Vec<Frame> {
        (range.start..range.end)
            .take_while(|number| {
                let page = self.vm[*number as usize];
                page.present && (page.writable || !write || *number >= want.end)
            })
            .take(most)
            .map(|page| self.vm[page as usize].frame(page))
            .collect()
    }

    /// A fault's write to a protected page replaces it, with an invalidation inside the fault.
    fn copy_on_write(&mut self, page: u64, write: bool) {
        let vm = self.vm[page as usize];
        if write && vm.present && !vm.writable {
            self.start(PageRange::one(page));
            self.end(self.in_flight.len() - 1, Change::Replace);
        }
    }

    fn narrow(&mut self, at: usize) {
        let fault = &self.faults[at];
        let first = PageRange::one(fault.range().start);
        if matches!(fault.answer, Answer::Huge(_)) {
            return;
        }
        let write = fault.write;
        let pages = self.answer(first, first, write, 1);
        let fault = &mut self.faults[at];
        fault.window.as_ref().lock().narrow_fault();
        fault.answer = Answer::Pages(pages);
        self.copy_on_write(first.start, write);
    }

    fn renew(&mut self, at: usize) {
        let fault = &self.faults[at];
        if matches!(fault.answer, Answer::Huge(_)) {
            return;
        }
        let (before, want) = (fault.range(), fault.want);
        let (write, most) = (fault.write, fault.most);
        let renewed = fault.window.as_ref().lock().renew();
        let range = fault.range();
        let held = self.is_held(&PageRange::one(before.start));
        if !renewed {
            assert_eq!(range, before);
            let reason = self.dead || held || self.crowded;
            assert!(reason, "nothing is refused without a reason");
            return;
        }
        assert!(!self.dead && !self.is_held(&range), "held off");
        assert!(range.start == before.start && !range.is_empty() && range.end <= before.end);
        let cut = range != before;
        let reason = self.crowded || self.is_held(&PageRange::one(range.end));
        assert!(!cut || reason, "nothing is cut off without a reason");
        let pages = self.answer(range, want, write, most);
        let fault = &mut self.faults[at];
        fault.stale = false;
        fault.answer = Answer::Pages(pages);
    }

    fn install(&mut self, at: usize, poor: bool) {
        let Fault {
            window,
            want,
            write: _,
            prefetch,
            most: _,
            answer,
            stale,
            nodes,
        } = self.faults.swap_remove(at);
        let range = window.as_ref().lock().range();
        let mem = self.mem.clone();
        let mut pool = Pool::new(&mem);
        assert!(pool.fill(if poor { 0 } else { nodes }), "memory");
        let mut missing = self.gate.read().table().missing(range.start);
        let mut state = window.as_ref().lock();
        let (finish, usable) = match &answer {
            Answer::Pages(pages) if pages.is_empty() => {
                state.abandon();
                return;
            }
            Answer::Pages(pages) => {
                let frames = pages.iter().copied();
                let finish = state.finish_fault(want, frames, prefetch, &mut pool);
                (finish, true)
            }
            Answer::Huge(frame) => {
                missing = missing.saturating_sub(1);
                let finish = state.finish_huge(*frame, prefetch, &mut pool);
                (finish, frame.is_some())
            }
        };
        drop(state);
        let lacking = missing > if poor { 0 } else { nodes };
        let expected = if self.dead {
            Finish::Dead
        } else if stale || lacking || !usable {
            Finish::Stale
        } else {
            Finish::Installed
        };
        assert_eq!(finish, expected);
        if finish == Finish::Installed {
            self.enter(range, &answer, prefetch);
        }
    }

    /// Notes that `answer` was installed.
    fn enter(&mut self, range: PageRange, answer: &Answer, prefetch: bool) {
        let pages = match answer {
            Answer::Pages(frames) => {
                for (page, frame) in (range.start..).zip(frames) {
                    if !self.has(page, frame.writable) {
                        self.enter_page(page, *frame);
                    }
                }
                frames.len() as u64
            }
            Answer::Huge(frame) => {
                let first = frame.expect("only usable answers are installed");
                for (page, pfn) in (range.start..range.end).zip(first.pfn..) {
                    let written = self.table[page as usize].is_some_and(|t| t.written);
                    self.table[page as usize] = Some(Translation {
                        pfn,
                        writable: first.writable,
                        written,
                        huge: true,
                    });
                }
                PART_PAGES
            }
        };
        if prefetch {
            self.stats.page_prefetch += pages;
        } else {
            self.stats.page_faults += pages;
        }
    }

    /// One page's translation, in place of what is there. A huge one is split.
    fn enter_page(&mut self, page: u64, frame: Frame) {
        let old = self.table[page as usize];
        if old.is_some_and(|t| t.huge) {
            let part = PageRange::part_of(page);
            let pages = &mut self.table[part.start as usize..part.end as usize];
            pages.iter_mut().flatten().for_each(|t| t.huge = false);
        }
        self.table[page as usize] = Some(Translation {
            pfn: frame.pfn,
            writable: frame.writable,
            written: old.is_some_and(|t| t.written),
            huge: false,
        });
    }

    fn start(&mut self, range: PageRange) {
        let patience = match &self.starved {
            None => 0,
            Some(s) if s.held_off || self.is_busy(&PageRange::one(s.page)) => {
                (1 << (s.since / 8).min(4)).min(MOST_PATIENCE)
            }
            Some(_) => 1,
        };
        let before = self.gate.write(|state| state.come());
        self.gate.write(|state| state.turn_over());
        let now = self.gate.write(|state| state.come());
        let given = self.gate.read().patience(&range, OTHER, now);
        let over = self.gate.read().patience(&range, OTHER, before);
        assert_eq!(over, 0, "those before it went with another");
        if self
            .starved
            .as_ref()
            .is_some_and(|s| range.contains(s.page))
        {
            assert_eq!(given, patience);
        } else if self.in_flight.len() < SLOTS && !self.crowded {
            assert_eq!(given, 0, "it holds nothing off that is needed");
        } else {
            assert!(given == 0 || given == patience, "it may hold it off");
        }
        assert_eq!(self.gate.read().patience(&range, FAULT, now), 0);
        self.gate.write(|state| state.hold(range));
        for fault in &mut self.faults {
            fault.stale |= fault.range().overlaps(&range);
        }
        self.clear(range);
        self.in_flight.push(range);
        self.crowded |= self.in_flight.len() > SLOTS;
    }

    /// Takes the translations of `range`, and the rest of a huge one that lies in it.
    fn clear(&mut self, range: PageRange) {
        let mut rest = range;
        let mut gone = Vec::new();
        while self
            .gate
            .write(|state| state.clear_next(&mut rest, |entry| gone.push(entry)))
        {}
        let mut pages = 0;
        for entry in gone {
            // Frames are named after their pages.
            let first = entry.pfn() % (1 << 12);
            let mut written = false;
            for page in first..first + entry.pages() {
                let old = self.table[page as usize].take().expect("translated");
                assert_eq!(old.pfn, entry.at(page).pfn());
                written |= old.written;
            }
            assert!(entry.dirty() || !written, "what was written is passed on");
            pages += entry.pages();
        }
        let left = &self.table[range.start as usize..range.end as usize];
        assert!(left.iter().all(Option::is_none), "nothing is left");
        self.stats.page_invalidations += pages;
    }

    fn end(&mut self, at: usize, change: Change) {
        let range = self.in_flight.swap_remove(at);
        self.crowded &= !self.in_flight.is_empty();
        self.generations += 1;
        for page in &mut self.vm[range.start as usize..range.end as usize] {
            match change {
                Change::Replace => {
                    *page = Page {
                        generation: self.generations,
                        present: true,
                        writable: true,
                    };
                }
                Change::Protect => page.writable = false,
                Change::Unmap => page.present = false,
            }
        }
        assert!(self.gate.write(|state| state.unhold(range)), "it was begun");
    }

    fn access(&mut self, page: u64, write: bool) {
        let entry = self.gate.read().access(page, write);
        let allowed = self.has(page, write);
        let expected = self.table[page as usize].filter(|_| allowed);
        assert_eq!(entry.map(Entry::pfn), expected.map(|t| t.pfn));
        let Some(entry) = entry else { return };
        let vm = self.vm[page as usize];
        assert_eq!(entry.pfn(), pfn(page, vm.generation), "stale");
        assert!(!self.dead && vm.present && (vm.writable || !write));
        assert!(
            !self.is_held(&PageRange::one(page)),
            "between start and end"
        );
        if write {
            self.table[page as usize].as_mut().unwrap().written = true;
        }
    }

    fn starve(&mut self, page: u64) {
        let mut losses = Losses::new();
        for number in 0..8 {
            self.gate
                .write(|state| state.contend(&mut losses, page, FAULT));
            assert!(!losses.starving(), "lost {number} times only");
            if number % 2 == 0 {
                self.gate.write(|state| state.lost(&mut losses));
            } else {
                self.held_off(page, &mut losses);
            }
            assert_eq!(losses.all(), number + 1);
        }
        self.gate
            .write(|state| state.contend(&mut losses, page, FAULT));
        match self.starved.take() {
            None => {
                assert!(losses.starving());
                self.starved = Some(Starved {
                    page,
                    losses,
                    since: 0,
                    held_off: false,
                });
            }
            Some(first) => {
                assert!(!losses.starving(), "one at a time");
                assert!(!self.gate.write(|state| state.sated(losses)));
                assert!(self.gate.write(|state| state.sated(first.losses)));
            }
        }
    }

    fn lose(&mut self, held_off: bool) {
        let Some(mut starved) = self.starved.take() else {
            return;
        };
        if held_off {
            self.held_off(starved.page, &mut starved.losses);
        } else {
            self.gate.write(|state| state.lost(&mut starved.losses));
        }
        starved.since += 1;
        starved.held_off = held_off;
        self.starved = Some(starved);
    }

    /// The fault of `losses` finds its page held off, by one that began meanwhile, and looks again before that is over.
    fn held_off(&mut self, page: u64, losses: &mut Losses) {
        let page = PageRange::one(page);
        self.gate.write(|state| state.hold(page));
        for fault in &mut self.faults {
            fault.stale |= fault.range().overlaps(&page);
        }
        self.clear(page);
        for _ in 0..3 {
            self.gate.write(|state| state.held_off(losses));
        }
        assert!(self.gate.write(|state| state.unhold(page)), "it was begun");
        self.crowded |= self.in_flight.len() + 1 > SLOTS;
    }

    fn exit(&mut self) {
        self.dead = true;
        self.gate.write(|state| state.kill());
        self.clear(self.all);
        assert!(self.gate.read().is_dead());
        assert_eq!(self.mem.live(), 0, "a dead region has no memory");
    }
}
