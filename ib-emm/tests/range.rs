// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges against sets, and a region's geometry against plain arithmetic.

use ib_emm::emm::{Geometry, PAGE_SIZE};
use ib_emm_models::range::{check_geometry, check_ranges};
use ib_emm_models::region::{LENGTH, START};
use proptest::prelude::*;

const CASES: u32 = if cfg!(debug_assertions) {
    4096
} else {
    1 << 17
};

/// Bytes near each other, near the ends of all addresses, or anywhere.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20_000u64,
        (1u64 << 47)..(1 << 47) + 5_000_000,
        (u64::MAX - 20_000)..=u64::MAX,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn ranges_are_sets(numbers: [u8; 5]) {
        check_ranges(numbers);
    }

    #[test]
    fn geometry_does_not_wrap(numbers in prop::array::uniform4(number())) {
        check_geometry(numbers);
    }
}

#[test]
fn geometry_of_odd_regions() {
    let g = Geometry::new(START, LENGTH).unwrap();
    assert_eq!(g.pages().len(), 1501, "an odd start touches one page more");
    let (page, at) = g.locate(0);
    assert_eq!((g.address(page) + at as u64, at), (START, 77));
    assert_eq!(
        g.clip(0, START),
        g.clip(START - 77, START),
        "the first page is shared"
    );
    assert!(g.clip(0, START - 77).is_empty());
    assert_eq!(g.clip(0, u64::MAX), g.pages());
    let all = Geometry::new(0, u64::MAX).unwrap();
    assert_eq!(all.pages().end, u64::MAX / PAGE_SIZE + 1);
}
