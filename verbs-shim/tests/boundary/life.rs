// SPDX-License-Identifier: MIT OR Apache-2.0

//! What programs do besides registering: early and late calls, forks, threads, missing libraries.

use crate::{
    build::BUILT,
    program::{ABLE, shimmed, wheel},
};
use std::process::Command;

const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");

#[test]
fn before_main_and_after_exit_handlers() {
    let said = shimmed(&[ABLE, STATS, ("CLIENT_EARLY", "1")], &["late"]);
    said.has(&["length=50 access=0x41", "length=300 access=0x41"])
        .says(&["2 MRs on demand (350 bytes)"]);
}

#[test]
fn a_call_after_the_counts_were_printed() {
    // Handlers run in the reverse order of their making: the shim's comes first here.
    shimmed(&[ABLE, STATS], &["late", "reg:7:1"])
        .has(&["length=300 access=0x41"])
        .says(&["1 MRs on demand (7 bytes)"]);
}

#[test]
fn a_child_counts_for_itself() {
    let said = shimmed(&[ABLE, STATS], &["reg:7:1", "fork"]);
    said.has(&[
        "length=100 access=0x41",
        "child status=0",
        "length=200 access=0x41",
    ])
    .says(&["1 MRs on demand (100 bytes)", "2 MRs on demand (207 bytes)"]);
}

#[test]
fn processes_that_run_no_exit_handler() {
    for end in ["_exit", "_Exit"] {
        // The memory of a child of vfork is its parent's.
        let said = shimmed(&[ABLE, STATS], &["reg:7:1", "vfork", "reg:8:1", end]);
        said.says(&["2 MRs on demand (15 bytes)"]);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        shimmed(&[ABLE], &["reg:7:1", end]).is_quiet();
    }
}

#[test]
fn a_libibverbs_of_another_name() {
    wheel(&[ABLE, STATS], &["reg:7:1"])
        .has(&["length=7 access=0x41", "errno=0"])
        .says(&["1 MRs on demand (7 bytes)"]);
    wheel(&[ABLE, ("VERBS_SHIM", "off")], &["reg:7:1"])
        .has(&["length=7 access=0x1", "errno=0"])
        .is_quiet();
}

#[test]
fn threads_at_once() {
    shimmed(&[ABLE, STATS, ("FAKE_TRACE", "0")], &["threads"])
        .has(&["threads done"])
        .says(&["80000 MRs on demand (5120000 bytes)"]);
}

#[test]
fn programs_without_verbs_are_untouched() {
    let output = Command::new("true")
        .env("LD_PRELOAD", &BUILT.shim)
        .env("VERBS_SHIM", "nonsense")
        .env("VERBS_SHIM_STATS", "1")
        .output()
        .expect("`true` is there");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn libc_is_all_it_needs() {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(&BUILT.shim)
        .output()
        .expect("readelf is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let needed: Vec<_> = text.lines().filter(|l| l.contains("(NEEDED)")).collect();
    assert_eq!(needed.len(), 1, "{needed:?}");
    assert!(needed[0].contains("libc.so.6"));
    assert!(text.contains("NODELETE"), "handlers point into it");
}

/// What the oldest distributions that it is meant for have: RHEL 7's. Ubuntu 20.04 has 2.31, RHEL 8 2.28.
const OLDEST_GLIBC: [u32; 2] = [2, 17];

#[test]
fn an_old_glibc_is_enough() {
    let output = Command::new("readelf")
        .args(["--version-info", "--wide"])
        .arg(&BUILT.shim)
        .output()
        .expect("readelf is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let versions: Vec<Vec<u32>> = text
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let number = rest
                .split(|c: char| c != '.' && !c.is_ascii_digit())
                .next()?;
            number.split('.').map(|part| part.parse().ok()).collect()
        })
        .collect();
    assert!(versions.len() > 2, "{text}");
    for version in versions {
        assert!(version <= OLDEST_GLIBC.to_vec(), "{version:?} in\n{text}");
    }
}
