// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several copies of libibverbs in one process, as a Python wheel brings its own. The fake ends the process if it gets an object of
//! another copy.

use crate::{
    build::BUILT,
    program::{ABLE, modules, shimmed},
};
use std::path::Path;

const IMPLICIT: (&str, &str) = ("VERBS_SHIM_IMPLICIT", "1");
const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");
const OFF: (&str, &str) = ("VERBS_SHIM", "off");

fn audit() -> (&'static str, &'static str) {
    ("LD_AUDIT", BUILT.shim.to_str().expect("text"))
}

/// Each hook, some of them after other copies were used. Regions end before their domain does.
const FIRST: &[&str] = &["reg:7:1"];
const THEN: &[&str] = &[
    "rereg:8:1",
    "dereg",
    "iova:9:1",
    "dereg",
    "iova2:10:1",
    "dereg",
    "dmabuf:11:1",
    "dereg",
    "dlvsym",
    "rereg:12:1",
    "dereg",
];
const LAST: &[&str] = &["dealloc", "close", "devx", "reg:13:1", "dereg", "steering"];

#[test]
fn objects_go_to_the_library_that_made_them() {
    let (plain, wheel, odd) = (&*BUILT.plain, &*BUILT.wheel, &*BUILT.odd);
    let orders: &[&[&Path]] = &[
        &[plain, wheel],
        &[wheel, plain],
        &[plain, odd],
        &[odd, plain],
        &[wheel, odd, plain],
    ];
    let on_demand = [ABLE, STATS];
    for (at, variables) in [
        &on_demand[..],
        &[ABLE, STATS, audit()],
        &[ABLE, STATS, IMPLICIT],
        &[ABLE, STATS, IMPLICIT, audit()],
        &[ABLE, STATS, OFF],
        &[ABLE, STATS, OFF, audit()],
    ]
    .into_iter()
    .enumerate()
    {
        for order in orders {
            let turns: Vec<_> = [FIRST, THEN, LAST]
                .into_iter()
                .flat_map(|actions| order.iter().map(move |module| (*module, actions)))
                .collect();
            let said = modules(variables, &turns);
            let copies = order.len();
            let times = |what: &str| said.count(what);
            assert_eq!(times("deregistered: 0"), 6 * copies, "{}", said.out);
            assert_eq!(times("deallocated: 0"), copies, "{}", said.out);
            assert_eq!(times("closed: 0"), copies, "{}", said.out);
            assert_eq!(times("changed: 0"), 2 * copies, "{}", said.out);
            // What each of them registered on demand, unless it is off. What is found by its handle takes an audit.
            let audited = usize::from(at % 2 == 1);
            if at < 2 {
                said.says(&[&format!("{} MRs on demand", (3 + audited) * copies)]);
            }
        }
    }
}

#[test]
fn what_a_copy_lacks_is_not_taken_from_another() {
    for order in [[&BUILT.odd, &BUILT.wheel], [&BUILT.wheel, &BUILT.odd]] {
        let turns = order.map(|module| (&**module, &["reg:7:1", "ex:8:1"][..]));
        let said = modules(&[ABLE], &turns);
        said.has(&["no region, errno=95", "register length=8 access=0x41"])
            .says(&["ibv_reg_mr_ex was called, but no libibverbs.so.1 that has it is loaded"]);
    }
}

#[test]
fn a_second_copy_by_its_handle() {
    for other in ["libibverbs-1de1263b.so.1.14", "libodd.so"] {
        for variables in [&[ABLE][..], &[ABLE, audit()], &[ABLE, audit(), IMPLICIT]] {
            let other = [variables, &[("CLIENT_OTHER", other)]].concat();
            let said = shimmed(&other, &["reg:7:1", "another", "dereg", "dealloc", "close"]);
            said.has(&[
                "other changed: 0",
                "other ended: 0 0 0",
                "deregistered: 0",
                "deallocated: 0",
                "closed: 0",
            ]);
            // Without an audit, by libibverbs' own way to `ibv_reg_mr_iova2`.
            let on_demand = said.count("register length=600 access=0x41");
            let served = variables.contains(&IMPLICIT);
            assert_eq!(on_demand, usize::from(!served), "{}", said.out);
        }
    }
}
