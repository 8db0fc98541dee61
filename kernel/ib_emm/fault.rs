// SPDX-License-Identifier: GPL-2.0

//! One fault of a region: the VM is asked for pages, and what it answers is used if no invalidation
//! came between.
//!
//! Most invalidations can't come between: the owner's mmap_lock is held meanwhile (unless the VM has
//! to wait for a disk), and fork, munmap or mprotect need it for themselves. Others (reclaim,
//! migration, MADV_DONTNEED) do, and a fault that lost to one begins again. It then asks for the
//! page that it needs and no other, and if it goes on losing, or goes on finding its page held off,
//! invalidations wait for it, longer and longer.

use crate::{
    emm::{self, Asks, Begin, Finish, Losses, PageRange, Pool},
    gate::{Gated, WriteGuard},
    mem::{self, Found, How, KernelNodes, MmLock},
    region::{Region, State},
    sight,
    wait::Wait,
};
use core::pin::{pin, Pin};
use kernel::{pr_warn_once, prelude::*};

/// After how many stale answers a fault asks for no huge page any more.
const HUGE_TRIES: u32 = 8;

/// The pages that a fault asks for, known to its region while it does.
type Window<'a> = emm::Window<&'a Gated<State>>;
/// The region's state, held exclusively, with a fault's window.
type Held<'w, 'a> = emm::Held<'w, &'a Gated<State>>;

/// A fault under way.
pub(crate) struct Fault<'a> {
    region: &'a Region,
    /// The pages needed; only the first one after a failure.
    want: PageRange,
    asks: Asks,
    pool: Pool<'a, KernelNodes>,
    losses: Losses,
    /// A huge page did not come out as one: no more of them.
    small: bool,
}

impl<'a> Fault<'a> {
    /// A fault of `region` for `want`.
    pub(crate) fn new(region: &'a Region, want: PageRange, asks: Asks) -> Self {
        Self {
            region,
            want,
            asks,
            pool: Pool::new(region.nodes()),
            losses: Losses::new(),
            small: false,
        }
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    pub(crate) fn run(mut self) -> Result<WriteGuard<'a, State>> {
        let wait = pin!(Wait::new());
        let result = self.try_often(wait.as_ref());
        if !self.losses.starving() {
            return result;
        }
        let (mut state, result) = match result {
            Ok(state) => (state, Ok(())),
            Err(error) => (self.region.state().write(), Err(error)),
        };
        if state.as_mut().sated(self.losses) {
            state.wake();
        }
        result.map(|()| state)
    }

