//! What the fuzzer does, as numbers only: the same seed plans the same.

use crate::ffi;
use crate::mem::{PAGE, Rng};

/// Registrations, and windows, that are kept at once.
pub const SLOTS: usize = 6;
/// Memory that structured addresses lie in.
pub const ARENA: usize = 4 << 20;

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addr {
    /// So far from the arena's start; also before it and behind its end.
    Arena(i64),
    /// As it is.
    Absolute(u64),
}

/// What the VM does to a part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vm {
    Drop,
    ReadOnly,
    Closed,
    Open,
    Touch,
    Renew,
}

/// A pointer of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// Memory for answers.
    Scratch,
    Null,
    /// The kernel's half.
    Kernel,
    /// The last bytes of all.
    Last,
}

/// An attribute of an ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub id: u16,
    pub len: u16,
    pub flags: u16,
    pub extra: u16,
    /// A pointer, or a number.
    pub data: Result<Pointer, u64>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Register {
        slot: usize,
        addr: Addr,
        len: u64,
        /// Another address for the device: so far from its own.
        shift: Option<u64>,
        access: u32,
    },
    Deregister {
        slot: usize,
    },
    Advise {
        slot: usize,
        advice: u32,
        flags: u32,
        /// Address, length, and what the key is changed by.
        list: Vec<(Addr, u32, u32)>,
    },
    Rereg {
        slot: usize,
        flags: u32,
        access: Option<u32>,
        range: Option<(Addr, u64)>,
        other_pd: bool,
    },
    NewWindow {
        window: usize,
        kind: u32,
    },
    Bind {
        window: usize,
        slot: usize,
        addr: Addr,
        len: u64,
        access: u32,
        /// What the key is changed by, for windows of type 2.
        key: u32,
    },
    FreeWindow {
        window: usize,
    },
    Vm {
        what: Vm,
        off: usize,
        len: usize,
    },
    /// A command of uverbs' older interface.
    Command {
        number: u32,
        in_words: u16,
        out_words: u16,
        answer: Pointer,
        words: Vec<u32>,
    },
    /// A call of uverbs' newer interface.
    Ioctl {
        object: u16,
        method: u16,
        attributes: Vec<Attribute>,
    },
    /// The context is closed with all that is in it, and a new one opened.
    Reopen,
}

/// REG_MR, REREG_MR, DEREG_MR, ALLOC_MW, DEALLOC_MW.
const COMMANDS: [u32; 5] = [9, 11, 13, 14, 16];
/// UVERBS_OBJECT_MR and UVERBS_OBJECT_MW.
const OBJECTS: [u16; 2] = [7, 8];
const EDGES: [u64; 22] = [
    0,
    1,
    7,
    8,
    PAGE as u64 - 1,
    PAGE as u64,
    PAGE as u64 + 1,
    0xffff,
    (2 << 20) - 1,
    2 << 20,
    (2 << 20) + 1,
    ARENA as u64,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    (1 << 47) - PAGE as u64,
    1 << 47,
    1 << 62,
    1 << 63,
    u64::MAX - PAGE as u64 + 1,
    u64::MAX,
];

/// Plans steps.
pub struct Plan(Rng);

impl Plan {
    /// What `seed` plans.
    pub fn new(seed: u64) -> Self {
        Self(Rng(seed))
    }

    /// The next step.
    pub fn next(&mut self) -> Action {
        let slot = self.0.below(SLOTS);
        let window = self.0.below(SLOTS);
        match self.0.below(100) {
            0..20 => Action::Register {
                slot,
                addr: self.addr(),
                len: self.len(),
                shift: self.one_in(4).then(|| self.edge()),
                access: self.access(),
            },
            20..28 => Action::Deregister { slot },
            28..46 => Action::Advise {
                slot,
                advice: self.choice(&[0, 1, 2, 3, 255, u32::MAX]),
                flags: self.choice(&[0, 1, 1, 2, u32::MAX]),
                list: (0..self.0.below(5))
                    .map(|_| (self.addr(), self.len() as u32, self.flip()))
                    .collect(),
            },
            46..56 => Action::Rereg {
                slot,
                flags: if self.one_in(4) {
                    self.edge() as u32
                } else {
                    0
                },
                access: self.one_in(2).then(|| self.access()),
                range: self.one_in(4).then(|| (self.addr(), self.len())),
                other_pd: self.one_in(4),
            },
            56..60 => Action::NewWindow {
                window,
                kind: self.choice(&[1, 2, 2]),
            },
            60..70 => Action::Bind {
                window,
                slot,
                addr: self.addr(),
                len: self.len(),
                access: self.access(),
                key: self.flip(),
            },
            70..73 => Action::FreeWindow { window },
            73..83 => self.vm(),
            83..91 => self.command(),
            91..99 => self.ioctl(),
            _ => {
                if self.one_in(4) {
                    Action::Reopen
                } else {
                    Action::Deregister { slot }
                }
            }
        }
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.0.below(n) == 0
    }

