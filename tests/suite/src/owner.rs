//! Memory that RDMA brings in belongs to the owner of the region: `emm-check owner`, in a guest of two NUMA nodes.

use anyhow::Result;

use super::cases::{Case, case};
use super::group::{Asked, Group};
use super::guest::{self, name, spec};
use soft_roce_setup::guest::{Size, Spec};

/// All cases, in order.
const CASES: &[Case] = &[
    case("owner::charge", 200, "emm-check owner charge --mr emm"),
    case("owner::hugetlb", 100, "emm-check owner hugetlb --mr emm"),
    case("owner::nodes", 200, "emm-check owner nodes --mr emm"),
];

/// Two nodes, each with a CPU, and with little memory.
fn two_nodes() -> Spec {
    Spec {
        nodes: 2,
        mem: Size(1 << 30),
        append: Some("numa_balancing=disable".to_owned()),
        ..spec()
    }
}

/// The names of those on the kernel `series`: what the VM charges, and to whom, differs in each.
pub fn names(series: &str) -> impl Iterator<Item = String> {
    CASES.iter().map(move |case| name(series, case))
}

/// Those that are wanted.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let wanted = asked.wanted(CASES.iter(), name);
    if wanted.is_empty() {
        return Ok(None);
    }
    let script = |case: &Case| case.script.to_owned();
    let work = move || guest::all(asked, &wanted, &two_nodes(), script);
    Group::of_kernel(asked.context, asked.series, work).map(|group| Some(group.boots()))
}
