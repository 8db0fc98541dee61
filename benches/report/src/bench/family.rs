//! The families of benchmarks: which rows belong together, in which guests they are measured, how often.

use crate::measure::{FOUR_CPUS, INSTRUCTIONS, Machine, TWO_CPUS};
use soft_roce_setup::guest::Clock;

/// A row of a family, which is also a subcommand of `emm-bench`.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The guests it is measured in.
    pub machines: &'static [Machine],
    /// Rounds with `--quick`, and without.
    pub rounds: (u32, u32),
    /// It has a guest of its own also in a quick run: what others leave behind there makes a difference, or it leaves much.
    pub alone: bool,
    /// In a full run (pressure) or in a quick one (throughput) it takes nearly as long as all others of its guests together, and is begun
    /// before them: else it would be the last, on one CPU.
    pub long: bool,
}

/// Benchmarks about one question.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The name for `--only`.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What is measured and how it is read.
    pub about: &'static str,
    /// What the column without a region holds, where there is one.
    pub none: &'static str,
    /// What is measured.
    pub rows: &'static [Row],
}

/// A family, and those of its rows that are measured.
pub type Wanted = (&'static Family, Vec<&'static Row>);

const ONE: &[Machine] = &[INSTRUCTIONS];
const TWO: &[Machine] = &[TWO_CPUS];
/// Two nodes to move pages between, by those who ask for it.
const NODES: &[Machine] = &[Machine {
    append: Some("numa=fake=2 numa_balancing=disable"),
    ..INSTRUCTIONS
}];

const fn row(name: &'static str, machines: &'static [Machine], rounds: (u32, u32)) -> Row {
    Row {
        name,
        machines,
        rounds,
        alone: false,
        long: false,
    }
}

const fn alone(row: Row) -> Row {
    Row { alone: true, ..row }
}

const fn long(row: Row) -> Row {
    Row { long: true, ..row }
}

/// All families.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "registration",
        title: "Registration and deregistration",
        about: "One ibv_reg_mr and one ibv_dereg_mr against the length, and what each costs among many. Pinning touches and \
                pins every page, in-tree ODP sizes its arrays for every page; an EMM region notes a range.",
        none: "",
        rows: &[
            row("registration", ONE, (2, 5)),
            row("alone", ONE, (2, 3)),
            row("many", ONE, (2, 3)),
        ],
    },
    Family {
        name: "throughput",
        title: "Throughput and latency of hot memory",
        about: "Every page is resident and translated. Throughput is of bursts of up to 1 MiB or 64 operations, 16 in flight, \
                latency of one operation, each from rest; a round is the mean of many. MTU 4096. The row perftest has ib_write_bw and ib_read_bw of perftest, unmodified, and our own numbers with the same parameters.",
        none: "memcpy of the same bytes by the CPU",
        rows: &[
            long(row("throughput", ONE, (4, 6))),
            row("latency", ONE, (5, 6)),
            row("perftest", ONE, (2, 4)),
        ],
    },
    Family {
        name: "cold",
        title: "Cold paths",
        about: "The first access to memory that is not there, or there but not translated. The row patterns READs each page once, \
                one after the other; prefetching takes the time that its own line says. Pinned regions have brought everything in when \
                they were registered.",
        none: "the CPU touches the same pages",
        rows: &[
            row("cold", ONE, (2, 6)),
            row("faults", ONE, (2, 2)),
            row("patterns", ONE, (2, 4)),
        ],
    },
    Family {
        name: "invalidation",
        title: "Invalidation",
        about: "The VM takes translated memory away, or protects it; a munmap that no region is concerned with; and traffic while \
                another thread gives its pages back, ever faster (wall clock). A pinned region goes on with the pages that it had: what \
                is written there the process does not see.",
        none: "the same system call without an MR, after as much traffic",
        rows: &[
            row("invalidation", ONE, (2, 4)),
            row("munmap", ONE, (2, 3)),
            row("events", NODES, (2, 4)),
            row("storm", TWO, (2, 4)),
        ],
    },
    Family {
        name: "memory",
        title: "Kernel memory",
        about: "What the kernel keeps for a region, and what its owner is charged.",
        none: "the same memory without a region",
        rows: &[alone(row("table", ONE, (1, 2))), row("owner", ONE, (2, 2))],
    },
    Family {
        name: "pressure",
        title: "Memory pressure",
        about: "Memory cgroups smaller than what is used, with zram swap.",
        none: "in the row pressure, the CPU reads the same memory",
        rows: &[
            long(alone(row("pressure", ONE, (1, 2)))),
            alone(row("overcommit", ONE, (1, 2))),
            alone(row("oom", ONE, (1, 2))),
        ],
    },
    Family {
        name: "scaling",
        title: "Scaling with queue pairs and CPUs",
        about: "Several queue pairs at once, each with a thread. Wall clock: what the host does meanwhile moves the rates, and all of a \
                turn alike. So the kinds take turns, and the ratios to the pinned rate of the same turn are what counts.",
        none: "",
        rows: &[
            row("sharing", &[TWO_CPUS, FOUR_CPUS], (4, 6)),
            row("qps", TWO, (2, 4)),
        ],
    },
    Family {
        name: "application",
        title: "Applications",
        about: "Unmodified programs, pinned as they ask for, or unpinned by the preload library (not on in-tree ODP, where UCX hangs \
                and bytes are wrong); and a key-value table that is bigger than its owner's memory, fetched by RDMA READ. Wall clock.",
        none: "",
        rows: &[row("apps", TWO, (2, 4))],
    },
];

