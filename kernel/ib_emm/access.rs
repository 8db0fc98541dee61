// SPDX-License-Identifier: GPL-2.0

//! Accesses of a region, and prefetches: what is not translated is faulted in.
//!
//! Copies hold the region's gate shared, a page at a time, so an invalidation that takes it
//! exclusively waits for at most one page's copy on each CPU and never sleeps.

use crate::{
    emm::{Entry, PageRange, PAGE_SIZE},
    fault::{Asks, Fault},
    gate::WriteGuard,
    mem,
    region::{Region, State},
};
use kernel::prelude::*;

impl Region {
    /// Calls `each` with the kernel address of each page piece of `length` bytes at `offset`.
    /// `each` runs under the gate. Sleeps between pieces.
    pub(crate) fn apply(
        &self,
        mut offset: u64,
        length: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, usize),
    ) -> Result {
        if !self.geometry().holds(offset, length as u64) {
            return Err(EINVAL);
        }
        let mut left = length;
        while left > 0 {
            let (page, at) = self.geometry().locate(offset);
            let bytes = left.min(PAGE_SIZE as usize - at);
            let mut use_entry = |entry: Entry| {
                // SAFETY: frames in the table are those that the VM named.
                let page = unsafe { mem::pfn_address(entry.pfn()) };
                // SAFETY: `at` is below the size of a page.
                each(unsafe { page.add(at) }, bytes)
            };
            let state = self.state().read();
            if let Some(entry) = state.access(page, write) {
                use_entry(entry);
            } else {
                drop(state);
                let state = self.fault_in(page, offset + (left as u64 - 1), write)?;
                use_entry(state.access(page, write).ok_or(EFAULT)?);
            }
            offset += bytes as u64;
            left -= bytes;
        }
        Ok(())
    }

    /// As [`Self::fault`], for an access from `page` to the byte at `last` of the region. The
    /// fault's own lock is kept, so that no invalidation comes between it and the access.
    #[cold]
    #[inline(never)]
    fn fault_in(&self, page: u64, last: u64, write: bool) -> Result<WriteGuard<'_, State>> {
        let end = self.geometry().locate(last).0 + 1;
        let want = PageRange::new(page, end).intersect(&PageRange::part_of(page));
        self.fault(want, Asks::Access { write })
    }

    /// Brings in the translations of `length` bytes at `offset`.
    pub(crate) fn prefetch(&self, offset: u64, length: u64, what: Asks) -> Result {
        if length == 0 || !self.geometry().holds(offset, length) {
            return Err(EINVAL);
        }
        let last = self.geometry().locate(offset + (length - 1)).0;
        let mut rest = PageRange::new(self.geometry().locate(offset).0, last + 1);
        while !rest.is_empty() {
            let want = rest.intersect(&PageRange::part_of(rest.start));
            match self.fault(want, what) {
                Ok(state) => {
                    while rest.start < want.end && state.has(rest.start, what.writes()) {
                        rest.start += 1;
                    }
                }
                // Not there: the next one may be.
                Err(error) if what == Asks::Present && error == EFAULT => rest.start += 1,
                Err(error) => return Err(error),
            }
            if mem::killed() {
                return Err(EINTR);
            }
            mem::cond_resched();
        }
        Ok(())
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    fn fault(&self, want: PageRange, asks: Asks) -> Result<WriteGuard<'_, State>> {
        Fault::new(self, want, asks).run()
    }
}
