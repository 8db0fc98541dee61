//! The operations of the matrix, and what each does to the region under test.

/// An operation. The region under test is at either end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verb {
    /// SEND, and the receive at the other end
    Send,
    /// RDMA WRITE
    Write,
    /// RDMA READ
    Read,
    /// Compare and swap of 8 bytes
    CmpSwp,
    /// Fetch and add of 8 bytes
    FetchAdd,
    /// Atomic write of 8 bytes
    AtomicWrite,
    /// FLUSH, to global visibility
    Flush,
    /// `ibv_advise_mr`: prefetch, and prefetch to write
    Prefetch,
    /// Attached memory is read by the CPU
    Load,
    /// Attached memory is written by the CPU
    Store,
    /// Attached memory is changed by atomic instructions
    Atomic,
    /// Attached memory is copied from one place to another
    Copy,
    /// Attached memory is read and written by system calls
    Syscall,
    /// Attached memory, and an HCA in the same pages: the owner has registered them
    BesideMr,
}

/// Those of an HCA, in the order of the table.
pub const ALL: [Verb; 8] = [
    Verb::Send,
    Verb::Write,
    Verb::Read,
    Verb::CmpSwp,
    Verb::FetchAdd,
    Verb::AtomicWrite,
    Verb::Flush,
    Verb::Prefetch,
];

/// Those on memory that another process has attached (`emm-check xpmem`).
pub const ATTACHED: [Verb; 6] = [
    Verb::Load,
    Verb::Store,
    Verb::Atomic,
    Verb::Copy,
    Verb::Syscall,
    Verb::BesideMr,
];

/// What the region is to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// What the requester's element names: the data of a WRITE or SEND, the place of what a READ or an atomic returns; of a
    /// prefetch, the one to read; of what is done to attached memory, reading it.
    Near,
    /// What the peer's key names, or the receive's element; of a prefetch, the one to write; of what is done to attached memory,
    /// writing it.
    Far,
}

impl Verb {
    /// Its name, as in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "SEND/RECV",
            Self::Write => "WRITE",
            Self::Read => "READ",
            Self::CmpSwp => "CMP_SWP",
            Self::FetchAdd => "FETCH_ADD",
            Self::AtomicWrite => "ATOMIC_WRITE",
            Self::Flush => "FLUSH",
            Self::Prefetch => "prefetch",
            Self::Load => "load",
            Self::Store => "store",
            Self::Atomic => "atomic",
            Self::Copy => "copy",
            Self::Syscall => "system call",
            Self::BesideMr => "beside an MR",
        }
    }

    /// What the region can be to it.
    pub fn legs(self) -> &'static [Leg] {
        match self {
            // The value of an atomic write is in the request, and a flush has no data.
            Self::AtomicWrite | Self::Flush => &[Leg::Far],
            Self::Load => &[Leg::Near],
            Self::Store | Self::Atomic | Self::Copy => &[Leg::Far],
            _ => &[Leg::Near, Leg::Far],
        }
    }

    /// Whether it needs memory that can be written.
    pub fn writes(self, leg: Leg) -> bool {
        match self {
            Self::Send | Self::Write | Self::Prefetch | Self::Syscall => leg == Leg::Far,
            Self::Read => leg == Leg::Near,
            Self::CmpSwp | Self::FetchAdd | Self::AtomicWrite => true,
            Self::Store | Self::Atomic | Self::Copy | Self::BesideMr => true,
            Self::Flush | Self::Load => false,
        }
    }

    /// Whether it reads or writes the region's bytes. rxe's FLUSH to global visibility is a memory barrier.
    pub fn touches_memory(self) -> bool {
        self != Self::Flush
    }

    /// The bytes that one operation takes, if it can't take any number.
    pub fn fixed_length(self) -> Option<usize> {
        match self {
            Self::CmpSwp | Self::FetchAdd | Self::AtomicWrite | Self::Atomic => Some(8),
            _ => None,
        }
    }

    /// What the offset must be a multiple of.
    pub fn alignment(self, leg: Leg) -> usize {
        if self.fixed_length().is_some() && leg == Leg::Far {
            8
        } else {
            1
        }
    }

    /// The leg through which it changes the region's bytes, if there is one.
    pub fn changing_leg(self) -> Option<Leg> {
        match self {
            Self::Flush | Self::Prefetch | Self::Load => None,
            Self::Read => Some(Leg::Near),
            _ => Some(Leg::Far),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changing_leg_writes() {
        for verb in ALL.into_iter().chain(ATTACHED) {
            if let Some(leg) = verb.changing_leg() {
                assert!(verb.writes(leg) && verb.legs().contains(&leg), "{verb:?}");
            }
        }
    }
}
