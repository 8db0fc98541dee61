// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region against a model VM, and the number of its faults.

use ib_emm_models::region::{Change, Model, Op};
use proptest::prelude::*;

const CASES: u32 = if cfg!(debug_assertions) { 256 } else { 8192 };

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => Just(Change::Replace),
        2 => Just(Change::Protect),
        1 => Just(Change::Unmap),
    ]
}

fn ask() -> impl Strategy<Value = Op> {
    let most = prop_oneof![3 => Just(u16::MAX), 1 => 0..40u16];
    let how = (any::<bool>(), any::<bool>(), any::<bool>());
    (0..1501u16, any::<u8>(), how, most).prop_map(|(page, len, how, most)| {
        let (write, prefetch, ahead) = how;
        Op::Ask {
            page,
            len,
            write,
            prefetch,
            ahead,
            most,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let page = 0..1501u16;
    let poor = prop::bool::weighted(0.1);
    prop_oneof![
        60 => ask(),
        10 => (page.clone(), any::<bool>()).prop_map(|(page, write)| Op::AskHuge { page, write }),
        70 => (any::<u8>(), poor).prop_map(|(fault, poor)| Op::Install { fault, poor }),
        15 => any::<u8>().prop_map(|fault| Op::Narrow { fault }),
        25 => any::<u8>().prop_map(|fault| Op::Renew { fault }),
        10 => any::<u8>().prop_map(|fault| Op::GiveUp { fault }),
        30 => (page.clone(), 0..900u16).prop_map(|(page, len)| Op::Start { page, len }),
        30 => (any::<u8>(), change())
            .prop_map(|(invalidation, change)| Op::End { invalidation, change }),
        120 => (page.clone(), any::<bool>()).prop_map(|(page, write)| Op::Access { page, write }),
        5 => page.prop_map(|page| Op::Starve { page }),
        30 => any::<bool>().prop_map(|held_off| Op::Lose { held_off }),
        1 => Just(Op::Exit { sure: u8::MAX }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn no_stale_translation(ops in prop::collection::vec(op(), 1..400)) {
        let mut model = Model::default();
        for op in ops {
            model.step(op);
        }
        model.finish();
    }
}

/// A fault for one page.
fn ask_one(page: u16, write: bool) -> Op {
    Op::Ask {
        page,
        len: 0,
        write,
        prefetch: false,
        ahead: true,
        most: u16::MAX,
    }
}

const INSTALL: Op = Op::Install {
    fault: 0,
    poor: false,
};

#[test]
fn a_cold_sequential_message_takes_few_faults() {
    let mut model = Model::default();
    let first = model.first();
    let (mut page, mut faults) = (0, 0);
    while page < 1024 {
        model.step(ask_one(page, true));
        let got = model.asked().unwrap();
        assert_eq!(got.start, first + u64::from(page));
        model.step(INSTALL);
        page += u16::try_from(got.len()).unwrap();
        faults += 1;
    }
    assert!(faults <= 16, "{faults} faults for 4 MiB");
}

/// A fault for one page, of which the VM has as many as `most` from there on.
fn ask_where(page: u16, most: u16) -> Op {
    Op::Ask {
        page,
        len: 0,
        write: false,
        prefetch: false,
        ahead: true,
        most,
    }
}

#[test]
fn a_guess_grows_with_what_is_there() {
    let mut model = Model::default();
    let mut looked = Vec::new();
    for (page, most) in [(0, 1), (1, 1), (2, 1), (3, 9), (5, 9), (9, 9), (17, 9)] {
        model.step(ask_where(page, most));
        looked.push(model.asked().unwrap().len());
        model.step(INSTALL);
    }
    // One page at a time is there first, and few are looked at; then more.
    assert_eq!(looked, [1, 2, 2, 2, 4, 8, 16]);
    model.step(ask_where(26, 9));
    assert_eq!(
        model.asked().unwrap().len(),
        18,
        "twice what the last one found"
    );
    model.finish();
}

#[test]
fn random_reads_bring_in_what_they_need() {
    let mut model = Model::default();
    let mut pages = 0;
    for i in 0..500u32 {
        let page = u16::try_from(i * 701 % 1500).unwrap();
        model.step(ask_one(page, false));
        pages += model.asked().map_or(0, |range| range.len());
        model.step(INSTALL);
    }
    assert!(pages <= 625, "{pages} pages for 500 reads");
}

#[test]
fn a_fault_that_waits_keeps_its_first_page_only() {
    let mut model = Model::default();
    model.step(ask_one(0, true));
    model.step(INSTALL);
    model.step(ask_one(1, true));
    assert_eq!(model.asked().unwrap().len(), 2);
    model.step(Op::Narrow { fault: 0 });
    model.step(ask_one(2, true));
    assert_eq!(model.faults(), 2);
    model.finish();
}

#[test]
fn a_window_closes_itself() {
    let mut model = Model::default();
    model.step(ask_one(0, true));
    model.step(ask_one(1, true));
    model.step(ask_one(2, true));
    for left in [2, 1, 0] {
        // The one in the middle of the list, then the others.
        model.step(Op::GiveUp { fault: 1 });
        assert_eq!(model.faults(), left);
        model.step(Op::Start { page: 0, len: 3 });
        model.step(Op::End {
            invalidation: 0,
            change: Change::Replace,
        });
    }
    for page in 0..3 {
        model.step(ask_one(page, true));
    }
    assert_eq!(model.faults(), 3, "nobody waits for them");
    model.finish();
}

#[test]
fn a_fault_that_lost_asks_for_its_page_only() {
    let mut model = Model::default();
    for page in [0, 1, 3] {
        model.step(ask_one(page, false));
        model.step(INSTALL);
    }
    model.step(ask_one(7, false));
    assert_eq!(model.asked().unwrap().len(), 8);
    model.step(Op::Start { page: 14, len: 0 });
    model.step(INSTALL);
    model.step(Op::Ask {
        page: 7,
        len: 0,
        write: false,
        prefetch: false,
        ahead: false,
        most: u16::MAX,
    });
    assert_eq!(model.asked().unwrap().len(), 1);
    model.finish();
}

#[test]
fn a_killed_region_serves_nothing() {
    let mut model = Model::default();
    model.step(ask_one(0, true));
    model.step(ask_one(1, true));
    assert_eq!(model.faults(), 2);
    model.step(INSTALL);
    model.step(Op::Access {
        page: 1,
        write: true,
    });
    model.step(Op::Exit { sure: u8::MAX });
    model.step(INSTALL);
    model.step(ask_one(0, true));
    model.step(Op::AskHuge {
        page: 600,
        write: false,
    });
    model.step(Op::Access {
        page: 1,
        write: false,
    });
    model.finish();
}
