// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that ask libibverbs' handle for its functions, as NCCL does.

use crate::{
    build::BUILT,
    program::{ABLE, shimmed},
};

fn audit() -> (&'static str, &'static str) {
    ("LD_AUDIT", BUILT.shim.to_str().expect("text"))
}

const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");

#[test]
fn a_look_up_by_handle_bypasses_a_preload() {
    for action in ["dlsym", "dlvsym"] {
        shimmed(&[ABLE], &[action]).has(&["length=500 access=0x1 "]);
    }
}

#[test]
fn it_does_not_bypass_an_audit() {
    for action in ["dlsym", "dlvsym"] {
        shimmed(&[ABLE, STATS, audit()], &[action])
            .has(&["length=500 access=0x41", "errno=0"])
            .says(&["1 MRs on demand (500 bytes)"]);
    }
}

#[test]
fn others_are_hooked_once_under_an_audit() {
    let refuse = ("FAKE_REFUSE", "22");
    let said = shimmed(&[ABLE, STATS, audit(), refuse], &["reg:7:1", "dlvsym"]);
    assert_eq!(said.count("access=0x41"), 2);
    said.says(&["2 as the program asked (507 bytes)"]);
}

#[test]
fn an_audit_alone_changes_nothing() {
    let off = ("LD_PRELOAD", "");
    shimmed(&[ABLE, audit(), off], &["reg:7:1", "dlvsym"])
        .has(&["length=7 access=0x1 ", "length=500 access=0x1 "])
        .is_quiet();
}
