// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ranges against sets, and a region's geometry against plain arithmetic.

use ib_emm::emm::{Geometry, PAGE_SIZE, PART_PAGES, PageRange};
use std::collections::BTreeSet;

/// Compares two ranges, and a page, with sets of pages.
pub fn check_ranges([a, b, c, d, page]: [u8; 5]) {
    let set = |range: &PageRange| (range.start..range.end).collect::<BTreeSet<u64>>();
    let x = PageRange::new(a.into(), b.into());
    let y = PageRange::new(c.into(), d.into());
    let page = u64::from(page);
    let (xs, ys) = (set(&x), set(&y));
    assert_eq!(xs, (a.into()..b.into()).collect());
    assert_eq!(x.len(), xs.len() as u64);
    assert_eq!(x.is_empty(), xs.is_empty());
    assert_eq!(x.contains(page), xs.contains(&page));
    assert_eq!(set(&PageRange::one(page)), BTreeSet::from([page]));
    assert_eq!(x.overlaps(&y), !xs.is_disjoint(&ys));
    assert_eq!(set(&x.intersect(&y)), &xs & &ys);
    let both = &xs | &ys;
    let hull = both
        .first()
        .map_or(0..0, |first| *first..both.last().unwrap() + 1);
    assert_eq!(set(&x.hull(&y)), hull.collect());
}

/// Compares a region of `length` bytes at `start` with arithmetic that does not wrap.
pub fn check_geometry([start, length, offset, len]: [u64; 4]) {
    let geometry = Geometry::new(start, length);
    let end = u128::from(start) + u128::from(length);
    let valid = length > 0 && end <= u64::MAX.into();
    assert_eq!(geometry.is_some(), valid);
    let Some(geometry) = geometry else { return };
    let page = |address: u64| address / PAGE_SIZE - geometry.base() / PAGE_SIZE;
    assert_eq!(geometry.base() % (PART_PAGES * PAGE_SIZE), 0);
    assert!(start - geometry.base() < PART_PAGES * PAGE_SIZE);
    let last = start + (length - 1);
    assert_eq!(
        geometry.pages(),
        PageRange::new(page(start), page(last) + 1)
    );
    let inside = u128::from(offset) + u128::from(len) <= length.into();
    assert_eq!(geometry.holds(offset, len), inside);
    if offset < length {
        let (at, byte) = geometry.locate(offset);
        assert!(geometry.pages().contains(at));
        assert_eq!(geometry.address(at) + byte as u64, start + offset);
    }
    // As an invalidation of the user addresses from `offset` to `len`.
    let hit = geometry.clip(offset, len);
    let first = offset.max(start / PAGE_SIZE * PAGE_SIZE);
    let rounded = last | (PAGE_SIZE - 1);
    if len > first && first <= rounded {
        let last = (len - 1).min(rounded);
        assert_eq!(hit, PageRange::new(page(first), page(last) + 1));
    } else {
        assert!(hit.is_empty());
    }
}
