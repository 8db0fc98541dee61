// SPDX-License-Identifier: MIT OR Apache-2.0

//! Prefetch: advice that changes nothing.

use crate::{
    build::BUILT,
    program::{ABLE, Said, shimmed},
};

const SYNC: (&str, &str) = ("VERBS_SHIM_PREFETCH", "sync");
/// As a rdma-core does that passes no advice on.
const NOT_PASSED_ON: (&str, &str) = ("FAKE_ADVISE", "95");

#[test]
fn prefetch() {
    let mode = |mode| ("VERBS_SHIM_PREFETCH", mode);
    let none = shimmed(&[ABLE], &["reg:7:1"]);
    assert_eq!(none.count("advise"), 0);
    let later = shimmed(&[ABLE, mode("async")], &["reg:7:1", "iova:9:4"]);
    later.has(&[
        "advise advice=0 flags=0 length=7",
        "advise advice=0 flags=0 length=9",
    ]);
    let now = shimmed(&[ABLE, mode("sync")], &["reg:7:1"]);
    now.has(&["advise advice=0 flags=1 length=7", "errno=0"])
        .is_quiet();
    let pinned = shimmed(&[mode("sync")], &["reg:7:1"]);
    assert_eq!(pinned.count("advise"), 0, "pinned pages are there");
}

#[test]
fn advice_that_fails() {
    let actions = ["reg:7:1", "reg:7:1"];
    let odd = shimmed(&[ABLE, SYNC, ("FAKE_ADVISE", "5")], &actions);
    odd.says(&["a region was not prefetched: ibv_advise_mr failed with errno 5"]);
    // What is not mapped now may be later; and too much at once is less the next time.
    for passes in ["14", "11", "4"] {
        let said = shimmed(&[ABLE, SYNC, ("FAKE_ADVISE", passes)], &actions);
        assert_eq!(said.is_quiet().count("advise"), 2, "{passes}");
    }
}

#[test]
fn advice_that_is_not_passed_on_costs_a_line_and_pages_are_read_in() {
    let actions = ["kind-untouched", "reg:7:1"];
    let said = shimmed(&[ABLE, SYNC, NOT_PASSED_ON], &actions);
    said.has(&["access=0x41", "errno=0", "present=64"])
        .says(&["pages are read in, and translated by traffic"]);
    assert_eq!(said.count("advise"), 2, "the next may be another device's");
    assert_eq!(said.err.lines().count(), 1);
    let old = shimmed(&[("FAKE_OLD", "1"), SYNC], &actions);
    old.has(&["present=64"]);
}

/// The scene, with advice that is passed on and with advice that is not.
fn each(scene: &str) -> [Said; 4] {
    let folder = ("CLIENT_FOLDER", BUILT.folder.to_str().expect("text"));
    let later = ("VERBS_SHIM_PREFETCH", "async");
    let touch = ("FAKE_TOUCH", "1");
    [
        [ABLE, SYNC, touch, folder],
        [ABLE, SYNC, NOT_PASSED_ON, folder],
        [ABLE, later, touch, folder],
        [ABLE, later, NOT_PASSED_ON, folder],
    ]
    .map(|variables| shimmed(&variables, &[scene]))
}

#[test]
fn a_private_file_is_not_copied() {
    for said in each("kind-private-file") {
        assert_eq!(said.number("copied"), 0, "{}", said.out);
        assert_eq!(said.number("present"), 64, "{}", said.out);
    }
}

#[test]
fn a_sparse_file_stays_as_it_is() {
    for scene in ["kind-shared-file", "kind-memfd"] {
        for said in each(scene) {
            assert_eq!(said.number("grown"), 0, "{}", said.out);
            assert_eq!(said.number("changed"), 0, "{}", said.out);
            assert!(said.number("present") >= 2, "{}", said.out);
        }
    }
}

#[test]
fn holes_of_shared_memory_are_not_filled() {
    for said in each("kind-shared-memory") {
        assert_eq!(said.number("present"), 2, "{}", said.out);
    }
}

#[test]
fn what_a_child_shares_stays_shared() {
    for said in each("kind-forked") {
        assert_eq!(said.number("exclusive"), 4, "{}", said.out);
    }
}

#[test]
fn what_can_be_read_is_prefetched_whatever_lies_between() {
    for said in each("kind-mixed") {
        // The first page, and all behind the two that can't be read.
        assert_eq!(said.number("present"), 62, "{}", said.out);
    }
    let info = ("VERBS_SHIM_LOG", "info");
    let touch = ("FAKE_TOUCH", "1");
    let said = shimmed(&[ABLE, SYNC, touch, info], &["kind-mixed"]);
    said.says(&["8192 of 262144 bytes of a region were not prefetched"]);
}

#[test]
fn nobody_is_waited_for_who_may_never_answer() {
    for said in each("kind-watched") {
        if said.count("no userfaultfd") == 1 {
            println!("not tried: this host has no userfaultfd for everybody");
            continue;
        }
        assert_eq!(said.number("present"), 3, "{}", said.out);
    }
}
