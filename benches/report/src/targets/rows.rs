//! The targets: what is measured where, and what it must reach.

use super::judge::Bound::{
    AtLeast, AtLeastTimes, AtMostTimes, AtMostTimesCase, EachAtLeast, EachAtMost, WithinSpread,
};
use super::judge::Check;
use crate::measure::{FOUR_CPUS, INSTRUCTIONS, Machine, TWO_CPUS};

/// A case that is known to miss its target. It is shown as missed; and it must not get worse than this.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The case's whole name.
    pub case: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// At most so many times what in-tree ODP needs.
    pub times: f64,
    /// Why it is missed.
    pub why: &'static str,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The name, which is also the subcommand of `emm-bench`.
    pub name: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// What must be reached.
    pub reach: &'static str,
    /// The guests, one after the other.
    pub machines: &'static [Machine],
    /// How often the kinds take turns: less often where a round takes minutes.
    pub rounds: u32,
    /// What the cases are held against.
    pub checks: &'static [Check],
    /// Which of them are known to miss it.
    pub known: &'static [Known],
}

/// Repeated runs on the instruction clock agree within this: what is closer is equal.
const NOISE: f64 = 0.01;

/// What the hot rows measure beside WRITE and READ of 64 B to 1 MiB.
const NOT_ASKED: &[&str] = &["SEND", "FETCH_ADD", "CMP_SWP", " 2 B", " 4 MiB"];

