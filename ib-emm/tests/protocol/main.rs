// SPDX-License-Identifier: MIT OR Apache-2.0

//! Copy, fault, invalidation and exit against each other, in every order that loom finds: a model
//! of the VM and of the kernel module's locking around the real core.
//!
//! What must hold in each of them:
//! - No access uses a frame that the VM has taken back, and none runs between the return of an
//!   invalidation's start and its end.
//! - A shared frame is not written.
//! - What was written is marked dirty when its translation goes, before the VM takes the frame.
//! - Nobody waits for ever.
//! - A dead region serves nothing.
//!
//! That the models can tell is shown by breaking the locking in one place at a time.
//!
//! Not in the models: the bounded wait of an invalidation for a starved fault (it changes when
//! things happen, not in which order they may).

mod region;
mod vm;

use ib_emm::emm::PageRange;
use loom::thread;
use region::{Bug, Failed, Region};
use std::{
    panic::{self, AssertUnwindSafe},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use vm::{ALL, FIRST, Vm};

/// The page that most threads meet at.
const PAGE: PageRange = PageRange::one(FIRST);
/// Two pages of one part.
const MESSAGE: PageRange = PageRange {
    start: FIRST + 1,
    end: FIRST + 3,
};

/// A state of things, and what happens from then on at the same time.
struct Scenario {
    before: fn(&Region),
    threads: &'static [fn(&Region)],
}

fn nothing(_: &Region) {}

fn warm(region: &Region) {
    region.copy(PAGE, true).unwrap();
    region.copy(MESSAGE, true).unwrap();
}

fn share(region: &Region) {
    region.vm.share(FIRST);
}

fn punch(region: &Region) {
    region.vm.punch(FIRST);
}

fn write(region: &Region) {
    region.copy(PAGE, true).expect("the page is there");
}

fn read(region: &Region) {
    region.copy(PAGE, false).expect("the page is there");
}

fn write_message(region: &Region) {
    region.copy(MESSAGE, true).expect("the pages are there");
}

fn write_twice(region: &Region) {
    write(region);
    write(region);
}

fn read_then_write(region: &Region) {
    read(region);
    write(region);
}

fn read_twice(region: &Region) {
    read(region);
    read(region);
}

fn write_hole(region: &Region) {
    assert_eq!(region.copy(PAGE, true), Err(Failed::Fault));
}

/// For regions that die meanwhile.
fn try_write(region: &Region) {
    let _either = region.copy(PAGE, true);
}

fn replace(region: &Region) {
    region.invalidate(PAGE, Vm::replace);
}

fn replace_all(region: &Region) {
    region.invalidate(ALL, Vm::replace);
}

fn replace_message(region: &Region) {
    region.invalidate(MESSAGE, Vm::replace);
}

fn clean(region: &Region) {
    region.invalidate(PAGE, Vm::clean);
}

fn exit(region: &Region) {
    region.release();
    region
        .copy(PAGE, false)
        .expect_err("a dead region serves nothing");
}

const WRITE_AND_REPLACE: Scenario = Scenario {
    before: nothing,
    threads: &[write, replace],
};
const WARM_WRITE_AND_REPLACE: Scenario = Scenario {
    before: warm,
    threads: &[write, replace],
};
const READS_AND_REPLACE: Scenario = Scenario {
    before: nothing,
    threads: &[read_twice, replace],
};
const TWO_COPIES_AND_REPLACE: Scenario = Scenario {
    before: nothing,
    threads: &[write, read_then_write, replace],
};
const WRITES_AND_CLEANING: Scenario = Scenario {
    before: nothing,
    threads: &[write_twice, clean],
};
const TWO_INVALIDATIONS: Scenario = Scenario {
    before: nothing,
    threads: &[write, replace_all, clean],
};
const TWO_PARTS: Scenario = Scenario {
    before: warm,
    threads: &[write, write_message, replace_all],
};
const MESSAGES: Scenario = Scenario {
    before: nothing,
    threads: &[write_message, write_message, replace_message],
};
const COPY_ON_WRITE: Scenario = Scenario {
    before: share,
    threads: &[read, read_then_write],
};
const COPY_ON_WRITE_AND_REPLACE: Scenario = Scenario {
    before: share,
    threads: &[write, replace],
};
const HOLE: Scenario = Scenario {
    before: punch,
    threads: &[write_hole, write_hole],
};
const EXIT: Scenario = Scenario {
    before: nothing,
    threads: &[try_write, try_write, exit],
};
const EXIT_AND_REPLACE: Scenario = Scenario {
    before: nothing,
    threads: &[try_write, replace, exit],
};

/// Runs `scenario` in every order.
fn explore(scenario: &'static Scenario, bug: Option<Bug>) {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = orders.clone();
    let mut model = loom::model::Builder::new();
    // All orders of two threads; of three, those with few preemptions: faults that begin again
    // make them too many.
    model.preemption_bound = (scenario.threads.len() > 2).then_some(3);
    model.check(move || {
        counted.fetch_add(1, Relaxed);
        let region = Rc::new(Region::new(bug));
        (scenario.before)(&region);
        let (here, spawned) = scenario.threads.split_first().unwrap();
        let spawned: Vec<_> = spawned
            .iter()
            .map(|run| {
                let region = region.clone();
                thread::spawn(move || run(&region))
            })
            .collect();
        here(&region);
        for thread in spawned {
            thread.join().unwrap();
        }
        if !region.with_state(|state| state.is_dead()) {
            region.release();
        }
        assert_eq!(region.nodes(), 0, "a dead region has no memory");
    });
    println!("{} orders", orders.load(Relaxed));
}

/// Breaks the locking by `bug` and expects that `scenario` fails on `broken`.
fn catches(bug: Bug, scenario: &'static Scenario, broken: &str) {
    let explored = panic::catch_unwind(AssertUnwindSafe(|| explore(scenario, Some(bug))));
    let panic = explored.expect_err("a broken protocol passes");
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    assert!(text.contains(broken), "caught for another reason: {text}");
}

mod holds {
    use super::*;

    #[test]
    fn a_write_against_an_invalidation() {
        explore(&WRITE_AND_REPLACE, None);
        explore(&WARM_WRITE_AND_REPLACE, None);
    }

    #[test]
    fn reads_against_an_invalidation() {
        explore(&READS_AND_REPLACE, None);
    }

    #[test]
    fn two_copies_against_an_invalidation() {
        explore(&TWO_COPIES_AND_REPLACE, None);
    }

    #[test]
    fn writes_against_cleaning() {
        explore(&WRITES_AND_CLEANING, None);
    }

    #[test]
    fn a_write_against_two_invalidations() {
        explore(&TWO_INVALIDATIONS, None);
    }

    #[test]
    fn copies_in_two_parts_against_an_invalidation_of_both() {
        explore(&TWO_PARTS, None);
    }

    #[test]
    fn messages_against_an_invalidation() {
        explore(&MESSAGES, None);
    }

    #[test]
    fn copy_on_write_by_the_fault_itself() {
        explore(&COPY_ON_WRITE, None);
        explore(&COPY_ON_WRITE_AND_REPLACE, None);
    }

    #[test]
    fn faults_on_a_hole() {
        explore(&HOLE, None);
    }

    #[test]
    fn copies_against_exit() {
        explore(&EXIT, None);
    }

    #[test]
    fn a_write_against_an_invalidation_and_exit() {
        explore(&EXIT_AND_REPLACE, None);
    }
}

mod catches {
    use super::*;

    const TAKEN: &str = "access to a frame that was taken back";
    const BETWEEN: &str = "access between start and end";
    const UNORDERED: &str = "Causality violation";
    const UNMARKED: &str = "written, and not marked dirty";
    const FOR_EVER: &str = "deadlock";

    #[test]
    fn a_copy_that_uses_the_frame_unlocked() {
        catches(Bug::CopyUnlocked, &WARM_WRITE_AND_REPLACE, UNORDERED);
    }

    #[test]
    fn a_faulting_copy_that_uses_the_frame_unlocked() {
        catches(Bug::FaultUnlocked, &WRITE_AND_REPLACE, UNORDERED);
    }

    #[test]
    fn no_hold() {
        catches(Bug::NoHold, &WRITE_AND_REPLACE, TAKEN);
    }

    #[test]
    fn a_hold_after_the_translations_went() {
        catches(Bug::LateHold, &READS_AND_REPLACE, TAKEN);
    }

    #[test]
    fn a_window_that_opens_after_the_answer() {
        catches(Bug::LateWindow, &WRITE_AND_REPLACE, TAKEN);
    }

    #[test]
    fn a_window_that_is_renewed_after_the_answer() {
        catches(Bug::LateRenewal, &COPY_ON_WRITE_AND_REPLACE, TAKEN);
    }

    #[test]
    fn a_stale_answer_in_use() {
        catches(Bug::IgnoreStale, &WRITE_AND_REPLACE, TAKEN);
    }

    #[test]
    fn a_frame_entered_for_more_than_was_asked() {
        catches(
            Bug::EnterWritable,
            &COPY_ON_WRITE,
            "write to a shared frame",
        );
    }

    #[test]
    fn writes_not_passed_on() {
        catches(Bug::NoDirty, &WRITE_AND_REPLACE, UNMARKED);
    }

    #[test]
    fn an_invalidation_that_ends_with_its_first_part() {
        catches(Bug::OnePart, &TWO_PARTS, UNMARKED);
    }

    #[test]
    fn an_end_that_wakes_nobody() {
        catches(Bug::EndWithoutWake, &WRITE_AND_REPLACE, FOR_EVER);
    }

    #[test]
    fn a_fault_that_wakes_nobody() {
        catches(Bug::CloseWithoutWake, &MESSAGES, FOR_EVER);
    }

    #[test]
    fn a_fault_without_an_answer_that_wakes_nobody() {
        catches(Bug::CloseWithoutWake, &HOLE, FOR_EVER);
    }

    #[test]
    fn a_waiter_that_is_not_known_yet() {
        catches(Bug::LateWaiter, &WRITE_AND_REPLACE, FOR_EVER);
    }

    #[test]
    fn an_exit_that_does_not_kill() {
        catches(Bug::NoKill, &EXIT, BETWEEN);
    }

    #[test]
    fn an_exit_that_kills_after_the_translations_went() {
        catches(Bug::LateKill, &EXIT, TAKEN);
    }

    #[test]
    fn an_answer_in_use_that_exit_overtook() {
        catches(Bug::IgnoreDead, &EXIT, TAKEN);
    }
}
