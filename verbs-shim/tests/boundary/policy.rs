// SPDX-License-Identifier: MIT OR Apache-2.0

//! Each variable, each entry point, and each kind of device.

use crate::{
    build::BUILT,
    program::{ABLE, plain, shimmed},
};
use std::fs;

const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");

#[test]
fn every_entry_point_goes_on_demand_once() {
    let actions = ["reg:1:1", "iova:2:1", "iova2:3:0x100001", "ex:4:1"];
    let said = shimmed(&[ABLE, STATS], &actions);
    said.has(&[
        "register length=1 access=0x41 moved=0",
        "register length=2 access=0x41 moved=4096",
        "register length=3 access=0x100041 moved=0",
        "register length=4 access=0x41 moved=0",
    ])
    .says(&["4 MRs on demand (10 bytes), 0 on demand by themselves, 0 as the program asked"]);
    assert_eq!(said.count("register length"), 4);
}

#[test]
fn without_the_shim_nothing_is_on_demand() {
    plain(&[ABLE], &["reg:1:1"])
        .has(&["register length=1 access=0x1 "])
        .is_quiet();
}

#[test]
fn nested_fallback_is_tried_and_counted_once() {
    let said = shimmed(
        &[ABLE, STATS, ("FAKE_REFUSE", "22")],
        &["reg:7:1", "reg:7:1"],
    );
    assert_eq!(said.count("access=0x41"), 2);
    assert_eq!(said.count("access=0x1 "), 2);
    said.says(&[
        "memory stays pinned: on-demand registration of 7 bytes failed with errno 22 (EINVAL)",
        "0 MRs on demand (0 bytes)",
        "2 as the program asked (14 bytes): 2 refused by the device (14 bytes)",
    ]);
    assert_eq!(said.err.lines().count(), 2, "one warning: {}", said.err);
}

#[test]
fn errno_is_the_programs() {
    // Neither a fallback nor a warning leaves a trace in errno.
    shimmed(&[ABLE, ("FAKE_REFUSE", "22")], &["reg:7:1"])
        .has(&["region addr=memory length=7 ", "errno=0"]);
    shimmed(&[ABLE, ("FAKE_REFUSE_ALL", "12")], &["reg:7:1"])
        .has(&["no region, errno=12"])
        .is_quiet();
}

#[test]
fn force_returns_the_devices_error() {
    let force = ("VERBS_SHIM", "force");
    let said = shimmed(&[ABLE, force, ("FAKE_REFUSE", "95")], &["reg:7:1"]);
    said.has(&["no region, errno=95"]).is_quiet();
    assert_eq!(said.count("register"), 1);
    shimmed(&[force], &["reg:7:1"]).has(&["access=0x41"]);
}

#[test]
fn off_changes_nothing() {
    let said = shimmed(&[ABLE, ("VERBS_SHIM", "off")], &["reg:7:1", "dmabuf:8:1"]);
    said.has(&["register length=7 access=0x1 "]).is_quiet();
    assert_eq!(said.count("query"), 0);
}

#[test]
fn a_device_without_paging_stays_pinned() {
    let said = shimmed(&[STATS], &["reg:7:1", "reg:7:1"]);
    said.says(&[
        "memory stays pinned: the device has no on-demand paging",
        "2 as the program asked (14 bytes): 2 device without on-demand paging (14 bytes)",
    ]);
    assert_eq!(said.count("access=0x1 "), 2);
}

/// The device has no entry in /sys: so it is for a program without /sys, and after the device was renamed.
#[test]
fn rxe_is_known_by_its_vendor_too() {
    shimmed(&[ABLE, ("FAKE_VENDOR", "ffffff")], &["reg:1:1"])
        .has(&["register length=1 access=0x1 "]);
}

#[test]
fn what_is_known_of_a_context_goes_with_it() {
    shimmed(&[ABLE], &["reg:1:1", "rxe", "reg:2:1"]).has(&[
        "register length=1 access=0x41 ",
        "register length=2 access=0x1 ",
    ]);
}

#[test]
fn a_device_that_can_not_be_asked_is_tried() {
    let said = shimmed(&[("FAKE_OLD", "1")], &["reg:7:1"]);
    said.has(&["access=0x41"]).is_quiet();
}

#[test]
fn atomics_need_their_capability() {
    shimmed(&[ABLE, ("FAKE_RC", "f")], &["reg:7:9"]).has(&["access=0x9 "]);
    shimmed(&[ABLE, ("FAKE_RC", "1f")], &["reg:7:9"]).has(&["access=0x49 "]);
}

