// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table against a map, and its memory against what is in it.

use ib_emm::emm::{Entry, PageRange, Pool, Table, table::NeedNodes};
use ib_emm_models::{
    HostNodes,
    table::{Model, Op, Page, SIZES},
};
use proptest::prelude::*;

const CASES: u32 = if cfg!(debug_assertions) { 256 } else { 8192 };

fn page() -> impl Strategy<Value = Page> {
    (0..5u8, 0..1100u16).prop_map(|(cluster, at)| Page { cluster, at })
}

fn insert() -> impl Strategy<Value = (Page, u32, bool, bool)> {
    let short = prop::bool::weighted(0.1);
    (page(), any::<u32>(), any::<bool>(), short)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => insert().prop_map(|(page, pfn, write, short)| Op::Insert { page, pfn, write, short }),
        4 => insert()
            .prop_map(|(page, pfn, write, short)| Op::InsertHuge { page, pfn, write, short }),
        12 => (page(), 0..2000u16).prop_map(|(p, n)| Op::Clear(p, n)),
        1 => Just(Op::ClearAll),
        16 => (page(), any::<bool>()).prop_map(|(p, w)| Op::Access(p, w)),
        12 => (page(), 0..2000u16, any::<bool>()).prop_map(|(p, n, c)| Op::Young(p, n, c)),
        6 => (page(), 0..600_000u32).prop_map(|(p, n)| Op::FirstPart(p, n)),
        6 => page().prop_map(Op::Get),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn behaves_like_a_map(size in 0..SIZES.len(), ops in prop::collection::vec(op(), 1..300)) {
        let mut model = Model::new(size);
        for op in ops {
            model.step(op);
        }
        model.finish();
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
fn a_use_lasts_for_so_many_looks() {
    let mem = HostNodes::default();
    let mut table = Table::new(512, mem.clone());
    let mut pool = Pool::new(&mem);
    assert!(pool.fill(table.missing(7)));
    table.insert(7, Entry::new(70, true), &mut pool).unwrap();
    let all = PageRange::new(0, 512);
    assert!(!table.young(all, true), "nobody used it yet");
    for _ in 0..2 {
        assert!(table.access(7, false).is_some());
        for look in 0..Entry::LOOKS {
            assert!(table.young(all, false), "asking costs nothing");
            assert!(table.young(all, true), "look {look}");
        }
        assert!(!table.young(all, true), "one look too many");
    }
}

#[test]
fn pages_beyond_the_table_are_absent() {
    let table = Table::new(1, HostNodes::default());
    assert_eq!(table.get(u64::MAX), None);
    assert_eq!(table.access(512, false), None);
}
