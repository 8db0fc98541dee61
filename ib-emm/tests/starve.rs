// SPDX-License-Identifier: MIT OR Apache-2.0

//! Threads that throw one page away without pause, and a fault that must get through.
//!
//! Time goes in ticks; how long things take is drawn. Nobody else is slow, so whoever is never
//! served is starved.

use ib_emm::emm::{
    Begin, Finish, Frame, Geometry, HoldOff, LetPass, Losses, MOST_LOSSES, MOST_PATIENCE,
    PAGE_SIZE, PART_BYTES, PageRange, Pool, Window,
};
use ib_emm_models::{HostGate, HostNodes};
use proptest::prelude::*;
use std::pin::Pin;

/// Ticks of one unit of patience.
const UNIT: u32 = 10;
const PAGE: PageRange = PageRange::one(30_011);
/// Pages of the region.
const PAGES: u64 = 1 << 16;
/// The thread of the fault.
const FAULT: usize = usize::MAX;

/// A thread that invalidates its pages, again and again.
struct Thrower {
    pages: PageRange,
    /// It may sleep, and lets a starved fault pass.
    sleeps: bool,
    hold: u32,
    now: Throwing,
}

enum Throwing {
    /// It lets a starved fault pass, and did so for some ticks; with its number.
    Waits(u32, u32),
    /// The pages are held off for some ticks more.
    Holds(u32),
}

impl Thrower {
    /// # Returns
    ///
    /// Whether those who wait are woken.
    fn tick(&mut self, region: &HostGate, who: usize) -> bool {
        let ends = matches!(self.now, Throwing::Holds(0));
        if ends {
            assert!(region.write(|state| state.unhold(self.pages)));
            self.now = Throwing::Waits(0, region.write(|state| state.come()));
        }
        let patience = |number| match self.sleeps {
            true => region.read().patience(&self.pages, who, number) * UNIT,
            false => 0,
        };
        match &mut self.now {
            Throwing::Waits(ticks, number) if *ticks < patience(*number) => *ticks += 1,
            Throwing::Waits(_, number) => {
                if patience(*number) > 0 {
                    region.write(|state| state.turn_over());
                }
                region.write(|state| state.hold(self.pages));
                self.now = Throwing::Holds(self.hold);
            }
            Throwing::Holds(left) => *left -= 1,
        }
        ends
    }
}

/// Threads that throw [`PAGE`] away.
fn together(throwers: u32, hold: u32) -> Vec<Thrower> {
    in_turn((0..throwers).map(|_| PAGE), hold)
}

/// Threads that throw these pages away, each for as long as `hold`; they began one after the other.
fn in_turn(pages: impl IntoIterator<Item = PageRange>, hold: u32) -> Vec<Thrower> {
    let pages: Vec<_> = pages.into_iter().collect();
    let count = pages.len() as u32;
    let throwers = pages.into_iter().zip(1..);
    let throwers = throwers.map(|(pages, number)| Thrower {
        pages,
        sleeps: true,
        hold,
        now: Throwing::Holds(hold * number / count),
    });
    throwers.collect()
}

/// Other pages than [`PAGE`] that are not told apart from it when they are more than a region keeps one by one.
fn alike() -> impl Iterator<Item = PageRange> {
    let pages = (PAGE.end..PAGES).map(PageRange::one);
    pages.filter(|page| HoldOff::<0>::new().would_block(page, &PAGE))
}

/// What the fault does.
enum Doing {
    Sleeps,
    /// It takes a lock, for some ticks more.
    Locks(u32),
    /// It asks the VM, for some ticks more.
    Asks(u32, Pin<Box<Window<HostGate>>>),
}

/// Ticks of what happens.
#[derive(Clone, Copy, Debug)]
struct Pace {
    lock: u32,
    ask: u32,
}

