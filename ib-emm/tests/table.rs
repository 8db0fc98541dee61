// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table against a map, and its memory against what is in it.

mod common;

use common::HostNodes;
use ib_emm::emm::{Entry, PageRange, Pool, Table, table::NeedNodes};
use proptest::prelude::*;
use std::collections::BTreeMap;

const HEIGHTS: [u64; 4] = [1, 512, 512 * 512, 512 * 512 * 512 * 4];

#[derive(Clone, Debug)]
enum Op {
    Insert(u64, u64, bool),
    Clear(u64, u64),
    Access(u64, bool),
    Young(u64, u64, bool),
    FirstPart(u64, u64),
}

/// Pages in a few clusters, so that operations meet.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..1100u64,
        262_000..263_000u64,
        (1u64 << 28)..(1 << 28) + 600
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (page(), 0..1u64 << 30, any::<bool>()).prop_map(|(p, f, w)| Op::Insert(p, f, w)),
        2 => (page(), 0..2000u64).prop_map(|(p, n)| Op::Clear(p, n)),
        1 => Just(Op::Clear(0, 1 << 40)),
        3 => (page(), any::<bool>()).prop_map(|(p, w)| Op::Access(p, w)),
        2 => (page(), 0..2000u64, any::<bool>()).prop_map(|(p, n, c)| Op::Young(p, n, c)),
        1 => (page(), 0..600_000u64).prop_map(|(p, n)| Op::FirstPart(p, n)),
    ]
}

fn insert(table: &mut Table<HostNodes>, page: u64, entry: Entry) {
    let mem = table.mem().clone();
    let mut pool = Pool::new(&mem);
    assert!(pool.fill(table.missing(page)), "the host has memory");
    table
        .insert(page, entry, &mut pool)
        .expect("the pool was filled for this page");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn behaves_like_a_map(height in 0..HEIGHTS.len(), ops in prop::collection::vec(op(), 1..200)) {
        let pages = HEIGHTS[height];
        let mem = HostNodes::default();
        let mut table = Table::new(pages, mem.clone());
        let mut model = BTreeMap::<u64, u64>::new();
        for op in ops {
            match op {
                Op::Insert(page, pfn, write) => {
                    let page = page % pages;
                    insert(&mut table, page, Entry::new(pfn, write));
                    model.insert(page, Entry::new(pfn, write).raw());
                }
                Op::Clear(start, len) => {
                    let range = PageRange::new(start, start + len);
                    let mut gone = Vec::new();
                    table.clear(range, |page, entry| gone.push((page, entry.raw())));
                    let expected: Vec<_> =
                        model.range(range.start..range.end).map(|(p, e)| (*p, *e)).collect();
                    prop_assert_eq!(gone, expected, "cleared entries, in order");
                    model.retain(|page, _| !range.contains(*page));
                }
                Op::Access(page, write) => {
                    let allowed = model.get(&page).and_then(|e| Entry::from_raw(*e))
                        .filter(|e| e.allows(write));
                    prop_assert_eq!(table.access(page, write).map(Entry::pfn), allowed.map(Entry::pfn));
                    if allowed.is_some() {
                        *model.get_mut(&page).unwrap() |= Entry::marks(write);
                    }
                }
                Op::Young(start, len, clear) => {
                    let range = PageRange::new(start, start + len);
                    let young = model.range(range.start..range.end)
                        .any(|(_, e)| e & Entry::ACCESSED != 0);
                    prop_assert_eq!(table.young(range, clear), young);
                    if clear {
                        for (_, e) in model.range_mut(range.start..range.end) {
                            *e &= !Entry::ACCESSED;
                        }
                    }
                }
                Op::FirstPart(start, len) => {
                    let range = PageRange::new(start, start + len);
                    // Every entry of the range is in or behind the part found.
                    let first = model.range(range.start..range.end).next().map(|(p, _)| *p);
                    let found = table.first_part(range);
                    if let Some(first) = first {
                        let part = found.expect("a part with an entry is found");
                        prop_assert!(part.start <= first, "no entry is passed over");
                    }
                    if let Some(part) = found {
                        prop_assert!(!part.is_empty() && part.intersect(&range) == part);
                    }
                }
            }
            prop_assert_eq!(table.len(), model.len() as u64);
            prop_assert_eq!(table.bytes(), mem.live() as u64 * 4096);
            let parts: std::collections::BTreeSet<_> = model.keys().map(|p| p / 512).collect();
            prop_assert!(parts.len() <= mem.live(), "a leaf for each part in use");
            if model.is_empty() {
                prop_assert_eq!(mem.live(), 0, "an empty table holds no memory");
            }
        }
        for (page, raw) in &model {
            prop_assert_eq!(table.get(*page).map(Entry::raw), Some(*raw));
        }
        drop(table);
        prop_assert_eq!(mem.live(), 0, "a dropped table gives everything back");
    }
}

#[test]
fn an_insertion_without_nodes_changes_nothing() {
    let mem = HostNodes::default();
    let mut table = Table::new(512 * 512, mem.clone());
    let own = mem.clone();
    let mut pool = Pool::new(&own);
    assert!(pool.fill(1));
    assert_eq!(
        table.insert(7, Entry::new(1, true), &mut pool),
        Err(NeedNodes(2)),
        "a directory and a leaf are missing"
    );
    assert!(table.is_empty() && table.get(7).is_none());
    drop(pool);
    assert_eq!(mem.live(), 0);
    mem.refuse(true);
    assert!(
        !Pool::new(&own).fill(1),
        "the pool says that memory ran dry"
    );
}

#[test]
fn pages_beyond_the_table_are_absent() {
    let table = Table::new(1, HostNodes::default());
    assert_eq!(table.get(u64::MAX), None);
    assert_eq!(table.access(512, false), None);
}
