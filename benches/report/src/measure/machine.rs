//! The guests that rows are measured in.

use soft_roce_setup::guest::{Backend, Clock, Cpu, Size, Spec};

/// Memory of the guests: a GiB of a region is resident in one row.
const MEMORY: Size = Size(3 << 30);

/// The guest that a row is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// What drives its clock.
    pub clock: Clock,
    /// Its CPUs.
    pub smp: u32,
    /// Added to its kernel's command line.
    pub append: Option<&'static str>,
}

/// One CPU whose clock counts instructions: costs are repeatable.
pub const INSTRUCTIONS: Machine = Machine {
    clock: Clock::Icount,
    smp: 1,
    append: None,
};
/// Wall clock, for what depends on how CPUs get into each other's way.
pub const TWO_CPUS: Machine = Machine {
    clock: Clock::Wall,
    smp: 2,
    append: None,
};
/// The same with more of them.
pub const FOUR_CPUS: Machine = Machine {
    clock: Clock::Wall,
    smp: 4,
    append: None,
};

impl Machine {
    /// How it is booted.
    pub fn spec(self) -> Spec {
        Spec {
            backend: Backend::Emm,
            clock: self.clock,
            cpu: Cpu::Max,
            smp: self.smp,
            nodes: 1,
            mem: MEMORY,
            shares: Vec::new(),
            disk: None,
            append: self.append.map(str::to_owned),
            terminal: false,
        }
    }

    /// In words: `instruction clock, 1 CPU`.
    pub fn name(self) -> String {
        let clock = match self.clock {
            Clock::Icount => "instruction clock",
            Clock::Wall => "wall clock",
        };
        let plural = if self.smp == 1 { "" } else { "s" };
        let append = self.append.map_or(String::new(), |a| format!(", {a}"));
        format!("{clock}, {} CPU{plural}{append}", self.smp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_in_words() {
        assert_eq!(INSTRUCTIONS.name(), "instruction clock, 1 CPU");
        assert_eq!(TWO_CPUS.name(), "wall clock, 2 CPUs");
    }
}
