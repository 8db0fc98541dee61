// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several threads, and processes that they make.

use crate::{
    build::BUILT,
    program::{ABLE, shimmed},
};
use std::fs;

const SILENT: (&str, &str) = ("FAKE_TRACE", "0");
const HANDLER: (&str, &str) = ("CLIENT_FORK_HANDLER", "1");
const IMPLICIT: (&str, &str) = ("VERBS_SHIM_IMPLICIT", "1");

/// The program's fork handler waits for a lock, whose owner registers.
#[test]
fn a_fork_waits_for_nobody_who_waits_for_it() {
    for mode in ["0", "1"] {
        let implicit = ("VERBS_SHIM_IMPLICIT", mode);
        for scene in ["fork-while-locked", "fork-while-dealloc-locked"] {
            // The first calls bring the library's own handlers behind the program's.
            let first = ["reg:7:1", "dereg", "pd", "dealloc", "pd", scene];
            shimmed(&[ABLE, SILENT, HANDLER, implicit], &first)
                .has(&["fork came through, status=0"]);
        }
    }
}

#[test]
fn a_cancelled_thread_ends_behind_its_registration() {
    let folder = BUILT.folder.join("cancel");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("the folder can be made");
    let file = folder.join("log");
    let file = ("VERBS_SHIM_LOG_FILE", file.to_str().expect("text"));
    let debug = ("VERBS_SHIM_LOG", "debug");
    let prefetch = ("VERBS_SHIM_PREFETCH", "sync");
    let points = ("FAKE_CANCEL", "1");
    for file in [("VERBS_SHIM_LOG_FILE", ""), file] {
        for mode in ["0", "1"] {
            let implicit = ("VERBS_SHIM_IMPLICIT", mode);
            let variables = [ABLE, SILENT, debug, prefetch, points, file, implicit];
            shimmed(&variables, &["cancel", "reg:7:1"]).has(&[
                "cancelled=1 after its calls=1",
                "region addr=memory length=7",
            ]);
        }
    }
}

/// Threads that register, change and end under locks and without, others that are cancelled in the middle of it, and children of all
/// that which go on with what they got, and have children.
#[test]
fn threads_and_forks_under_stress() {
    let stats = ("VERBS_SHIM_STATS", "1");
    let debug = ("VERBS_SHIM_LOG", "debug");
    let file = ("VERBS_SHIM_LOG_FILE", "/dev/null");
    for variables in [
        &[ABLE, SILENT, HANDLER, stats][..],
        &[ABLE, SILENT, HANDLER, stats, IMPLICIT],
        &[ABLE, SILENT, HANDLER, IMPLICIT, debug, file],
        &[
            ABLE,
            SILENT,
            HANDLER,
            IMPLICIT,
            ("FAKE_REFUSE_IMPLICIT", "12"),
            ("FAKE_REFUSALS", "50"),
        ],
    ] {
        let variables: Vec<_> = variables.to_vec();
        shimmed(&variables, &["reg:7:1", "stress:40"]).has(&["stress done"]);
    }
}
