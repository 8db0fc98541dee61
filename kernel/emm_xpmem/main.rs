// SPDX-License-Identifier: GPL-2.0

//! XPMEM: a process attaches memory of another one, and nothing is pinned.
//!
//! - `device`: `/dev/xpmem`, and what its ioctls take and give.
//! - `process`: what a process has made and got: segments that it shares, grants on those of others.
//! - `registry`: all processes and segments.
//! - `grant`: the permission to attach a segment.
//! - `limits`: how much one user may have.
//! - `segment`: memory that is shared, by a region of ib_emm (`include/emm_frames.h`).
//! - `glue`: what of this is C, and what C sees of it, by bindgen. `segment.c`: what the owner's VM takes
//!   away is taken out of all attachments. `attach.c`: mappings. `fault.c`: what is touched is entered in
//!   an attacher's page table. `young.c`: what these say of a page's use. `permit.c`: who may.
//!
//! What a file uses lies below it.
//!
//! # Locks
//!
//! 1. the registry's
//! 2. a process's; that of the limits
//!
//! Nothing below is taken under these.
//!
//! 3. the mmap_lock, or a mapping's own, of an attacher or of an owner: never two at once. A fault gives
//!    the attacher's back before the owner's VM is asked
//!    In a fault, under it, one that says whether a page table has small entries or is a huge one
//!    (`fault.c`)
//! 4. what ib_emm takes for an invalidation of an owner
//! 5. the i_mmap_rwsem of a segment's inode. Under it the VM begins an invalidation of an attacher, which
//!    of this module does nothing (`segment.c`)
//! 6. the lock of an attacher's page table
//! 7. a region's gate, which ib_emm takes while a frame is entered; its hub's lock, when the VM asks for a
//!    page's use
//! 8. under the latter 5 and 6 are tried, not waited for (`young.c`)
//!
//! Nothing is allocated under 4 to 8 but page tables under 3.

use kernel::prelude::*;

#[macro_use]
#[path = "../ib_emm/declared.rs"]
mod declared;

mod device;
mod glue;
mod grant;
mod limits;
mod process;
mod registry;
mod segment;

module! {
    type: EmmXpmem,
    name: "emm_xpmem",
    authors: ["The IB-EMM developers"],
    description: "XPMEM without page pinning (EMM notifier)",
    license: "GPL",
}

struct EmmXpmem {
    // Goes first: from then on nobody comes.
    _device: Pin<KBox<device::Device>>,
    _files: segment::Files,
}

impl kernel::Module for EmmXpmem {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let files = segment::Files::new()?;
        Ok(Self {
            _device: KBox::pin_init(device::Device::new(), GFP_KERNEL)?,
            _files: files,
        })
    }
}
