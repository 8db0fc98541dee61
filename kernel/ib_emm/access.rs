// SPDX-License-Identifier: GPL-2.0

//! Accesses of a region, and prefetches: what is not translated is faulted in.
//!
//! Copies hold the region's gate shared, two pages at most at a time, so an invalidation that takes
//! it exclusively waits for no more than that on each CPU, and never sleeps.
//!
//! An access does not sleep either: it is parked in its driver's cookie when it misses, and a worker
//! does the fault (`serve.rs`). One without has a cookie of its thread's, which sleeps.

use crate::{
    emm::{Asks, Before, Entry, Need, PageRange, PAGE_SIZE},
    fault::Fault,
    gate::WriteGuard,
    mem,
    parked::Cookie,
    region::{Region, State},
    sleep::Sleeper,
};
use kernel::prelude::*;
use pin_init::stack_pin_init;

/// The bytes of an access from `offset` of the region on.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    /// How far the operation that the access is part of goes: at least as many bytes.
    pub(crate) reach: u64,
    pub(crate) write: bool,
}

/// What of a span lies in its first page: at this place of it, so many bytes.
#[derive(Clone, Copy)]
struct Piece {
    page: u64,
    at: usize,
    bytes: usize,
}

impl Region {
    /// Calls `each` with the kernel address of each page piece of `span`, under the gate.
    ///
    /// With a cookie it never sleeps: what misses is parked in it. If the bytes lie in two pages at
    /// most, nothing is done before `EAGAIN`. Without a cookie it sleeps between pieces, until it is done
    /// or the thread is killed.
    pub(crate) fn apply(
        &self,
        span: Span,
        cookie: Option<&Cookie>,
        mut each: impl FnMut(*mut u8, usize),
    ) -> Result {
        self.pieces(span, cookie, |_, entry, piece| {
            use_entry(entry, piece, &mut each);
        })
    }

    /// The same with the translation of each page, and the state that it stands in.
    pub(crate) fn apply_entries(
        &self,
        span: Span,
        cookie: Option<&Cookie>,
        mut each: impl FnMut(&State, Entry),
    ) -> Result {
        self.pieces(span, cookie, |state, entry, _| each(state, entry))
    }

    fn pieces(
        &self,
        span: Span,
        cookie: Option<&Cookie>,
        mut each: impl FnMut(&State, Entry, &Piece),
    ) -> Result {
        if let Some(cookie) = cookie {
            cookie.enter()?;
        }
        if !self.geometry().holds(span.offset, span.length as u64) {
            return Err(EINVAL);
        }
        let mut rest = Some(span);
        let Some(missing) = self.advance(&mut rest, &mut each) else {
            if cookie.is_some_and(Cookie::leave) {
                self.used();
            }
            return Ok(());
        };
        match cookie {
            Some(cookie) => Err(self.park_for(missing, span.asks(), cookie)),
            None => self.sleep_for(missing, span.asks(), rest, &mut each),
        }
    }

    /// Goes on with an access, as far as what it needs is there or can be had at once.
    ///
    /// # Returns
    ///
    /// The pages to be brought in, if some are; `rest` is what is left to be done then.
    fn advance(
        &self,
        rest: &mut Option<Span>,
        each: &mut impl FnMut(&State, Entry, &Piece),
    ) -> Option<PageRange> {
        let mut tries = 0;
        while let Some(span) = *rest {
            let (first, after) = self.split(&span);
            let (second, after) = match after.map(|span| (span, self.split(&span))) {
                Some((_, (second, None))) => (Some(second), None),
                Some((span, _)) => (None, Some(span)),
                None => (None, None),
            };
            let state = self.state().read();
            let found = state.access(first.page, span.write);
            let next = second.and_then(|piece| state.access(piece.page, span.write));
            match (found, second, next) {
                (Some(entry), None, _) => each(&state, entry, &first),
                (Some(entry), Some(piece), Some(next)) => {
                    each(&state, entry, &first);
                    each(&state, next, &piece);
                }
                (found, second, _) => {
                    drop(state);
                    let missing = second.filter(|_| found.is_some()).unwrap_or(first);
                    let want = self.need(&span, missing.page);
                    // Each of two pages once: one of them may take the other one's place.
                    if tries < 2 && self.glance(want, span.asks()) {
                        tries += 1;
                        continue;
                    }
                    return Some(want);
                }
            }
            (*rest, tries) = (after, 0);
        }
        None
    }

    /// The rest of an access whose driver has no cookie for it: the current thread waits each time that it
    /// misses.
    #[cold]
    #[inline(never)]
    fn sleep_for(
        &self,
        mut missing: PageRange,
        asks: Asks,
        mut rest: Option<Span>,
        // Not generic, so that what does not miss has all of `advance` inline.
        mut each: &mut dyn FnMut(&State, Entry, &Piece),
    ) -> Result {
        stack_pin_init!(let sleeper = Sleeper::new());
        let cookie = sleeper.cookie();
        loop {
            self.wait_for(missing, asks, &sleeper)?;
            cookie.enter()?;
            match self.advance(&mut rest, &mut each) {
                Some(more) => missing = more,
                None => break,
            }
        }
        if cookie.leave() {
            self.used();
        }
        Ok(())
    }

