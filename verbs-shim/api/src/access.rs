// SPDX-License-Identifier: MIT OR Apache-2.0

//! Flags.

use bitflags::bitflags;

bitflags! {
    /// Who may do what to a region (`enum ibv_access_flags`). The HCA may always read for its owner.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Receives and RDMA READs of the owner may write.
        const LOCAL_WRITE = 1;
        /// RDMA WRITEs of a peer may write; needs `LOCAL_WRITE`.
        const REMOTE_WRITE = 1 << 1;
        /// RDMA READs of a peer may read.
        const REMOTE_READ = 1 << 2;
        /// Atomic operations of a peer; needs `LOCAL_WRITE`.
        const REMOTE_ATOMIC = 1 << 3;
        /// Accesses may be reordered.
        const RELAXED_ORDERING = 1 << 20;
    }
}

bitflags! {
    /// What a device can do on demand for reliable connections (`enum ibv_odp_transport_cap_bits`), and in all.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OnDemand: u32 {
        /// Send from such a region
        const SEND = 1;
        /// Receive into it
        const RECV = 1 << 1;
        /// RDMA WRITE
        const WRITE = 1 << 2;
        /// RDMA READ
        const READ = 1 << 3;
        /// Atomic operations
        const ATOMIC = 1 << 4;
        /// Receive by way of a shared receive queue
        const SRQ_RECV = 1 << 5;
        /// Regions over the whole address space; not of one transport.
        const IMPLICIT = 1 << 31;
    }
}

/// Whether pages are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// No page is pinned; the HCA faults them in.
    OnDemand,
    /// All pages are pinned, and count against `RLIMIT_MEMLOCK`.
    Pinned,
}

/// What pages are wanted for, ahead of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// To be read by the HCA
    Read,
    /// To be written by the HCA
    Write,
}
