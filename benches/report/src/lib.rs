//! What measures: `bench` and `targets` of the set-up tool, and what both share.

pub mod bench;
pub mod measure;
pub mod targets;
