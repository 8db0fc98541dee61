// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that ask libibverbs' handle for its functions, as NCCL does.

use crate::{
    build::BUILT,
    program::{ABLE, shimmed},
};
use std::path::Path;

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

fn preloaded(paths: &[&Path]) -> String {
    let paths: Vec<_> = paths.iter().map(|p| p.to_str().expect("text")).collect();
    paths.join(":")
}

/// Every verb that somebody else's library wraps, in both orders, with and without an audit.
#[test]
fn another_preload_is_called_once_and_does_not_recurse() {
    let actions = [
        "reg:7:1",
        "rereg:8:1",
        "dereg",
        "dlvsym",
        "dereg",
        "dealloc",
        "close",
    ];
    let (shim, wrap) = (&*BUILT.shim, &*BUILT.wrap);
    for order in [[shim, wrap], [wrap, shim]] {
        let preload = preloaded(&order);
        for audit in [("LD_AUDIT", ""), audit()] {
            let said = shimmed(&[ABLE, ("LD_PRELOAD", &preload), audit], &actions);
            said.has(&[
                "register length=7 access=0x41",
                "change flags=5 length=8 access=0x41",
                "deregistered: 0",
                "deallocated: 0",
                "closed: 0",
            ]);
            for once in [
                "ibv_reg_mr\n",
                "ibv_rereg_mr",
                "ibv_dealloc_pd",
                "ibv_close_device",
            ] {
                assert_eq!(
                    said.count(&format!("wrapped {once}")),
                    1,
                    "{once}: {}",
                    said.out
                );
            }
        }
    }
}

/// What the other library registers through is libibverbs' own, whatever the mode.
#[test]
fn another_preload_with_other_modes() {
    let preload = preloaded(&[&BUILT.shim, &BUILT.wrap]);
    for (name, value) in [("VERBS_SHIM", "off"), ("VERBS_SHIM_IMPLICIT", "1")] {
        let variables = [ABLE, ("LD_PRELOAD", &preload), audit(), (name, value)];
        shimmed(
            &variables,
            &["reg:7:1", "dereg", "reg:8:3", "dealloc", "close"],
        )
        .has(&["deregistered: 0", "length=8", "closed: 0"]);
    }
}

#[test]
fn an_older_library_of_ours_is_met_at_its_own_places() {
    let (shim, older) = (&*BUILT.shim, &*BUILT.older);
    for order in [[shim, older], [older, shim]] {
        let variables = [ABLE, ("LD_PRELOAD", &*preloaded(&order)), audit()];
        shimmed(
            &variables,
            &["reg:7:1", "dereg", "dlvsym", "dlsym", "close"],
        )
        .has(&[
            "register length=7 access=0x41",
            "length=500 access=0x41",
            "closed: 0",
        ]);
    }
}
