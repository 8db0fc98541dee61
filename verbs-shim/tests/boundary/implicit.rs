// SPDX-License-Identifier: MIT OR Apache-2.0

//! `VERBS_SHIM_IMPLICIT`: registrations without system calls.

use crate::program::{ABLE, shimmed};

const IMPLICIT: (&str, &str) = ("VERBS_SHIM_IMPLICIT", "1");
const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");
const WHOLE: &str = "register length=18446744073709551615";

#[test]
fn one_region_serves_all() {
    let actions = [
        "reg:7:1",
        "dereg",
        "iova2:8:1",
        "ex:9:1",
        "dereg",
        "reg:10:3",
    ];
    let said = shimmed(&[ABLE, IMPLICIT, STATS], &actions);
    said.has(&[
        "register length=18446744073709551615 access=0x41 moved=0",
        "register length=18446744073709551615 access=0x43 moved=0",
        "region addr=memory length=7 lkey=5095 rkey=6095 errno=0",
        "region addr=memory length=8 lkey=5095 rkey=6095 errno=0",
        "region addr=memory length=9 lkey=5095 rkey=6095 errno=0",
        "region addr=memory length=10 lkey=5094 rkey=6094 errno=0",
        "deregistered: 0",
    ])
    .says(&["4 MRs on demand (34 bytes)"]);
    assert_eq!(
        said.count("register length"),
        2,
        "one for each set of flags"
    );
    assert_eq!(said.count("end length="), 0);
}

#[test]
fn off_by_default() {
    assert_eq!(shimmed(&[ABLE], &["reg:7:1"]).count(WHOLE), 0);
}

#[test]
fn domains_have_their_own_and_go_when_they_are_idle() {
    let actions = [
        "reg:7:1", "dereg", "dealloc", "pd", "reg:8:1", "dealloc", "close",
    ];
    let said = shimmed(&[ABLE, IMPLICIT], &actions);
    assert_eq!(said.count(WHOLE), 2, "one for each domain");
    let ended = said.out.find("end length=18446744073709551615");
    let given_back = said.out.find("dealloc_pd");
    assert!(ended.is_some() && ended < given_back, "{}", said.out);
    // The second domain still has a region, so that it is busy, as without the shim.
    said.has(&["deallocated: 0", "deallocated: 16", "closed: 0"]);
    assert_eq!(said.count("end length="), 2);
}

#[test]
fn closing_a_device_ends_what_it_had() {
    let said = shimmed(&[ABLE, IMPLICIT], &["reg:7:1", "close"]);
    assert_eq!(said.count("end length=18446744073709551615"), 1);
}

#[test]
fn what_a_range_can_not_serve_is_registered() {
    let actions = [
        "iova:7:1",
        "reg:8:0x21",
        "reg:0:1",
        "dmabuf:9:1",
        "reg:10:0x201",
    ];
    let said = shimmed(&[ABLE, IMPLICIT], &actions);
    said.has(&[
        "register length=7 access=0x41 moved=4096",
        "register length=8 access=0x61",
        "register length=0 access=0x41",
        "register_dmabuf length=9 access=0x1\n",
        "register length=10 access=0x201",
    ]);
    assert_eq!(said.count(WHOLE), 0);
}

#[test]
fn a_change_is_free_or_moves_to_other_keys() {
    let actions = ["reg:7:1", "rereg:9:1", "rereg:0:3", "dereg", "dereg"];
    let said = shimmed(&[ABLE, IMPLICIT], &actions);
    assert_eq!(said.count("changed: 0"), 2);
    assert_eq!(said.count("change flags"), 0);
    assert_eq!(said.count(WHOLE), 2);
    said.has(&["deregistered: 0\nderegistered: 22\n"]);
}

#[test]
fn a_device_without_implicit_regions() {
    let said = shimmed(&[("FAKE_ODP", "1"), IMPLICIT], &["reg:7:1", "reg:7:1"]);
    said.says(&["no implicit regions: the device has none"]);
    assert_eq!(said.count("register length=7 access=0x41"), 2);
    assert_eq!(said.err.lines().count(), 1);
}

