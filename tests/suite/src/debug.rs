//! Tests on the debug kernel, `guest::debug::…`: less of everything and longer limits, and the kernel is asked what our modules
//! leaked: once for all of them, as to ask takes ten seconds, and after each one with `--long` or when only some are wanted.
//!
//! They run when that kernel is in the cache, or when they are asked for.

use std::time::Duration;

use anyhow::Result;

use super::cases::{Case, case};
use super::group::{Asked, Group};
use super::guest::{self, name, roomy};
use super::planted;
use super::tally::Outcome;
use soft_roce_setup::build::{self, debug};

/// The first part of the cases' names.
const GROUP: &str = "guest::debug";

/// What all cases before it leaked. kmemleak says which program allocated an object, and when.
const LEAKS: Case = case("nothing_leaked", 300, "emm-check leaks");

/// All cases, in order.
const CASES: &[Case] = &[
    // Races need two CPUs, and this kernel finds them in another way than a stock one does: see debug.config.
    case(
        "two_cpus_and_two_nodes",
        60,
        "nproc; ls -d /sys/devices/system/node/node?; [ $(nproc) = 2 ] && [ -d /sys/devices/system/node/node1 ]",
    ),
    case(
        "verify_every_byte",
        600,
        "emm-check verify --mr emm --op write,read,send --offsets 0,1,2047,4095 --lengths 1,7,4095,5000,65537",
    ),
    case(
        "notifier_contract",
        600,
        "insmod /emm/modules/emm_client.ko && emm-check notifier && rmmod emm_client",
    ),
    case(
        "parked_accesses",
        600,
        "insmod /emm/modules/emm_access.ko && emm-check access && rmmod emm_access",
    ),
    // What is thrown away, and forks, are in the matrix.
    case(
        "vm_events",
        900,
        "insmod /emm/modules/emm_client.ko\n\
         emm-check event madvfree remap mremap readonly holdoff implicit uffd disk reap rare --mr emm && rmmod emm_client",
    ),
    case(
        "matrix",
        1500,
        "emm-check matrix first-touch fork-cow dontneed swap-zram mprotect move-pages kill --mr emm",
    ),
    case("matrix_whole", 7200, "emm-check matrix --mr emm").long(),
    // An emulated CPU serves this kernel's eight queue pairs a few hundred packets a second, each fault from swap in some 10 ms.
    // With 268 ms until a request is sent again, they are busy with what is only late, and one gets nothing done for 30 s.
    case(
        "stress_for_long",
        2400,
        "emm-check --seed 2 --ack-timeout 20 stress --seconds 600 --qps 8 --mr emm",
    )
    .long(),
    case(
        "stress_against_shadow",
        300,
        "emm-check stress --seconds 20 --qps 4 --size 4M --mr emm",
    ),
    case("verbs_teardown", 900, "emm-check verbs teardown --mr emm"),
    case("verbs_lookup", 900, "emm-check verbs lookup --mr emm").long(),
    // Wrong arguments, and a range that userfaultfd watches: the kernel warned of that once.
    case(
        "verbs_input",
        900,
        "emm-check verbs input ring responder --mr emm && emm-check removal",
    ),
    case(
        "verbs_rest",
        1200,
        "emm-check verbs extended datagram srq windows rereg advise --mr emm",
    )
    .long(),
    case(
        "kill_in_traffic",
        600,
        "emm-check kill --rounds 5 --mr emm && [ -z \"$(rdma resource show mr | grep -v '^$')\" ]",
    ),
    // Ends in each state, wrong arguments, and what page tables go through.
    case(
        "xpmem",
        900,
        "emm-check xpmem basic mapping rights input fork deaths many --attaches 200 --attachers 8 && \
         emm-check xpmem-matrix --verb load,store dontneed fork-cow mprotect swap-zram thp",
    ),
    case("xpmem_matrix_whole", 7200, "emm-check xpmem-matrix").long(),
    case("failed_allocations", 900, "emm-check inject"),
    case("fuzz_arguments", 400, "emm-check fuzz --seconds 15"),
    case(
        "fuzz_arguments_for_long",
        4000,
        "emm-check --seed 2 fuzz --seconds 1800",
    )
    .long(),
    // Of what is gone kmemleak does not know any more whose it was: what comes behind this one has to ask for itself.
    LEAKS,
    case(
        "modules_unload_and_load_4_times",
        900,
        "set -e; for i in $(seq 4); do rdma link delete rxe0; rmmod rdma_rxe emm_xpmem ib_emm\n\
         insmod /emm/modules/ib_emm.ko; insmod /emm/modules/emm_xpmem.ko; insmod /emm/modules/rdma_rxe.ko mr_backend=emm\n\
         rdma link add rxe0 type rxe netdev eth9; done; echo $i; rdma link show rxe0/1",
    ),
];