    /// Waits until a worker's fault of `range` has ended, or the current thread was killed.
    fn wait_for(&self, range: PageRange, asks: Asks, sleeper: &Sleeper) -> Result {
        let parked = self.park_for(range, asks, sleeper.cookie());
        if parked != EAGAIN {
            return Err(parked);
        }
        sleeper.wait()
    }

    /// What of `span` lies in its first page, and the rest.
    fn split(&self, span: &Span) -> (Piece, Option<Span>) {
        let (page, at) = self.geometry().locate(span.offset);
        let bytes = span.length.min(PAGE_SIZE as usize - at);
        let rest = (bytes < span.length).then(|| Span {
            offset: span.offset + bytes as u64,
            length: span.length - bytes,
            reach: span.reach.saturating_sub(bytes as u64),
            ..*span
        });
        (Piece { page, at, bytes }, rest)
    }

    /// The pages from `page` of `span` on that are needed now or soon: all in one part.
    fn need(&self, span: &Span, page: u64) -> PageRange {
        let room = self.geometry().length() - span.offset;
        let reach = span.reach.max(span.length as u64).min(room);
        let last = self.geometry().locate(span.offset + (reach - 1)).0;
        PageRange::new(page, last + 1).intersect(&PageRange::part_of(page))
    }

    /// Parks an access of `range` in `cookie`.
    #[cold]
    #[inline(never)]
    fn park_for(&self, range: PageRange, asks: Asks, cookie: &Cookie) -> Error {
        let region = self.name();
        let need = Need {
            region,
            range,
            asks,
            rounds: cookie.rounds(range.start),
        };
        // SAFETY: `stop` marks the region as stopped before it ends what is parked for it, and it is
        // stopped before it goes.
        unsafe { cookie.park(self.workers(), need, || !self.is_stopped()) }
    }

    /// Has a worker bring in the translations of `length` bytes at `offset`: with a cookie it is
    /// `EAGAIN` until it has; without one the thread sleeps, until then or until it is killed.
    pub(crate) fn prefetch(
        &self,
        offset: u64,
        length: u64,
        asks: Asks,
        cookie: Option<&Cookie>,
    ) -> Result {
        if length == 0 || !self.geometry().holds(offset, length) {
            return Err(EINVAL);
        }
        let last = self.geometry().locate(offset + (length - 1)).0;
        let range = PageRange::new(self.geometry().locate(offset).0, last + 1);
        let Some(cookie) = cookie else {
            stack_pin_init!(let sleeper = Sleeper::new());
            self.wait_for(range, asks, &sleeper)?;
            return sleeper.cookie().enter();
        };
        let before = cookie.look();
        if before != Before::Parked {
            cookie.leave();
        }
        match before {
            Before::Idle => Err(self.park_for(range, asks, cookie)),
            Before::Parked => Err(EAGAIN),
            // Done once is done: the VM may have taken some of it again.
            Before::Ended(0) => Ok(()),
            Before::Ended(errno) => Err(Error::from_errno(errno)),
        }
    }

    /// Brings in the translations of `rest`, in a worker: until it is done or the worker was told to
    /// end.
    pub(crate) fn bring_in(&self, mut rest: PageRange, asks: Asks) -> Result {
        while !rest.is_empty() {
            let want = rest.intersect(&PageRange::part_of(rest.start));
            match self.fault(want, asks) {
                Ok(state) => {
                    while rest.start < want.end && state.has(rest.start, asks.writes()) {
                        rest.start += 1;
                    }
                }
                // Not there: the next one may be.
                Err(error) if asks == Asks::Present && error == EFAULT => rest.start += 1,
                Err(error) => return Err(error),
            }
            if mem::killed() {
                return Err(EINTR);
            }
            mem::cond_resched();
        }
        Ok(())
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap. Sleeps.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    #[cold]
    #[inline(never)]
    pub(crate) fn fault(&self, want: PageRange, asks: Asks) -> Result<WriteGuard<'_, State>> {
        Fault::new(self, want, asks).run()
    }

    /// Enters what of `want` the VM has mapped already, without sleeping. Whether that was worth it.
    #[cold]
    #[inline(never)]
    fn glance(&self, want: PageRange, asks: Asks) -> bool {
        Fault::new(self, want, asks).run_at_once()
    }
}

impl Span {
    fn asks(&self) -> Asks {
        Asks::Access { write: self.write }
    }
}

fn use_entry(entry: Entry, piece: &Piece, each: &mut impl FnMut(*mut u8, usize)) {
    // SAFETY: frames in the table are those that the VM named.
    let page = unsafe { mem::pfn_address(entry.pfn()) };
    // SAFETY: `at` is below the size of a page.
    each(unsafe { page.add(piece.at) }, piece.bytes);
}
