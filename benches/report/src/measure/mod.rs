//! Measuring in guests: what `targets` and `bench` have in common. `emm-bench` measures there, one row at a time, and writes
//! each outcome in a line; here the lines are taken in, and what they come to is computed.

mod facts;
mod machine;
mod output;
pub mod stats;
mod text;

pub use self::facts::{Facts, KINDS, Key, TITLES};
pub use self::machine::{FOUR_CPUS, INSTRUCTIONS, Machine, TWO_CPUS};
pub use self::output::measure;
pub use self::text::{aligned, markdown, number};
