// SPDX-License-Identifier: MIT OR Apache-2.0

//! mlx5's DevX: what has no page faults.

use crate::{
    build::BUILT,
    program::{ABLE, shimmed},
};

const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");

#[test]
fn contexts_opened_for_devx_stay_as_they_are_asked_for() {
    let said = shimmed(
        &[ABLE, STATS],
        &[
            "reg:1:1",
            "devx",
            "reg:2:1",
            "iova2:3:1",
            "rereg:4:1",
            "mlx5",
            "reg:5:1",
        ],
    );
    said.has(&[
        "register length=1 access=0x41",
        "register length=2 access=0x1 ",
        "register length=3 access=0x1 ",
        "change flags=5 length=4 access=0x1\n",
        "register length=5 access=0x41",
    ])
    .says(&[
        "memory stays pinned: its context was opened for DevX",
        "2 MRs on demand (6 bytes)",
        "2 context opened for DevX (5 bytes)",
    ]);
    let implicit = ("VERBS_SHIM_IMPLICIT", "1");
    let said = shimmed(&[ABLE, implicit], &["devx", "reg:2:1"]);
    said.has(&["register length=2 access=0x1 "]);
    assert_eq!(said.count("register length"), 1);
}

#[test]
fn what_is_known_of_it_goes_with_the_context() {
    // The next one comes to the same address.
    shimmed(&[ABLE], &["devx", "reg:2:1", "close", "mlx5", "reg:3:1"])
        .has(&["length=2 access=0x1 ", "length=3 access=0x41"]);
}

#[test]
fn force_is_force() {
    let force = ("VERBS_SHIM", "force");
    shimmed(&[ABLE, force], &["devx", "reg:2:1"]).has(&["length=2 access=0x41"]);
}

#[test]
fn what_a_provider_registers_inside_stays_as_it_asks() {
    for force in ["auto", "force"] {
        let said = shimmed(&[ABLE, ("VERBS_SHIM", force)], &["steering", "reg:2:1"]);
        said.has(&["length=64 access=0x1 ", "length=2 access=0x41"]);
    }
}

#[test]
fn it_is_caught_by_an_audit_too() {
    let audit = ("LD_AUDIT", BUILT.shim.to_str().expect("text"));
    shimmed(&[ABLE, audit], &["devx", "dlvsym", "steering"])
        .has(&["length=500 access=0x1 ", "length=64 access=0x1 "]);
}