/// All rows.
pub const ROWS: &[Row] = &[
    Row {
        name: "registration",
        what: "registration, 4 KiB to 1 TiB and implicit, resident or not",
        reach: "flat: each within 1.2 × in-tree ODP's 4 KiB registration",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new(
            "",
            "µs",
            AtMostTimesCase(1.2, "odp", "4 KiB, untouched"),
        )],
        known: &[],
    },
    Row {
        name: "alone",
        what: "one 4 KiB region comes and goes, no other one there, beside 0, 1,000 and 10,000 other mappings",
        reach: "at most 1.2 × in-tree ODP, the process's first no more than in-tree ODP's; munmap long after: at most 1.02 × none",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[
            Check::new("a region comes and goes", "µs", AtMostTimes(1.2, "odp")),
            Check::new("first region", "µs", AtMostTimes(1.0 + NOISE, "odp")),
            Check::new("munmap", "µs", AtMostTimes(1.02, "none")),
        ],
        known: &[
            Known {
                case: "the process's first region comes and goes, 0 other mappings",
                unit: "µs",
                times: 1.07,
                why: "7 µs of 130: the hub's own memory, which in-tree ODP has none of",
            },
            Known {
                case: "the process's first region comes and goes, 1000 other mappings",
                unit: "µs",
                times: 1.03,
                why: "the same 7 µs, of 850",
            },
            Known {
                case: "munmap of a page, long after, 0 other mappings",
                unit: "µs",
                times: 1.0,
                why: "0.11 µs of 5.0: the VM looks through its empty list of notifiers, once a process had one; nothing of ours is left",
            },
            Known {
                case: "munmap of a page, long after, 1000 other mappings",
                unit: "µs",
                times: 1.0,
                why: "the same",
            },
            Known {
                case: "munmap of a page, long after, 10000 other mappings",
                unit: "µs",
                times: 1.0,
                why: "the same",
            },
        ],
    },
    Row {
        name: "table",
        what: "table memory",
        reach: "at most 4 KiB per untouched GiB; 2.1 MiB per resident GiB of 4 KiB pages; 64 KiB per GiB of THP; \
                all of it back after MADV_DONTNEED",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[
            Check::new("64 GiB, reserved", "KiB a GiB", EachAtMost(4.0)),
            Check::new("of 4 KiB pages", "KiB a GiB", EachAtMost(2.1 * 1024.0)),
            Check::new("of THP", "KiB a GiB", EachAtMost(64.0)),
            Check::new("", "KiB left after MADV_DONTNEED", EachAtMost(0.0)),
        ],
        known: &[],
    },
    Row {
        name: "throughput",
        what: "hot WRITE and READ, 64 B to 1 MiB, 1 QP",
        reach: "at least 0.98 of pinned throughput, and not below in-tree ODP (by more than the clock's noise, 1 %)",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[
            Check::new("", "MiB/s", AtLeastTimes(0.98, "pinned")).except(NOT_ASKED),
            Check::new("", "MiB/s", AtLeastTimes(1.0 - NOISE, "odp")).except(NOT_ASKED),
        ],
        known: &[],
    },
    Row {
        name: "latency",
        what: "hot 8-byte WRITE and READ latency",
        reach: "not above pinned by more than the noise: what its own rounds lie apart",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new(" 8 B", "µs", WithinSpread("pinned")).except(NOT_ASKED)],
        known: &[],
    },
    Row {
        name: "cold",
        what: "cold 4 MiB WRITE to untouched 4 KiB pages, MTU 4096: time added over the same WRITE hot",
        reach: "at most 1.03 × the CPU's own first touch of as many pages, in the same run",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new(
            "untouched",
            "ms added",
            AtMostTimes(1.03, "none"),
        )],
        known: &[],
    },
    Row {
        name: "faults",
        what: "VM fault calls for one cold 4 MiB message, sequential; and for 10^4 random 4 KiB reads of a cold GiB",
        reach: "at most 4; at most one each, with at most 25 % more pages brought in than asked for",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[
            Check::new("one cold 4 MiB WRITE", "fault calls", EachAtMost(4.0)),
            Check::new("", "fault calls a READ", EachAtMost(1.0)),
            // What counts none doesn't count.
            Check::new("one cold 4 MiB WRITE", "fault calls", EachAtLeast(1.0)),
            Check::new("", "fault calls a READ", EachAtLeast(0.5)),
            Check::new("", "pages in, of those asked for", EachAtMost(1.25)),
        ],
        known: &[],
    },
    Row {
        name: "invalidation",
        what: "MADV_DONTNEED of 256 MiB resident and fully translated",
        reach: "at most 1.10 × the same without any MR",
        machines: &[INSTRUCTIONS],
        rounds: 3,
        checks: &[Check::new("", "ms", AtMostTimes(1.10, "none"))],
        known: &[],
    },
    Row {
        name: "munmap",
        what: "unrelated munmap with 10^5 regions",
        reach: "at most 1.1 × with none",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new("", "µs", AtMostTimes(1.1, "none"))],
        known: &[],
    },
    Row {
        name: "many",
        what: "register/deregister of 10^5 regions of 4 KiB",
        reach: "each at most 1.1 × in-tree ODP",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        // Among ten, what the first one of an address space costs is nearly all.
        checks: &[Check::new("", "µs", AtMostTimes(1.1, "odp")).except(&["of 10 of"])],
        known: &[],
    },
    Row {
        name: "sharing",
        what: "8 QPs on one shared MR, 2 and 4 CPUs, wall clock, interleaved",
        reach: "at least 0.95 of pinned, and above in-tree ODP",
        machines: &[TWO_CPUS, FOUR_CPUS],
        rounds: 5,
        checks: &[
            Check::new("", "of pinned", AtLeast(0.95)),
            Check::new("", "of pinned", AtLeastTimes(1.0, "odp")),
        ],
        known: &[],
    },
    Row {
        name: "pressure",
        what: "memory pressure: memory read only by RDMA, twice per scan of other memory, in a memory cgroup with zram swap",
        reach: "at least 90 % of it resident and at most 1.08 × pinned's time, with MGLRU and with the classic LRU",
        machines: &[INSTRUCTIONS],
        rounds: 2,
        checks: &[
            Check::new("", "% resident", EachAtLeast(90.0)),
            Check::new("", "s", AtMostTimes(1.08, "pinned")),
        ],
        known: &[],
    },
    Row {
        name: "overcommit",
        what: "MR of 4 × the memory limit, written and read back whole by RDMA through zram swap",
        reach: "every byte right",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new("", "wrong bytes", EachAtMost(0.0))],
        known: &[],
    },
    Row {
        name: "oom",
        what: "OOM reaper on a process with regions",
        reach: "reaps their memory: at most 4 of 64 MiB stay charged while the process can't exit",
        machines: &[INSTRUCTIONS],
        rounds: 5,
        checks: &[Check::new(
            "",
            "MiB charged after the reaper",
            EachAtMost(4.0),
        )],
        known: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Key;

    #[test]
    fn what_a_target_does_not_name_is_not_held_against_it() {
        let concerned = |row: &'static str, case, unit| {
            let checks = ROWS.iter().find(|r| r.name == row).unwrap().checks;
            checks.iter().any(|c| c.concerns(Key { row, case, unit }))
        };
        assert!(concerned("latency", "READ 8 B", "µs"));
        assert!(!concerned("latency", "READ 4 KiB", "µs"));
        assert!(!concerned("latency", "CMP_SWP 8 B", "µs"));
        assert!(concerned("throughput", "WRITE 64 B", "MiB/s"));
        assert!(!concerned("throughput", "SEND 64 B", "MiB/s"));
        assert!(!concerned("throughput", "WRITE 2 B", "MiB/s"));
    }

    #[test]
    fn names_are_unique() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.name != row.name));
            assert!(!row.checks.is_empty(), "{}", row.name);
        }
    }
}
