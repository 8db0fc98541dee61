// SPDX-License-Identifier: GPL-2.0

//! RDMA memory regions without page pinning.
//!
//! - `notifier`: the EMM notifier. The VM tells a subscriber before and after it takes pages away.
//! - `region`: memory regions on it, with a sparse translation table that faults fill.
//! - `access`: what drivers do with a region: copies, and advice to fault in.
//! - `driver`, `frames`: drivers with tables of their own, which fill these from a region.
//! - `abi`, `abi_notifier`, `abi_frames`: all of it, for drivers in C (`include/emm_region.h`, `emm.h`,
//!   `emm_frames.h`).
//! - `emm`: the decisions, shared with the host tests (`ib-emm/src/emm`).
//! - `parked`: cookies, which drivers' accesses are parked in when they miss.
//! - `workers`, `serve`: each owner's threads, which do the faults for what is parked.
//! - `fault`: one fault, from the missing translation to the entry in the table.
//! - `ask`: how the VM is asked for pages.
//! - `owner`: whose memory it is that a fault brings in.
//! - `sleep`: accesses of drivers that have no cookie for them: their thread waits.
//! - `gate`, `lock`, `mem`: the core's environment: locks, memory, page frames.
//! - `glue`: what of this is C, and what C sees of it, by bindgen.
//! - `sight`: trace events and debugfs.
//!
//! What a file uses lies below it: `abi_frames`; `abi`, `abi_notifier`; `frames`, `serve`; `access`;
//! `fault`; `region`; `driver`, `sleep`; `notifier`, `parked`; `workers`; `ask`; `gate`, `lock`, `mem`,
//! `owner`, `sight`; `emm` and `glue`. No two of them use each other.

use kernel::prelude::*;

#[macro_use]
mod declared;

mod abi;
mod abi_frames;
mod abi_notifier;
mod access;
mod ask;
mod driver;
#[path = "../../ib-emm/src/emm/mod.rs"]
#[expect(dead_code, unused_imports, unreachable_pub, reason = "a crate by itself, whose tests use more of it")]
mod emm;
mod fault;
mod frames;
mod gate;
mod glue;
mod lock;
mod mem;
mod notifier;
mod owner;
mod parked;
mod region;
mod serve;
mod sight;
mod sleep;
mod workers;

module! {
    type: IbEmm,
    name: "ib_emm",
    authors: ["The IB-EMM developers"],
    description: "RDMA memory regions without page pinning (EMM notifier)",
    license: "GPL",
}

struct IbEmm {
    _folder: sight::Folder,
    // Goes almost last: workers use all of the module.
    _crews: workers::Crews,
    // Workers leave them behind.
    _hands: owner::Hands,
}

impl kernel::Module for IbEmm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _crews: workers::Crews::new()?,
            _hands: owner::Hands::new(),
            _folder: sight::Folder::new(),
        })
    }
}

impl Drop for IbEmm {
    fn drop(&mut self) {
        // Hubs are freed by callbacks into this module.
        notifier::exit();
    }
}
