// SPDX-License-Identifier: GPL-2.0

//! What a region gives to drivers with tables of their own, and takes from them: frames, and marks.

use crate::{
    access::Span,
    emm::{Entry, PageRange, PART_PAGES},
    parked::Cookie,
    region::{Region, State},
};
use kernel::prelude::*;

/// A frame, and in how large a translation.
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) order: u32,
}

impl Region {
    /// Calls `each` with the frame at `offset`, under the gate, faulted in for this access if it is
    /// missing. With a cookie it never sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if an invalidation of the page begins: the translation stands still, but nothing new
    /// may be made of it. Else those of an access, and of `each`.
    pub(crate) fn frame(
        &self,
        offset: u64,
        write: bool,
        cookie: Option<&Cookie>,
        each: impl FnOnce(Found) -> Result,
    ) -> Result {
        let span = Span {
            offset,
            length: 1,
            reach: 1,
            write,
        };
        let mut each = Some(each);
        let mut result = Err(EBUSY);
        let page = self
            .geometry()
            .holds(offset, 1)
            .then(|| self.geometry().locate(offset).0);
        self.apply_entries(span, cookie, |state, entry| {
            let Some(page) = page else { return };
            if state.is_held(&PageRange::one(page)) {
                return;
            }
            if let Some(each) = each.take() {
                result = each(found(state, page, entry));
            }
        })?;
        result
    }

    /// The same of what is translated already, without a fault and without a wait: for drivers that
    /// hold locks of the VM.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it is not, or not for this access, or an invalidation of it begins; `EINVAL`. Else
    /// those of `each`.
    pub(crate) fn frame_at_hand(
        &self,
        offset: u64,
        write: bool,
        each: impl FnOnce(Found) -> Result,
    ) -> Result {
        if !self.geometry().holds(offset, 1) {
            return Err(EINVAL);
        }
        let page = self.geometry().locate(offset).0;
        let state = self.state().read();
        if state.is_held(&PageRange::one(page)) {
            return Err(EAGAIN);
        }
        let entry = state.access(page, write).ok_or(EAGAIN)?;
        each(found(&state, page, entry))
    }

    /// The same to be read, and of a page that nobody uses now: it is not noted as used.
    ///
    /// # Errors
    ///
    /// As [`frame_at_hand`](Self::frame_at_hand).
    pub(crate) fn frame_beside(&self, offset: u64, each: impl FnOnce(Found) -> Result) -> Result {
        if !self.geometry().holds(offset, 1) {
            return Err(EINVAL);
        }
        let page = self.geometry().locate(offset).0;
        let state = self.state().read();
        if state.is_held(&PageRange::one(page)) {
            return Err(EAGAIN);
        }
        let entry = state.table().get(page).ok_or(EAGAIN)?;
        each(found(&state, page, entry))
    }

    /// Each translated page of `length` bytes at `offset` was used, and written if `dirty`.
    pub(crate) fn mark(&self, offset: u64, length: u64, dirty: bool) {
        if length == 0 || !self.geometry().holds(offset, length) {
            return;
        }
        let mut page = self.geometry().locate(offset).0;
        let last = self.geometry().locate(offset + (length - 1)).0;
        // One part at a time, so that the gate is not held for long.
        while page <= last {
            let part = PageRange::part_of(page);
            let state = self.state().read();
            mark_part(&state, page..part.end.min(last + 1), dirty);
            drop(state);
            page = part.end;
        }
    }
}

/// `entry` of `page`, with its size.
fn found(state: &State, page: u64, entry: Entry) -> Found {
    let order = if state.table().is_huge(page) {
        PART_PAGES.ilog2()
    } else {
        0
    };
    Found { entry, order }
}

fn mark_part(state: &State, pages: core::ops::Range<u64>, dirty: bool) {
    for page in pages {
        // An access is noted where it is made: that is all that this does.
        let _ = state.access(page, dirty);
    }
}