    fn try_often(&mut self, wait: Pin<&Wait>) -> Result<WriteGuard<'a, State>> {
        while !self.losses.hopeless() {
            if let Some(state) = self.try_once(wait)? {
                return Ok(state);
            }
            mem::cond_resched();
        }
        pr_warn_once!(
            "page at {:#x} was taken away {} times before it could be used; giving up\n",
            self.region.geometry().address(self.want.start),
            self.losses.all()
        );
        Err(EAGAIN)
    }

    /// # Returns
    ///
    /// `None` if it is to be tried again.
    fn try_once(&mut self, wait: Pin<&Wait>) -> Result<Option<WriteGuard<'a, State>>> {
        let first = PageRange::one(self.want.start);
        // Before the state: closed, if it is open at the end, when that was let go.
        let window = pin!(Window::new(self.region.state()));
        let window = window.as_ref();
        if self.asks != Asks::Present {
            // Known as a wait before the region is looked at: who stops a region marks it dead
            // first, and then ends the waits.
            wait.begin(self.region)?;
        }
        let mut mm = self.lock_mm()?;
        let mut state = window.lock();
        state
            .as_mut()
            .contend(&mut self.losses, first.start, mem::thread());
        let (write, ahead) = (self.asks.writes(), self.losses.stale() == 0);
        match state.begin_fault(self.want, write, ahead) {
            Begin::Ready => Ok(Some(state.release())),
            Begin::Dead => Err(ESRCH),
            Begin::HeldOff | Begin::Wait if self.want != first => {
                self.want = first;
                Ok(None)
            }
            Begin::HeldOff | Begin::Wait if self.asks == Asks::Present => Err(EFAULT),
            begun @ (Begin::HeldOff | Begin::Wait) => {
                drop(mm);
                let mut state = state.release();
                if begun == Begin::HeldOff {
                    state.as_mut().held_off(&mut self.losses);
                }
                state.wait()?;
                Ok(None)
            }
            Begin::Go(range, nodes) => {
                drop(state);
                let found = self.ask(&mut mm, range, nodes, window)?;
                let mut state = window.lock();
                if found.huge && !self.small && !is_part(&range) {
                    return self.huge(&mut mm, state, window);
                }
                let finish = self.finish(&mut state, found);
                self.judge(state.release(), finish)
            }
        }
    }

    /// The owner's address space, locked; `ESRCH` if it is going, `EINTR` if the wait was ended.
    fn lock_mm(&self) -> Result<MmLock<'a>> {
        MmLock::take(self.region.mm())
    }

    /// Asks the VM for `range`; only for its first page if that takes waiting for somebody, who may
    /// never answer: the other pages are left to others then.
    fn ask(
        &mut self,
        mm: &mut MmLock<'_>,
        range: PageRange,
        nodes: usize,
        window: Pin<&Window<'a>>,
    ) -> Result<Found> {
        if !self.pool.fill(nodes) {
            return Err(ENOMEM);
        }
        let how = self.how();
        match self.get_pfns(mm, &range, how) {
            Err(_) if how == How::AtOnce => {
                let mut state = window.lock();
                if state.is_dead() {
                    return Err(ESRCH);
                }
                state.narrow_fault();
                state.wake();
                drop(state);
                self.get_pfns(mm, &PageRange::one(range.start), How::Waiting)
            }
            answer => answer,
        }
    }

    /// How the VM is asked at first.
    fn how(&self) -> How {
        match self.asks {
            Asks::Present => How::Present,
            Asks::Access { .. } | Asks::Prefetch { .. } => How::AtOnce,
        }
    }

    fn get_pfns(&self, mm: &mut MmLock<'_>, range: &PageRange, how: How) -> Result<Found> {
        let write = self.asks.writes();
        let address = self.region.geometry().address(range.start);
        let nr = range.len() as usize;
        let found = mm.get_pfns(address, nr, write, how);
        match &found {
            Ok(found) => {
                let pages = found.pfns.len() as u64;
                sight::trace_fault(address, pages, write, found.huge, 0);
            }
            Err(error) => sight::trace_fault(address, 0, write, false, error.to_errno()),
        }
        found
    }

    /// The first page is part of a huge page: asks for all of it, to enter it as one.
    fn huge(
        &mut self,
        mm: &mut MmLock<'_>,
        mut state: Held<'_, 'a>,
        window: Pin<&Window<'a>>,
    ) -> Result<Option<WriteGuard<'a, State>>> {
        let Some((part, nodes)) = state.begin_huge(self.want.start) else {
            self.small = true;
            state.wake();
            return Ok(None);
        };
        drop(state);
        let found = if self.pool.fill(nodes) {
            self.get_pfns(mm, &part, self.how())
        } else {
            Err(ENOMEM)
        };
        let mut state = window.lock();
        let finish = match found {
            Ok(found) => self.finish(&mut state, found),
            Err(_) => {
                self.small = true;
                Finish::Stale
            }
        };
        self.judge(state.release(), finish)
    }

    /// Enters what was found.
    fn finish(&mut self, state: &mut Held<'_, 'a>, found: Found) -> Finish {
        let write = self.asks.writes();
        let prefetch = !matches!(self.asks, Asks::Access { .. });
        if !found.huge || self.small || !is_part(&state.range()) {
            let pfns = found.pfns.iter().copied();
            return state.finish_fault(self.want, pfns, write, prefetch, &mut self.pool);
        }
        let pfn = found.in_a_row();
        self.small = pfn.is_none();
        state.finish_huge(pfn, write, prefetch, &mut self.pool)
    }

    /// Wakes who waited for this fault, and says whether it is over.
    fn judge(
        &mut self,
        mut state: WriteGuard<'a, State>,
        finish: Finish,
    ) -> Result<Option<WriteGuard<'a, State>>> {
        state.wake();
        let first = self.want.start;
        match finish {
            // Present from `first` on, or from a later page if the first ones were there already.
            Finish::Installed if state.has(first, self.asks.writes()) => Ok(Some(state)),
            Finish::Dead => Err(ESRCH),
            Finish::Installed | Finish::Stale => {
                state.as_mut().lost(&mut self.losses);
                self.want = PageRange::one(first);
                self.small |= self.losses.stale() >= HUGE_TRIES;
                Ok(None)
            }
        }
    }
}

fn is_part(range: &PageRange) -> bool {
    *range == PageRange::part_of(range.start)
}
