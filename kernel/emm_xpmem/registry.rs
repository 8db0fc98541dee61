// SPDX-License-Identifier: GPL-2.0

//! All processes that use the device, and all segments.

use crate::{
    grant::ApId,
    limits::{Charge, Limits, What},
    process::Process,
    segment::{SegId, Segment},
};
use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// All of them.
#[pin_data]
pub(crate) struct Registry {
    /// The last identity that was given out. 2^63 are enough.
    last: Atomic<i64>,
    limits: Arc<Limits>,
    #[pin]
    tables: Mutex<Tables>,
}

struct Tables {
    processes: RBTree<usize, Known>,
    segments: RBTree<SegId, Arc<Segment>>,
}

/// A process, and how many of its files are open.
struct Known {
    process: Arc<Process>,
    files: usize,
}

/// A process, as one of its files has it.
pub(crate) struct Opened {
    registry: Arc<Registry>,
    process: Arc<Process>,
}

impl Registry {
    /// An empty one.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let limits = Limits::new()?;
        Arc::pin_init(
            pin_init!(Self {
                last: Atomic::new(0),
                limits,
                tables <- new_mutex!(
                    Tables {
                        processes: RBTree::new(),
                        segments: RBTree::new(),
                    },
                    "emm_xpmem_registry"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// The process whose memory is `mm` opens the device.
    pub(crate) fn open(self: &Arc<Self>, mm: &MmWithUser) -> Result<Opened> {
        let new = Process::new(mm)?;
        let key = new.key();
        let node = RBTreeNode::new(
            key,
            Known {
                process: new.clone(),
                files: 1,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut tables = self.tables.lock();
        let process = match tables.processes.get_mut(&key) {
            Some(known) => {
                known.files += 1;
                known.process.clone()
            }
            None => {
                tables.processes.insert(node);
                new
            }
        };
        Ok(Opened {
            registry: self.clone(),
            process,
        })
    }

    /// An identity that nothing had before.
    fn name(&self) -> i64 {
        self.last.fetch_add(1, Relaxed) + 1
    }

    /// The current user gets one more of these.
    pub(crate) fn charge(&self, what: What) -> Result<Charge> {
        self.limits.charge(what)
    }

    /// The segment that has this one.
    pub(crate) fn segment(&self, id: SegId) -> Option<Arc<Segment>> {
        self.tables.lock().segments.get(&id).cloned()
    }

    /// `segment` of `process` can be found from now on.
    pub(crate) fn publish(&self, process: &Process, segment: Arc<Segment>) -> Result<SegId> {
        let id = self.name();
        let node = RBTreeNode::new(id, segment.clone(), GFP_KERNEL_ACCOUNT)?;
        process.add_segment(id, segment)?;
        self.tables.lock().segments.insert(node);
        Ok(id)
    }

    /// An identity for a grant.
    pub(crate) fn name_grant(&self) -> ApId {
        self.name()
    }

    /// The segment is not found any more.
    pub(crate) fn withdraw(&self, id: SegId) {
        let node = self.tables.lock().segments.remove_node(&id);
        // Not under the lock: the last reference sleeps.
        drop(node);
    }
}

impl Opened {
    /// The process that opened the file.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// All others.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let key = self.process.key();
        let mut tables = self.registry.tables.lock();
        let Some(known) = tables.processes.get_mut(&key) else {
            return;
        };
        known.files -= 1;
        if known.files > 0 {
            return;
        }
        let node = tables.processes.remove_node(&key);
        drop(tables);
        drop(node);
        for (id, segment) in &self.process.close() {
            self.registry.withdraw(*id);
            segment.end();
        }
    }
}
