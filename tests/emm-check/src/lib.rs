//! What guest programs that talk verbs share: the device, regions, queue pairs, mapped memory, and the guest around them.
//! `emm-check` and `emm-bench` are built on it.

pub mod child;
pub mod counters;
pub mod cpu;
pub mod cq;
pub mod error;
pub mod ffi;
mod hang;
pub mod kmsg;
pub mod mem;
pub mod nbd;
pub mod pmem;
pub mod private;
pub mod qp;
pub mod stacks;
pub mod swap;
pub mod system;
pub mod trace;
pub mod ucx;
pub mod verbs;