#[test]
fn what_has_no_on_demand_form_is_left_alone_and_counted() {
    let actions = [
        "dmabuf:8:1",
        "dereg",
        "exfd:9:1",
        "dereg",
        "hints:10:1",
        "dereg",
        "dm:11:1",
        "dereg",
        "dm:0:1",
        "dereg",
        "reg:12:0x201",
        "reg:13:0x41",
    ];
    let said = shimmed(&[ABLE, STATS], &actions);
    said.has(&[
        "register_dmabuf length=8 access=0x1\n",
        "register_ex mask=0x4 access=0x1\n",
        "register length=10 access=0x1 ",
        "register length=12 access=0x201 ",
    ])
    .says(&[
        "0 MRs on demand (0 bytes), 1 on demand by themselves, 6 as the program asked (50 bytes)",
        "1 access flags exclude it (12 bytes)",
        "2 dma-buf (17 bytes)",
        "2 device memory or NULL MR (11 bytes)",
        "1 unknown kind of registration (10 bytes)",
    ]);
}

#[test]
fn a_change_of_access_keeps_it_on_demand() {
    shimmed(&[ABLE], &["reg:7:1", "rereg:9:3"])
        .has(&["change flags=5 length=9 access=0x43", "changed: 0"]);
    let refused = shimmed(&[ABLE, ("FAKE_REFUSE", "22")], &["reg:7:1", "rereg:9:3"]);
    refused.has(&["access=0x43", "access=0x3\n", "changed: 0"]);
}

#[test]
fn a_change_that_falls_back_is_counted_and_said() {
    let said = shimmed(
        &[ABLE, STATS, ("FAKE_REFUSE", "22")],
        &["dm:5:1", "rereg:9:3"],
    );
    said.has(&["access=0x43", "access=0x3\n", "changed: 0 errno=0"])
        .says(&[
            "memory stays pinned: on-demand re-registration of 9 bytes failed with errno 22 (EINVAL)",
            "1 refused by the device (9 bytes)",
        ]);
}

#[test]
fn short_regions() {
    let least = ("VERBS_SHIM_MIN_BYTES", "4K");
    let said = shimmed(&[ABLE, STATS, least], &["reg:4095:1", "reg:4096:1"]);
    said.has(&["length=4095 access=0x1 ", "length=4096 access=0x41 "])
        .says(&["1 shorter than VERBS_SHIM_MIN_BYTES (4095 bytes)"]);
}

#[test]
fn bad_values_cost_a_line_each_and_the_default_serves() {
    let bad = [
        ("VERBS_SHIM", "on"),
        ("VERBS_SHIM_MIN_BYTES", "many"),
        ("VERBS_SHIM_LOG", "loud"),
        ("VERBS_SHIM_PREFETCH", "1"),
        ("VERBS_SHIM_IMPLICIT", "always"),
        ("VERBS_SHIM_STATS", "yes"),
    ];
    let said = shimmed(&[&[ABLE], &bad[..]].concat(), &["reg:7:1", "reg:7:1"]);
    said.has(&["access=0x41"]);
    for (name, value) in bad {
        let line = format!("verbs-shim: {name}={value} is not ");
        assert_eq!(said.err.matches(&line).count(), 1, "{name}: {}", said.err);
    }
    assert_eq!(said.err.lines().count(), bad.len());
}

#[test]
fn log_levels() {
    let quiet = shimmed(&[("VERBS_SHIM_LOG", "off"), STATS], &["reg:7:1"]);
    quiet.is_quiet();
    let info = shimmed(&[ABLE, ("VERBS_SHIM_LOG", "info")], &["reg:7:1"]);
    info.says(&["verbs-shim: fake0: on-demand paging general 0x3, rc 0x0, uc 0x0, ud 0x0"]);
    assert_eq!(info.err.lines().count(), 1);
    let debug = shimmed(&[ABLE, ("VERBS_SHIM_LOG", "debug")], &["reg:7:1"]);
    debug.says(&["ibv_reg_mr: 7 bytes, access 0x1: TryOnDemand"]);
}

#[test]
fn log_file_of_each_process() {
    let folder = BUILT.folder.join("logs");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("the folder can be made");
    let file = folder.join("shim.%d.log");
    let file = ("VERBS_SHIM_LOG_FILE", file.to_str().expect("text"));
    shimmed(&[STATS, file], &["reg:7:1", "closefds", "fork"]).is_quiet();
    let mut texts: Vec<String> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a file"))
        .collect();
    texts.sort_by_key(String::len);
    assert_eq!(texts.len(), 2, "parent and child: {texts:?}");
    assert!(texts[0].contains("1 as the program asked (100 bytes)"));
    assert!(texts[1].contains("2 as the program asked (207 bytes)"));
}

#[test]
fn a_log_file_that_can_not_be_opened() {
    let file = ("VERBS_SHIM_LOG_FILE", "/nowhere/log");
    shimmed(&[file, STATS], &["reg:7:1"]).says(&[
        "VERBS_SHIM_LOG_FILE can't be opened",
        "memory stays pinned",
        "0 MRs on demand",
    ]);
}
