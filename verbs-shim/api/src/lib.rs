// SPDX-License-Identifier: MIT OR Apache-2.0

//! Registers memory for RDMA without pinning it.
//!
//! ```no_run
//! use unpinned::{Access, Context, Paging};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let domain = Context::open("rxe0")?.alloc_domain()?;
//! let region = domain.register(vec![0; 1 << 20], Access::LOCAL_WRITE, Paging::OnDemand)?;
//! region.write_at(0, b"hello");
//! let memory = region.deregister()?;
//! # Ok(()) }
//! ```
//!
//! # What the types promise
//!
//! The HCA writes to registered memory behind the compiler's back. So no reference to it exists while it
//! is registered: [`Region::read_at`] and [`Region::write_at`] copy, and the memory itself comes back with
//! [`Region::deregister`].
//!
//! Memory that the caller owns goes into the region. If the region is forgotten, the memory is too:
//!
//! ```no_run
//! # fn f(domain: unpinned::Domain) -> Result<(), Box<dyn std::error::Error>> {
//! use unpinned::{Access, Paging};
//! let memory = vec![0; 4096];
//! let region = domain.register(memory, Access::LOCAL_WRITE, Paging::OnDemand)?;
//! println!("{}", region.deregister()?[0]);
//! # Ok(()) }
//! ```
//!
//! ```compile_fail,E0382
//! # fn f(domain: unpinned::Domain) -> Result<(), Box<dyn std::error::Error>> {
//! use unpinned::{Access, Paging};
//! let memory = vec![0; 4096];
//! let region = domain.register(memory, Access::LOCAL_WRITE, Paging::OnDemand)?;
//! println!("{}", memory[0]); // the HCA may be writing to it
//! # Ok(()) }
//! ```
//!
//! Memory that is borrowed is registered for the time of a closure. A guard could be forgotten, and the HCA
//! would write to memory whose borrow is over; the closure gets a reference only:
//!
//! ```no_run
//! # fn f(domain: unpinned::Domain, memory: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use unpinned::{Access, Paging};
//! let length = domain.with_borrowed(memory, Access::LOCAL_WRITE, Paging::OnDemand, |region| region.len())?;
//! # Ok(()) }
//! ```
//!
//! ```compile_fail,E0507
//! # fn f(domain: unpinned::Domain, memory: &mut [u8]) {
//! use unpinned::{Access, Paging};
//! let _ = domain.with_borrowed(memory, Access::LOCAL_WRITE, Paging::OnDemand, |region| {
//!     std::mem::forget(*region);
//! });
//! # }
//! ```
//!
//! ```compile_fail
//! # fn f(domain: unpinned::Domain, memory: &mut [u8]) {
//! use unpinned::{Access, Paging};
//! // The region can't leave the closure,
//! let kept = domain.with_borrowed(memory, Access::LOCAL_WRITE, Paging::OnDemand, |region| region);
//! # }
//! ```
//!
//! ```compile_fail,E0499
//! # fn f(domain: unpinned::Domain, memory: &mut [u8]) {
//! use unpinned::{Access, Paging};
//! // nor can the memory be touched in it.
//! let _ = domain.with_borrowed(memory, Access::LOCAL_WRITE, Paging::OnDemand, |_| memory[0] = 1);
//! # }
//! ```
//!
//! A region that has ended is not used any more:
//!
//! ```compile_fail,E0382
//! # fn f(region: unpinned::Region<Vec<u8>>) {
//! let memory = region.deregister();
//! region.write_at(0, b"x");
//! # }
//! ```
//!
//! On-demand paging that is known to write beside a region (that of in-tree rxe) is refused:
//! [`RegisterError::Corrupting`].
//!
//! Posting is safe: a request names a [`Region`] and a range in it, and the HCA refuses a request whose
//! region has ended by the time it is done. (Not so for [`Paging::Pinned`] in a program that is started by
//! `verbs-shim run --audit --implicit`: there one region of the whole address space serves in its place, and ends later.)
//!
//! # Beside a crate with bindings
//!
//! [`Domain::from_raw`] takes the protection domain of another crate, and `as_raw` gives each object back to it: regions of this crate serve
//! its queue pairs. This crate does not depend on one. `ibverbs` builds its own rdma-core, which takes cmake and a minute; others
//! take libclang. What is needed here is some thirty functions, checked against the header by the project's tests. They are looked
//! up at run time, so that a program starts where libibverbs is missing and can say so.

/// Its examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod access;
mod channel;
mod copy;
mod device;
mod error;
#[cfg(test)]
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "it stands for C: who calls a function keeps its contract, for all that it reads"
)]
mod fake;
mod ffi;
mod memory;
mod queue;
mod region;
#[cfg(test)]
mod tests;

use verbs_abi::{known, layout as abi};

pub use access::{Access, OnDemand, Paging, Prefetch};
pub use channel::Channel;
pub use device::{Context, Domain};
pub use error::{
    AdviseError, AllocError, ChannelError, ConnectError, DeregisterError, OpenError, PostError,
    QueueError, Refused, RegisterError,
};
pub use memory::{Borrowed, Memory};
pub use queue::{Completion, Endpoint, QueuePair};
pub use region::{Region, Remote};
