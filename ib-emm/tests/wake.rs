// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whoever waits for a fault in flight is woken when its window closes, whichever way that is: a worker slept for ever once, as a
//! fault had closed its window on the way to a huge page that it then did not get.

use ib_emm::emm::{Begin, Frame, Geometry, Held, PART_PAGES, PageRange, Pool, Window};
use ib_emm_models::{HostGate, HostNodes};
use std::pin::{Pin, pin};

/// Where a region begins that has no whole part in it.
const START: u64 = (1 << 40) + (100 << 12);
const PAGES: u64 = 200;
const WANT: PageRange = PageRange {
    start: 101,
    end: 105,
};

type Step = fn(Held<'_, HostGate>, &mut Pool<'_, HostNodes>);

/// Whether `step`, done by a fault in flight, woke somebody.
fn wakes(step: Step) -> bool {
    let mem = HostNodes::default();
    let geometry = Geometry::new(START, PAGES << 12).expect("no empty range");
    let gate = HostGate::new(geometry, mem.clone());
    let mut pool = Pool::new(&mem);
    let window = pin!(Window::new(gate.clone()));
    let window: Pin<&Window<HostGate>> = window.as_ref();
    let begun = window.lock().begin_fault(WANT, true, false);
    let Begin::Go(_, nodes) = begun else {
        panic!("nobody else is here: {begun:?}");
    };
    assert!(pool.fill(nodes), "the host has memory");
    let other = pin!(Window::new(gate.clone()));
    let other: Pin<&Window<HostGate>> = other.as_ref();
    let mut held = other.lock();
    assert_eq!(held.begin_fault(WANT, true, false), Begin::Wait);
    drop(held);
    let before = gate.woken();
    step(window.lock(), &mut pool);
    gate.woken() > before
}

fn frames(count: u64) -> impl ExactSizeIterator<Item = Frame> {
    let frames: Vec<_> = (0..count)
        .map(|at| Frame {
            pfn: 7 + at,
            writable: true,
        })
        .collect();
    frames.into_iter()
}

#[test]
fn who_ends_a_fault_wakes_others() {
    assert!(wakes(|mut held, _| held.abandon()), "without an answer");
    assert!(wakes(|held, _| drop(held.release())), "released");
    assert!(
        wakes(|mut held, pool| {
            let _ = held.finish_fault(WANT, frames(WANT.len()), false, pool);
        }),
        "installed"
    );
    assert!(
        wakes(|mut held, pool| {
            let _ = held.finish_fault(WANT, frames(0), false, pool);
        }),
        "nothing was there"
    );
}

#[test]
fn who_goes_on_with_fewer_pages_wakes_others() {
    assert!(wakes(|mut held, _| held.narrow_fault()));
}

#[test]
fn who_does_not_get_a_huge_page_wakes_others() {
    assert!(wakes(|mut held, _| {
        assert_eq!(held.begin_huge(WANT.start), None, "it sticks out");
    }));
    assert_ne!(START >> 12 & (PART_PAGES - 1), 0, "no part is whole");
}

#[test]
fn who_only_looks_wakes_nobody() {
    assert!(!wakes(|held, _| drop(held)));
}
