// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the hook costs a registration.

use crate::program::{ABLE, plain, shimmed};

const SILENT: (&str, &str) = ("FAKE_TRACE", "0");

#[test]
fn less_than_a_microsecond() {
    let without = plain(&[ABLE, SILENT], &["cost"]).number("nanoseconds");
    let with = shimmed(&[ABLE, SILENT], &["cost"]).number("nanoseconds");
    println!("registration and its end: {without} ns, with the shim {with} ns");
    assert!(
        with - without < 1000,
        "{without} ns, with the shim {with} ns"
    );
}

#[test]
fn memory_stays_flat() {
    let said = shimmed(&[ABLE, SILENT], &["flat"]);
    assert_eq!(said.number("allocations"), 0);
    assert_eq!(said.number("maps"), 0);
    assert!(said.number("pages") <= 1, "{}", said.out);
}
