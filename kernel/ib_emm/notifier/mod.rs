// SPDX-License-Identifier: GPL-2.0

//! The EMM notifier: who is told when the VM takes pages away. It knows nothing of RDMA.
//!
//! There is one `Hub` for each address space with subscriptions. It is an `mmu_notifier` (`vm`),
//! and passes each event on to the subscriptions whose range it hits, found in an interval tree
//! (`hub`). All hubs are in a table, where they linger for a while when their last subscription has
//! gone (`hubs.c`). Clients that can refuse a start have a hub of their own, of two notifiers. What is told is in `contract`; who is told, in `subscription`.

// Lock order:
//
//  1. the list of regions (sight.c), held over a region's counts
//  2. locks of the VM (mmap_lock, i_mmap_rwsem, anon_vma, page table lock); a fault holds the
//     mmap_lock for reading over 4, and may give it back under it
//  3. Hub::inner (spinlock), held over `emm_referenced` and over the starts told to a newcomer,
//     not over other callbacks
//  4. what a client locks in its callbacks (`Memory::state` of region.rs, by gate.rs)
//  5. the table of hubs (hubs.c), and workqueues under it; the VM's list of notifiers; the wait
//     queues of 3 and 4; the list of waits (wait.c) and siglock; what folio_mark_dirty()
//     takes
//
// Nothing is allocated under 3, 4 or 5.
//
// Those of rxe (kernel/rxe) are outside of these: `modify_lock`, which sleeps, over a QP's
// `state_lock`, over a task's lock; and `rxe_emm_awaited_lock` over the list of waits.

mod contract;
mod hub;
mod subscription;
mod vm;

pub(crate) use contract::{EmmNotifier, Invalidation, Kind};
pub(crate) use subscription::Subscription;
pub(crate) use vm::exit;