/// Those of `cases` whose leaks a case behind them asks for, and that one.
fn before_leaks<'a>(cases: &'a [&Case]) -> &'a [&'a Case] {
    let last = cases.iter().position(|case| case.name == LEAKS.name);
    last.map_or(&[], |at| &cases[..=at])
}

/// The case's script, then what was leaked. The case's own failure counts first.
fn with_leaks(script: &str) -> String {
    format!("(\n{script}\n)\nstatus=$?\n[ $status = 0 ] || exit $status\nexec emm-check leaks")
}

/// The cases that are wanted, and the faults planted for this kernel. `build` builds the kernel for them if it is not there.
pub fn groups(asked: Asked<'_>, build: bool) -> Result<Vec<Group<'_>>> {
    let Asked {
        context,
        long,
        tally,
        ..
    } = asked;
    let wanted = asked.wanted(cases(long), name);
    let plants = long && planted::wanted(debug::NAME, long, tally);
    if wanted.is_empty() && !plants {
        return Ok(Vec::new());
    }
    if !build && !build::has_kernel(context, Some(debug::NAME)) {
        let why = format!(
            "{} tests: the debug kernel is not in the cache; `cargo run -r -- build --kernel debug` builds it (8 to 30 minutes), \
             and so does `test --debug`",
            wanted.len() + usize::from(plants)
        );
        tally.add(GROUP, Duration::ZERO, Outcome::Skipped(why));
        return Ok(Vec::new());
    }
    let mut groups = Vec::new();
    if !wanted.is_empty() {
        let work = move || {
            let together = if long { &[] } else { before_leaks(&wanted) };
            let script = |case: &Case| match together.iter().any(|one| one.name == case.name) {
                true => case.script.to_owned(),
                false => with_leaks(case.script),
            };
            guest::all(asked, &wanted, &roomy(), script)
        };
        groups.push(Group::of_kernel(context, debug::NAME, work)?);
    }
    if plants {
        groups.extend(planted::group(asked)?);
    }
    Ok(groups)
}

/// The names of these tests.
pub fn names(long: bool) -> impl Iterator<Item = String> {
    cases(long).map(|case| name(debug::NAME, case))
}

fn cases(long: bool) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| long || !case.long)
}

/// Whether the command line names these tests, so that the kernel is to be built for them.
pub fn named(filters: &[String]) -> bool {
    let names = |filter: &String| filter.contains("debug::") || filter.starts_with(GROUP);
    filters.iter().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_them() {
        let named = |filter: &str| named(&[filter.to_owned()]);
        assert!(named("guest::debug") && named("debug::matrix"));
        assert!(!super::named(&[]) && !named("matrix") && !named("guest::"));
    }

    #[test]
    fn each_case_is_asked_for_its_leaks() {
        let names = |cases: &[&Case]| {
            before_leaks(cases)
                .iter()
                .map(|c| c.name)
                .collect::<Vec<_>>()
        };
        let all: Vec<&Case> = cases(false).collect();
        let (last, before) = names(&all)
            .split_last()
            .map(|(l, b)| (*l, b.len()))
            .unwrap();
        assert_eq!(last, LEAKS.name);
        // What unloads the modules comes behind.
        assert_eq!(before + 2, all.len());
        assert!(all.last().unwrap().script.contains("emm_xpmem ib_emm"));
        assert!(names(&all[..3]).is_empty(), "each for itself");
    }

    #[test]
    fn a_failed_case_ends_before_the_leaks() {
        let script = with_leaks("set -e; false; true").replace("exec emm-check leaks", "exit 9");
        let run = |script: &str| {
            let output = soft_roce_setup::proc::Cmd::new("sh")
                .args(["-c", script])
                .capture();
            output.unwrap().status.code()
        };
        assert_eq!(run(&script), Some(1));
        assert_eq!(run(&script.replace("false", ":")), Some(9));
    }
}
