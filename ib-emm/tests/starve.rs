// SPDX-License-Identifier: MIT OR Apache-2.0

//! Threads that throw one page away without pause, and a fault that must get through.
//!
//! Time goes in ticks; how long things take is drawn. Nobody else is slow, so whoever is never
//! served is starved.

use ib_emm::emm::{
    Begin, Finish, Geometry, Losses, MOST_PATIENCE, PART_BYTES, PageRange, Pool, Window,
};
use ib_emm_models::{HostGate, HostNodes};
use proptest::prelude::*;
use std::pin::Pin;

/// Ticks of one unit of patience.
const UNIT: u32 = 10;
const PAGE: PageRange = PageRange::one(3);
/// The thread of the fault.
const FAULT: usize = usize::MAX;

/// A thread that invalidates the page, again and again.
enum Thrower {
    /// It lets a starved fault pass, and did so for some ticks.
    Waits(u32),
    /// The page is held off for some ticks more.
    Holds(u32),
}

impl Thrower {
    /// # Returns
    ///
    /// Whether those who wait are woken.
    fn tick(&mut self, region: &HostGate, who: usize, hold: u32) -> bool {
        let ends = matches!(self, Self::Holds(0));
        if ends {
            assert!(region.write(|state| state.unhold(PAGE)));
            *self = Self::Waits(0);
        }
        match self {
            Self::Waits(ticks) if *ticks < region.read().patience(&PAGE, who) * UNIT => *ticks += 1,
            Self::Waits(_) => {
                region.write(|state| state.hold(PAGE));
                *self = Self::Holds(hold);
            }
            Self::Holds(left) => *left -= 1,
        }
        ends
    }
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
    hold: u32,
    lock: u32,
    ask: u32,
}

/// Ticks until the fault is served among `throwers`, which began one after the other.
///
/// # Errors
///
/// What it lost until `limit`.
fn served(throwers: u32, pace: Pace, limit: u32) -> Result<u32, Losses> {
    let geometry = Geometry::new(PART_BYTES, PART_BYTES).unwrap();
    let mem = HostNodes::default();
    let region = HostGate::new(geometry, mem.clone());
    let mut pool = Pool::new(&mem);
    let mut losses = Losses::new();
    let mut others: Vec<_> = (0..throwers)
        .map(|number| {
            region.write(|state| state.hold(PAGE));
            Thrower::Holds(pace.hold * (number + 1) / throwers)
        })
        .collect();
    let mut doing = Doing::Locks(pace.lock);
    for now in 0..limit {
        let mut woken = false;
        for (who, thrower) in others.iter_mut().enumerate() {
            woken |= thrower.tick(&region, who, pace.hold);
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
                let frames = std::iter::once(1);
                let mut state = window.as_ref().lock();
                let finish = state.finish_fault(PAGE, frames, true, false, &mut pool);
                drop(state);
                match finish {
                    Finish::Installed => {
                        let starved = losses.starving();
                        assert_eq!(region.write(|state| state.sated(losses)), starved);
                        assert_eq!(region.read().patience(&PAGE, 0), 0, "nobody waits any more");
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

#[test]
fn holds_in_turn_starve_nobody() {
    // A hold that takes long, as a TLB flush of a busy machine does; the fault itself is quick.
    let pace = Pace {
        hold: 12,
        lock: 1,
        ask: 2,
    };
    for throwers in 1..=6 {
        served(throwers, pace, 2000).unwrap();
    }
}

proptest! {
    #[test]
    fn nobody_starves(
        throwers in 1..=8u32,
        hold in 0..100u32,
        lock in 0..10u32,
        ask in 0..50u32,
    ) {
        let pace = Pace { hold, lock, ask };
        // Losses until the patience is the longest, each as long as can be.
        let one = hold + lock + ask + MOST_PATIENCE * UNIT;
        let limit = 60 * one;
        prop_assert!(served(throwers, pace, limit).is_ok());
    }
}
