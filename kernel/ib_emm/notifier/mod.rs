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
//  5. the table of hubs (hubs.c), and workqueues under it; the list of hands (hand.c); the VM's list
//     of notifiers; the wait queues of 3 and 4; what folio_mark_dirty() takes
//  6. a cookie's lock (`Cookie::owner` of parked.rs), over that of its owner's workers
//     (`Workers::inner`), over siglock, workqueues and what a driver's `done` takes. With interrupts
//     off; neither is taken under 3, 4 or 5, nor are these taken under it. An access that misses
//     takes these two, and no lock of ib_emm that other owners take
//
// Nothing is allocated under 3 to 6.
//
// Those of rxe (kernel/rxe) are outside of these: `modify_lock`, which sleeps, over a QP's
// `state_lock`, over a task's lock. The latter is also taken in `done`, and so below 6: no lock of a
// task is held over a call of ib_emm.

mod contract;
mod hub;
mod subscription;
mod vm;

pub(crate) use contract::{EmmNotifier, Invalidation, Kind};
pub(crate) use subscription::Subscription;
pub(crate) use vm::exit;