/// Ticks until the fault is served among `others`.
///
/// # Errors
///
/// What it lost until it gave up, or until `limit`.
fn served(mut others: Vec<Thrower>, pace: Pace, limit: u32) -> Result<u32, Losses> {
    let geometry = Geometry::new(PART_BYTES, PAGES * PAGE_SIZE).unwrap();
    let mem = HostNodes::default();
    let region = HostGate::new(geometry, mem.clone());
    let mut pool = Pool::new(&mem);
    let mut losses = Losses::new();
    for thrower in &others {
        region.write(|state| state.hold(thrower.pages));
    }
    let mut doing = Doing::Locks(pace.lock);
    for now in 0..limit {
        let mut woken = false;
        for (who, thrower) in others.iter_mut().enumerate() {
            woken |= thrower.tick(&region, who);
        }
        if losses.hopeless() {
            break;
        }
        doing = match doing {
            Doing::Sleeps if !woken => Doing::Sleeps,
            Doing::Sleeps => Doing::Locks(pace.lock),
            Doing::Locks(1..) | Doing::Asks(1.., _) => doing.goes_on(),
            Doing::Locks(0) => {
                region.write(|state| state.contend(&mut losses, PAGE.start, FAULT));
                let window = Box::pin(Window::new(region.clone()));
                let begun = window.as_ref().lock().begin_fault(PAGE, true, false);
                match begun {
                    Begin::HeldOff => {
                        region.write(|state| state.held_off(&mut losses));
                        Doing::Sleeps
                    }
                    Begin::Go(_, nodes) => {
                        assert!(pool.fill(nodes), "the host has memory");
                        Doing::Asks(pace.ask, window)
                    }
                    begun => panic!("nobody else asks: {begun:?}"),
                }
            }
            Doing::Asks(0, window) => {
                let frame = Frame {
                    pfn: 1,
                    writable: true,
                };
                let frames = std::iter::once(frame);
                let mut state = window.as_ref().lock();
                let finish = state.finish_fault(PAGE, frames, false, &mut pool);
                drop(state);
                match finish {
                    Finish::Installed => {
                        let starved = losses.starving();
                        assert_eq!(region.write(|state| state.sated(losses)), starved);
                        assert_eq!(
                            region.read().patience(&PAGE, 0, 0),
                            0,
                            "nobody waits any more"
                        );
                        return Ok(now);
                    }
                    Finish::Stale => {
                        region.write(|state| state.lost(&mut losses));
                        Doing::Locks(pace.lock)
                    }
                    Finish::Dead => panic!("nobody exits"),
                }
            }
        };
    }
    Err(losses)
}

impl Doing {
    fn goes_on(self) -> Self {
        match self {
            Self::Sleeps => Self::Sleeps,
            Self::Locks(left) => Self::Locks(left - 1),
            Self::Asks(left, window) => Self::Asks(left - 1, window),
        }
    }
}

/// A hold that takes long, as a TLB flush of a busy machine does; the fault itself is quick.
const LONG: u32 = 12;
const QUICK: Pace = Pace { lock: 1, ask: 2 };

/// Ticks within which whoever can be served is, by throwers that let it pass: losses until the patience is the longest, each as
/// long as can be.
fn enough(hold: u32, pace: Pace) -> u32 {
    60 * (hold + pace.lock + pace.ask + MOST_PATIENCE * UNIT)
}

#[test]
fn holds_in_turn_starve_nobody() {
    for throwers in 1..=6 {
        served(together(throwers, LONG), QUICK, 2000).unwrap();
    }
}

/// Many threads at once, none of which wants the page: on both sides of it, each with a page of its own.
#[test]
fn a_crowd_elsewhere_starves_nobody() {
    for throwers in [8, 16, 24, 48, 96] {
        let pages = (0..throwers).map(|n| PageRange::one(n * 601 % PAGES));
        let took = served(in_turn(pages, LONG), QUICK, enough(LONG, QUICK)).unwrap();
        println!("{throwers} threads elsewhere: served after {took} ticks");
    }
}

