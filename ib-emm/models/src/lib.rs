// SPDX-License-Identifier: MIT OR Apache-2.0

//! Node memory that counts, and can run dry; and the models that the core is compared with, by its tests, its benchmarks and its
//! fuzz targets.

pub mod bytes;
mod gate;
pub mod hold;
pub mod nodes;
pub mod range;
pub mod region;
pub mod table;

pub use gate::HostGate;
pub use nodes::HostNodes;
