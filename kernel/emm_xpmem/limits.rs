// SPDX-License-Identifier: GPL-2.0

//! How much of each kind one user may have: what it takes of the kernel is charged to his memory
//! cgroup, if he has one, and bounded here if he has not. Attachments are bounded as mappings are
//! (`vm.max_map_count`).

use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{Arc, Mutex},
    task::Kuid,
};

/// Segments of one user.
const SEGMENTS: usize = 1 << 14;
/// Grants of one user: 256 processes that each have one of each other one are 2^16.
const GRANTS: usize = 1 << 18;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Segments.
    Segment,
    /// Grants.
    Grant,
}

/// What one user has.
#[derive(Default)]
struct Counts {
    segments: usize,
    grants: usize,
}

impl Counts {
    fn of(&mut self, what: What) -> (&mut usize, usize) {
        match what {
            What::Segment => (&mut self.segments, SEGMENTS),
            What::Grant => (&mut self.grants, GRANTS),
        }
    }
}

/// All users who have something.
#[pin_data]
pub(crate) struct Limits {
    #[pin]
    users: Mutex<RBTree<u32, Counts>>,
}

/// One of them more, until it is dropped.
///
/// # Invariants
///
/// It is counted in `limits`, for `user`.
pub(crate) struct Charge {
    limits: Arc<Limits>,
    user: u32,
    what: What,
}

impl Limits {
    /// Nobody has anything.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                users <- new_mutex!(RBTree::new(), "emm_xpmem_limits"),
            }),
            GFP_KERNEL,
        )
    }

    /// The current user wants one more.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if he has as many as he may have; `ENOMEM`.
    pub(crate) fn charge(self: &Arc<Self>, what: What) -> Result<Charge> {
        let user = Kuid::current_euid().into_raw().val;
        let node = RBTreeNode::new(user, Counts::default(), GFP_KERNEL)?;
        let mut users = self.users.lock();
        if users.get(&user).is_none() {
            users.insert(node);
        }
        let (count, most) = users.get_mut(&user).ok_or(ENOMEM)?.of(what);
        if *count >= most {
            return Err(ENOSPC);
        }
        *count += 1;
        drop(users);
        // INVARIANT: it was counted above.
        Ok(Charge {
            limits: self.clone(),
            user,
            what,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut users = self.limits.users.lock();
        let Some(counts) = users.get_mut(&self.user) else {
            return;
        };
        *counts.of(self.what).0 -= 1;
        if counts.segments == 0 && counts.grants == 0 {
            let node = users.remove_node(&self.user);
            drop(users);
            drop(node);
        }
    }
}