/// The same, and the page is told apart from none of theirs.
#[test]
fn a_crowd_that_is_not_told_apart_lets_pass() {
    let exact = (0..6).map(|n| PageRange::one(PAGES - 1 - n));
    for throwers in [2, 4, 16, 64] {
        let mut others = in_turn(exact.clone(), u32::MAX / 64);
        others.extend(in_turn(alike().take(throwers), LONG));
        served(others, QUICK, enough(LONG, QUICK)).unwrap();
    }
}

/// Two threads that may not sleep (the OOM reaper) always have the page held off, or pages that it is not told apart from: the
/// fault ends all the same.
#[test]
fn who_can_not_be_served_gives_up() {
    let exact = (0..6).map(|n| PageRange::one(PAGES - 1 - n));
    for pages in [
        [PAGE; 2],
        [alike().next().unwrap(), alike().nth(1).unwrap()],
    ] {
        let mut others = in_turn(exact.clone(), u32::MAX / 64);
        others.extend(in_turn(pages, LONG));
        for thrower in &mut others {
            thrower.sleeps = false;
        }
        // Each loss is a hold's time apart at most.
        let limit = MOST_LOSSES * (LONG + 2);
        let losses = served(others, QUICK, limit).unwrap_err();
        assert!(losses.hopeless() && losses.stale() == 0, "{losses:?}");
    }
}

/// One hold that takes as long as it takes (mprotect of a terabyte), and others elsewhere that wake the fault all the time.
#[test]
fn a_long_hold_is_one_loss_at_most() {
    let mut others = in_turn([PAGE], 50_000);
    others.extend(in_turn((1..5).map(|n| PageRange::one(1000 * n)), 1));
    let limit = 49_000;
    let losses = served(others, QUICK, limit).unwrap_err();
    assert!(losses.all() <= 1, "{losses:?}");
}

/// What an invalidation has for all regions, in ticks.
const BUDGET: u32 = 2 * MOST_PATIENCE * UNIT;

proptest! {
    /// An invalidation of many regions, each with a fault that is worth some patience and is served after some time, or never.
    #[test]
    fn many_regions_share_one_patience(
        regions in prop::collection::vec((1..=MOST_PATIENCE, prop::option::of(0..500u64)), 1..200),
    ) {
        let mut left = u64::from(BUDGET);
        for (number, (patience, served)) in regions.into_iter().enumerate() {
            let (patience, before) = (u64::from(patience * UNIT), left);
            let mut turn = LetPass::new(left);
            let mut waited = 0;
            // It is woken again and again, and looks.
            while waited < served.unwrap_or(u64::MAX) {
                let rest = turn.rest(patience);
                if rest == 0 {
                    break;
                }
                let step = rest.min(7);
                turn.waited(step);
                waited += step;
            }
            left -= waited;
            prop_assert!(waited <= patience && waited <= before / 2);
            let first = number == 0 && served.is_none();
            prop_assert!(!first || waited == patience, "one alone has all the patience that there is");
            prop_assert!(served.is_some() || before < 2 || waited > 0, "there is something for each");
        }
    }
}

proptest! {
    #[test]
    fn nobody_starves(
        throwers in 1..=8u32,
        hold in 0..100u32,
        lock in 0..10u32,
        ask in 0..40u32,
    ) {
        let pace = Pace { lock, ask };
        prop_assert!(served(together(throwers, hold), pace, enough(hold, pace)).is_ok());
    }

    #[test]
    fn nobody_starves_in_a_crowd(
        pages in prop::collection::vec((0..PAGES - 600, 1..600u64), 1..40),
        hold in 0..100u32,
        lock in 0..10u32,
        ask in 0..40u32,
    ) {
        let pace = Pace { lock, ask };
        let pages = pages.into_iter().map(|(start, len)| PageRange::new(start, start + len));
        let others = in_turn(pages, hold);
        prop_assert!(served(others, pace, enough(hold, pace)).is_ok());
    }
}
