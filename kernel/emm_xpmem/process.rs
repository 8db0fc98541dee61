// SPDX-License-Identifier: GPL-2.0

//! What a process has made and got.

use crate::{
    grant::{ApId, Grant},
    segment::{SegId, Segment},
};
use kernel::{
    mm::{Mm, MmWithUser},
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{aref::ARef, Arc, Mutex},
};

/// A process that opened the device: an address space, whichever thread of it comes by whichever of
/// its files.
#[pin_data]
pub(crate) struct Process {
    mm: ARef<Mm>,
    #[pin]
    owned: Mutex<Owned>,
}

struct Owned {
    segments: RBTree<SegId, Arc<Segment>>,
    grants: RBTree<ApId, Arc<Grant>>,
    /// No file of it is open any more.
    closed: bool,
}

impl Process {
    /// The process whose memory is `mm`.
    pub(crate) fn new(mm: &MmWithUser) -> Result<Arc<Self>> {
        let mm = ARef::from(&**mm);
        Arc::pin_init(
            pin_init!(Self {
                mm,
                owned <- new_mutex!(
                    Owned {
                        segments: RBTree::new(),
                        grants: RBTree::new(),
                        closed: false,
                    },
                    "emm_xpmem_process"
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// What names it, while it lives.
    pub(crate) fn key(&self) -> usize {
        self.mm.as_raw().addr()
    }

    /// Whether `mm` is its memory.
    pub(crate) fn is(&self, mm: &Mm) -> bool {
        core::ptr::eq(&*self.mm, mm)
    }

    /// Whether it is the current one.
    pub(crate) fn is_current(&self) -> bool {
        current!().mm().is_some_and(|mm| self.is(mm))
    }

    /// It has made `segment`.
    pub(crate) fn add_segment(&self, id: SegId, segment: Arc<Segment>) -> Result {
        let node = RBTreeNode::new(id, segment, GFP_KERNEL_ACCOUNT)?;
        let mut owned = self.owned.lock();
        if owned.closed {
            return Err(EBADF);
        }
        owned.segments.insert(node);
        Ok(())
    }

    /// It has got `grant`.
    pub(crate) fn add_grant(&self, id: ApId, grant: Arc<Grant>) -> Result {
        let node = RBTreeNode::new(id, grant, GFP_KERNEL_ACCOUNT)?;
        let mut owned = self.owned.lock();
        if owned.closed {
            return Err(EBADF);
        }
        owned.grants.insert(node);
        Ok(())
    }

    /// The grant that it knows by `id`.
    pub(crate) fn grant(&self, id: ApId) -> Option<Arc<Grant>> {
        self.owned.lock().grants.get(&id).cloned()
    }

    /// Takes a segment out.
    pub(crate) fn take_segment(&self, id: SegId) -> Option<Arc<Segment>> {
        let node = self.owned.lock().segments.remove_node(&id);
        node.map(|node| node.to_key_value().1)
    }

    /// Takes a grant out.
    pub(crate) fn take_grant(&self, id: ApId) -> Option<Arc<Grant>> {
        let node = self.owned.lock().grants.remove_node(&id);
        node.map(|node| node.to_key_value().1)
    }

    /// The last file of it is closed. Its grants are released. Sleeps.
    ///
    /// # Returns
    ///
    /// The segments that it had.
    pub(crate) fn close(&self) -> RBTree<SegId, Arc<Segment>> {
        let mut owned = self.owned.lock();
        owned.closed = true;
        let grants = core::mem::replace(&mut owned.grants, RBTree::new());
        let segments = core::mem::replace(&mut owned.segments, RBTree::new());
        drop(owned);
        let here = self.is_current();
        for grant in grants.values() {
            grant.release(here);
        }
        segments
    }
}