/// The name of the clock, as in options and JSON.
pub fn clock_name(clock: Clock) -> &'static str {
    match clock {
        Clock::Icount => "icount",
        Clock::Wall => "wall",
    }
}

impl Family {
    /// The rows that `only` names, by themselves or with the family; all if it names none.
    pub fn wanted(&self, only: &[String]) -> impl Iterator<Item = &'static Row> {
        let named = |name: &str| only.iter().any(|one| one == name);
        let all = only.is_empty() || named(self.name);
        let rows: Vec<&'static Row> = self
            .rows
            .iter()
            .filter(|row| all || named(row.name))
            .collect();
        rows.into_iter()
    }
}

impl Row {
    /// The guests it is measured in if all are to have the clock `forced`. On the instruction clock there is one CPU.
    pub fn machines(&self, forced: Option<Clock>) -> Vec<Machine> {
        let mut machines: Vec<Machine> = Vec::new();
        for machine in self.machines {
            let machine = match forced {
                Some(Clock::Icount) => Machine {
                    append: machine.append,
                    ..INSTRUCTIONS
                },
                Some(Clock::Wall) if machine.smp == 1 => Machine {
                    append: machine.append,
                    ..TWO_CPUS
                },
                _ => *machine,
            };
            if !machines.contains(&machine) {
                machines.push(machine);
            }
        }
        machines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::rows::ROWS;

    #[test]
    fn every_target_is_in_one_family() {
        for target in ROWS {
            let rows: Vec<&Row> = FAMILIES
                .iter()
                .flat_map(|family| family.rows)
                .filter(|row| row.name == target.name)
                .collect();
            assert_eq!(rows.len(), 1, "{}", target.name);
            assert_eq!(rows[0].machines, target.machines, "{}", target.name);
        }
    }

    #[test]
    fn a_clock_can_be_forced() {
        let sharing = row("sharing", &[TWO_CPUS, FOUR_CPUS], (2, 6));
        assert_eq!(sharing.machines(Some(Clock::Icount)), [INSTRUCTIONS]);
        assert_eq!(sharing.machines(None), [TWO_CPUS, FOUR_CPUS]);
        let cold = row("cold", ONE, (2, 6));
        assert_eq!(cold.machines(Some(Clock::Wall)), [TWO_CPUS]);
    }
}
