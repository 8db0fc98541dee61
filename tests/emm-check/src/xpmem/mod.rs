//! `xpmem`: memory of one process in another by `/dev/xpmem`, and what happens to it.
//!
//! Both sides are processes of their own ([`peer::Peer`]), which do what they are told and may be killed. What they see is compared with
//! what must be there; an access of what must not be there is answered with a signal, which they catch.

mod attached;
mod basic;
mod cases;
mod deaths;
mod fork;
mod input;
mod library;
mod many;
mod mapping;
mod own;
mod peer;
mod permissions;
mod puppet;
mod rights;
mod touch;
mod wire;

use crate::report::Report;

pub use attached::matrix;
pub use cases::Scale;
pub use puppet::serve as child;

/// What is seen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// Segments, permits and attachments as they should be
    Basic,
    /// What attachers do to their mappings
    Mapping,
    /// Reading only: permits and memory
    Rights,
    /// Who may attach what
    Permissions,
    /// Wrong arguments
    Input,
    /// fork, on both sides
    Fork,
    /// kill -9, exit and exec of each side, in each state
    Deaths,
    /// Many attachers, and many attachments
    Many,
    /// The Rust API, and with it the library
    Library,
}

const ALL: [Family; 9] = [
    Family::Basic,
    Family::Mapping,
    Family::Rights,
    Family::Permissions,
    Family::Input,
    Family::Fork,
    Family::Deaths,
    Family::Many,
    Family::Library,
];

/// Runs the named families, or all.
pub fn run(report: &Report, families: &[Family], scale: Scale) {
    let families = if families.is_empty() { &ALL } else { families };
    for family in families {
        match family {
            Family::Basic => basic::run(report),
            Family::Mapping => mapping::run(report),
            Family::Rights => rights::run(report),
            Family::Permissions => permissions::run(report),
            Family::Input => input::run(report),
            Family::Fork => fork::run(report),
            Family::Deaths => deaths::run(report),
            Family::Many => many::run(report, scale),
            Family::Library => library::run(report),
        }
    }
}
