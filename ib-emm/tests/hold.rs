// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hold-off against a list of ranges.

use ib_emm::emm::{HoldOff, PageRange};
use proptest::prelude::*;

fn range() -> impl Strategy<Value = PageRange> {
    (0..60u64, 0..20u64).prop_map(|(start, len)| PageRange::new(start, start + len))
}

#[derive(Clone, Debug)]
enum Op {
    Start(PageRange),
    End(usize),
    Blocks(PageRange),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        range().prop_map(Op::Start),
        any::<usize>().prop_map(Op::End),
        range().prop_map(Op::Blocks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn holds_what_was_started_and_not_ended(ops in prop::collection::vec(op(), 1..80)) {
        let mut holds = HoldOff::new();
        let mut model = Vec::<PageRange>::new();
        for op in ops {
            match op {
                Op::Start(range) => {
                    holds.start(range);
                    if !range.is_empty() {
                        model.push(range);
                    }
                }
                Op::End(at) if !model.is_empty() => {
                    let range = model.swap_remove(at % model.len());
                    prop_assert!(holds.end(range), "a started range can be ended");
                }
                Op::End(_) => {
                    prop_assert!(!holds.end(PageRange::new(1, 2)), "nothing was started");
                }
                Op::Blocks(range) => {
                    let blocked = model.iter().any(|r| r.overlaps(&range));
                    if holds.spilled() == 0 {
                        prop_assert_eq!(holds.blocks(&range), blocked);
                    } else {
                        prop_assert!(holds.blocks(&range) || !blocked, "never let through");
                    }
                }
            }
            prop_assert_eq!(holds.active(), model.len());
        }
        for range in model {
            prop_assert!(holds.end(range));
        }
        prop_assert!(!holds.blocks(&PageRange::new(0, 1000)), "all ended, nothing held");
    }

    #[test]
    fn trimmed_ranges_are_free(held in prop::collection::vec(range(), 0..12), plan in range(), at in 0..20u64) {
        let mut holds = HoldOff::new();
        for range in held {
            holds.start(range);
        }
        let keep = PageRange::one(plan.start + at);
        if plan.contains(keep.start) && !holds.blocks(&keep) {
            let trimmed = holds.trim(plan, &keep);
            prop_assert!(trimmed.contains(keep.start) && !holds.blocks(&trimmed));
            prop_assert_eq!(trimmed.intersect(&plan), trimmed);
        }
    }
}
