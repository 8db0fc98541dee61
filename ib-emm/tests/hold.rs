// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hold-off against a list of ranges.

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
