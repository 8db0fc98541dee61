// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hold-off against a list of ranges.

use ib_emm::emm::{HoldOff, PageRange};
use ib_emm_models::hold::{Model, Op, Range};
use proptest::prelude::*;

const CASES: u32 = if cfg!(debug_assertions) { 512 } else { 16384 };

fn range() -> impl Strategy<Value = Range> {
    any::<(u8, u8)>().prop_map(|(start, len)| Range(start, len))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => range().prop_map(Op::Start),
        4 => any::<u8>().prop_map(Op::End),
        1 => range().prop_map(Op::EndUnknown),
        4 => range().prop_map(Op::Blocks),
        4 => (range(), any::<u8>()).prop_map(|(range, at)| Op::Trim(range, at)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn holds_what_was_started_and_not_ended(ops in prop::collection::vec(op(), 1..160)) {
        let mut model = Model::default();
        for op in ops {
            model.step(op);
        }
        model.finish();
    }
}

/// Many threads invalidate at once without a pause, farther and farther away: what none of them holds is free again and again.
#[test]
fn spilled_holds_do_not_last() {
    for at_once in [8, 16, 32, 64] {
        let mut holds: HoldOff = HoldOff::new();
        let range = |n: u64| PageRange::one(1000 + n * 16);
        let mut free = 0;
        for n in 0..10_000 {
            holds.start(range(n));
            if n >= at_once {
                assert!(holds.end(range(n - at_once)));
                assert!(holds.spilled() > 0, "the slots were never enough");
            }
            free += u32::from(!holds.blocks(&PageRange::new(0, 16)));
        }
        println!("{at_once} at once: free for {free} of 10,000");
        assert!(free >= 500, "{at_once} at once: {free}");
    }
}

/// A thread that holds one page for long, and others that come and go: what is far from it stays free.
#[test]
fn a_spilled_hold_is_no_bigger_than_itself() {
    let mut holds: HoldOff = HoldOff::new();
    for n in 0..7 {
        holds.start(PageRange::one(n << 20));
    }
    let free = (0..10_000).filter(|n| !holds.blocks(&PageRange::one(n * 97)));
    assert!(free.count() >= 9_000);
    assert!(holds.blocks(&PageRange::one(6 << 20)));
}

/// What a region has of it is no more than the hulls took that were here before.
#[test]
fn it_is_small() {
    assert!(size_of::<HoldOff>() <= 496, "{}", size_of::<HoldOff>());
}

/// The same ranges come again and again from threads that overlap in time.
#[test]
fn equal_ranges_are_told_by_their_number() {
    let mut holds: HoldOff = HoldOff::new();
    for _ in 0..20 {
        holds.start(PageRange::new(4, 8));
    }
    for left in (0..20).rev() {
        assert!(holds.end(PageRange::new(4, 8)));
        assert_eq!(holds.blocks(&PageRange::one(5)), left > 0);
    }
    assert!(!holds.end(PageRange::new(4, 8)));
}