    fn choice<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.below(of.len())]
    }

    /// A number at which something changes, or any of any size.
    fn edge(&mut self) -> u64 {
        if self.one_in(4) {
            self.0.bits() >> self.0.below(64)
        } else {
            self.choice(&EDGES)
        }
    }

    /// Mostly in the arena.
    fn addr(&mut self) -> Addr {
        match self.0.below(8) {
            0 => Addr::Absolute(self.edge()),
            1 => Addr::Arena(self.choice(&[-1, -(PAGE as i64), ARENA as i64 - 1, ARENA as i64])),
            2 => Addr::Arena((self.0.below(ARENA / PAGE) * PAGE) as i64),
            _ => Addr::Arena(self.0.below(ARENA) as i64),
        }
    }

    /// Mostly what may fit into the arena.
    fn len(&mut self) -> u64 {
        if self.one_in(4) {
            self.edge()
        } else {
            self.0.length(ARENA) as u64
        }
    }

    fn access(&mut self) -> u32 {
        let all = ffi::IBV_ACCESS_LOCAL_WRITE
            | ffi::IBV_ACCESS_REMOTE_WRITE
            | ffi::IBV_ACCESS_REMOTE_READ
            | ffi::IBV_ACCESS_REMOTE_ATOMIC
            | ffi::IBV_ACCESS_MW_BIND;
        match self.0.below(8) {
            0 => self.0.bits() as u32,
            1 => self.0.bits() as u32 & 0xfff | ffi::IBV_ACCESS_ON_DEMAND,
            2 => all,
            3 => ffi::IBV_ACCESS_ON_DEMAND | ffi::IBV_ACCESS_REMOTE_READ,
            _ => all | ffi::IBV_ACCESS_ON_DEMAND,
        }
    }

    /// What a key is changed by: mostly nothing.
    fn flip(&mut self) -> u32 {
        if self.one_in(4) {
            self.choice(&[1, 0x80, 0x100, 0xffff_ff00, u32::MAX])
        } else {
            0
        }
    }

    fn vm(&mut self) -> Action {
        let pages = ARENA / PAGE;
        let first = self.0.below(pages);
        let count = self.0.length(pages - first);
        Action::Vm {
            what: self.choice(&[
                Vm::Drop,
                Vm::ReadOnly,
                Vm::Closed,
                Vm::Open,
                Vm::Open,
                Vm::Touch,
                Vm::Renew,
            ]),
            off: first * PAGE,
            len: count * PAGE,
        }
    }

    fn pointer(&mut self) -> Pointer {
        self.choice(&[
            Pointer::Scratch,
            Pointer::Scratch,
            Pointer::Scratch,
            Pointer::Null,
            Pointer::Kernel,
            Pointer::Last,
        ])
    }

    fn command(&mut self) -> Action {
        let count = self.0.below(16);
        let words = (0..count)
            .map(|_| {
                if self.one_in(2) {
                    // A handle, perhaps.
                    self.0.below(24) as u32
                } else {
                    self.edge() as u32
                }
            })
            .collect();
        let told = |plan: &mut Self, right: u16| {
            if plan.one_in(4) {
                plan.edge() as u16
            } else {
                right
            }
        };
        Action::Command {
            number: if self.one_in(8) {
                self.edge() as u32
            } else {
                self.choice(&COMMANDS)
            },
            // Header and answer's address are four words.
            in_words: told(self, count as u16 + 4),
            out_words: told(self, 4),
            answer: self.pointer(),
            words,
        }
    }

    fn ioctl(&mut self) -> Action {
        let attributes = (0..self.0.below(10))
            .map(|n| Attribute {
                id: if self.one_in(4) {
                    self.edge() as u16
                } else {
                    n as u16
                },
                len: self.choice(&[0, 4, 4, 8, 8, 16, 64, u16::MAX]),
                flags: self.choice(&[0, 1, 1, 2, u16::MAX]),
                extra: self.choice(&[0, 0, 0, 1, 2, u16::MAX]),
                data: match self.0.below(3) {
                    0 => Ok(self.pointer()),
                    1 => Err(self.0.below(24) as u64),
                    _ => Err(self.choice(&EDGES)),
                },
            })
            .collect();
        Action::Ioctl {
            object: self.choice(&OBJECTS),
            method: self.0.below(8) as u16,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same() {
        let plan = |seed| {
            let mut plan = Plan::new(seed);
            (0..500).map(|_| plan.next()).collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_kind_of_step_is_planned() {
        let mut plan = Plan::new(1);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5000 {
            seen.insert(std::mem::discriminant(&plan.next()));
        }
        assert_eq!(seen.len(), 11);
    }
}