#[test]
fn a_device_that_refuses_one() {
    let refuse = ("FAKE_REFUSE_IMPLICIT", "22");
    let said = shimmed(&[ABLE, IMPLICIT, refuse], &["reg:7:1", "reg:7:1"]);
    said.has(&["register length=7 access=0x41", "errno=0"])
        .says(&["no implicit regions: the device refused one with errno 22 (EINVAL)"]);
    assert_eq!(said.count(WHOLE), 1, "asked once");
    assert_eq!(said.err.lines().count(), 1);
}

/// What passes ends nothing: the next registration is served.
#[test]
fn a_device_that_refuses_one_for_a_while() {
    let (refuse, twice) = (("FAKE_REFUSE_IMPLICIT", "12"), ("FAKE_REFUSALS", "2"));
    let actions = ["reg:7:1", "reg:8:1", "reg:9:1", "reg:10:1"];
    let said = shimmed(&[ABLE, IMPLICIT, refuse, twice], &actions);
    said.has(&[
        "register length=7 access=0x41",
        "register length=8 access=0x41",
        "errno=0",
    ])
    .says(&["no implicit region yet: the device refused one with errno 12 (ENOMEM)"]);
    assert_eq!(said.count(WHOLE), 3);
    assert_eq!(said.count("register length"), 5, "{}", said.out);
    assert_eq!(said.err.lines().count(), 1);
}

/// More pairs of domain and flags than there is room for: no region is made in vain.
#[test]
fn domains_without_room() {
    let many: Vec<_> = (0..66).flat_map(|_| ["pd", "reg:7:1"]).collect();
    let said = shimmed(&[ABLE, IMPLICIT], &many);
    assert_eq!(said.count(WHOLE), 64);
    assert_eq!(said.count("register length=7 access=0x41"), 2);
}

#[test]
fn without_paging_nothing_is_implicit() {
    let said = shimmed(&[IMPLICIT], &["reg:7:1"]);
    said.has(&["register length=7 access=0x1 "]);
    assert_eq!(said.count(WHOLE), 0);
}

#[test]
fn threads_and_forks() {
    let silent = ("FAKE_TRACE", "0");
    shimmed(&[ABLE, IMPLICIT, STATS, silent], &["threads"])
        .has(&["threads done"])
        .says(&["80000 MRs on demand"]);
    shimmed(&[ABLE, IMPLICIT, silent], &["reg:7:1", "fork"]).has(&[
        "length=100 lkey",
        "child status=0",
        "length=200 lkey",
    ]);
}

/// An implicit region reaches the memory of the process that made it.
#[test]
fn a_child_leaves_the_parents_region_alone() {
    let said = shimmed(&[ABLE, IMPLICIT], &["reg:7:1", "forkclose"]);
    let (_, rest) = said.out.split_once("the child").unwrap_or_default();
    let (child, parent) = rest.split_once("the parent").unwrap_or_default();
    assert_eq!(child.matches(WHOLE).count(), 1, "its own: {}", said.out);
    assert_eq!(child.matches("end length=").count(), 1, "{}", said.out);
    assert!(child.contains("child deregistered: 0"), "{}", said.out);
    assert!(child.contains("an inherited one: 0"), "{}", said.out);
    assert!(child.contains("child closed: 0"), "{}", said.out);
    assert!(parent.contains("length=200 lkey=5095"), "{}", said.out);
    assert_eq!(parent.matches(WHOLE).count(), 0, "{}", said.out);
}

#[test]
fn memory_stays_flat() {
    let said = shimmed(&[ABLE, IMPLICIT, ("FAKE_TRACE", "0")], &["flat"]);
    assert_eq!(said.number("allocations"), 0);
    assert_eq!(said.number("maps"), 0);
    assert!(said.number("pages") <= 1, "{}", said.out);
}

#[test]
fn prefetch_uses_its_keys() {
    let sync = ("VERBS_SHIM_PREFETCH", "sync");
    shimmed(&[ABLE, IMPLICIT, sync], &["reg:7:1"]).has(&["length=7 lkey=5095"]);
}
