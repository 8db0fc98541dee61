// SPDX-License-Identifier: GPL-2.0

//! One fault of a region: the VM brings in pages, its page tables are looked at, and what is seen
//! is used if no invalidation came between.
//!
//! Most invalidations can't come between: the owner's mmap_lock is held meanwhile (unless the VM has
//! to wait for a disk), and fork, munmap or mprotect need it for themselves. Others (reclaim,
//! migration, MADV_DONTNEED) do, and a fault that lost to one begins again. It then asks for the
//! page that it needs and no other, and if it goes on losing, or goes on finding its page held off,
//! invalidations wait for it, longer and longer.

use crate::{
    ask::{Frames, How, MmLock},
    emm::{self, Asks, Begin, Finish, Losses, PageRange, Pool},
    gate::{Gated, WriteGuard},
    mem::{self, KernelNodes},
    owner::AsOwner,
    region::{Region, State},
    sight,
};
use core::pin::{pin, Pin};
use kernel::{pr_warn_once, prelude::*};

/// After how many stale answers a fault asks for no huge page any more.
const HUGE_TRIES: u32 = 8;
/// After how many of them a page that the VM brought in, and that no region may reach, is given up.
const REFUSED_TRIES: u32 = 4;

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

    /// The same, for an access whose page was brought in `rounds` times before, and taken away before
    /// it came.
    pub(crate) fn again(region: &'a Region, want: PageRange, asks: Asks, rounds: u32) -> Self {
        Self {
            losses: Losses::again(rounds),
            ..Self::new(region, want, asks)
        }
    }

    /// Makes the first page of `want` present, and what follows it where that is cheap.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, with that page in the table.
    pub(crate) fn run(self) -> Result<WriteGuard<'a, State>> {
        let (mut state, losses) = self.run_for()?;
        if state.as_mut().sated(losses) {
            state.wake();
        }
        Ok(state)
    }

    /// As [`run`](Self::run), for an access that comes later.
    ///
    /// # Returns
    ///
    /// Also what the fault lost: [`Region::settle`] follows.
    pub(crate) fn run_for(mut self) -> Result<(WriteGuard<'a, State>, Losses)> {
        match self.try_often() {
            Ok(state) => Ok((state, self.losses)),
            Err(error) => {
                if self.losses.starving() {
                    let mut state = self.region.state().write();
                    if state.as_mut().sated(self.losses) {
                        state.wake();
                    }
                }
                Err(error)
            }
        }
    }

    /// What the VM has mapped already is entered, without waiting for anybody, nor for memory.
    ///
    /// # Returns
    ///
    /// Whether the first page of `want` is in the table, or was a moment ago.
    pub(crate) fn run_at_once(mut self) -> bool {
        if !mem::may_look() {
            return false;
        }
        let window = pin!(Window::new(self.region.state()));
        let window = window.as_ref();
        let Ok(mm) = MmLock::try_take(self.region.mm()) else {
            return false;
        };
        self.enter_at_once(&mm, window).unwrap_or_else(|| {
            // Part of a huge page that has no entry as a whole.
            self.small = true;
            self.enter_at_once(&mm, window) == Some(true)
        })
    }

    /// # Returns
    ///
    /// What [`run_at_once`](Self::run_at_once) says; `None` if a huge page is in the way.
    fn enter_at_once(&mut self, mm: &MmLock<'_>, window: Pin<&Window<'a>>) -> Option<bool> {
        let mut state = window.lock();
        let begun = state.begin_fault(self.want, self.asks.writes(), true);
        drop(state);
        let (range, nodes) = match begun {
            Begin::Go(range, nodes) => (range, nodes),
            begun => return Some(begun == Begin::Ready),
        };
        let Ok(mut frames) = Frames::new(range.len(), GFP_NOWAIT | __GFP_NOWARN) else {
            return Some(false);
        };
        let address = self.region.geometry().address(range.start);
        mm.look_at_once(address, range.len(), &mut frames);
        let named = self.named(&range);
        let there = frames.allowing(self.asks.writes(), named);
        if there == 0 || !self.pool.fill_at_once(nodes) {
            return Some(false);
        }
        if there < named {
            frames.truncate(there);
        }
        let mut state = window.lock();
        if frames.huge() && !self.small && !is_part(&range) {
            let part = state.begin_huge(range.start);
            drop(state);
            let (_, nodes) = part?;
            mm.look_at_once(address, 1, &mut frames);
            let frame = frames.of_part(range.start);
            let frame = frame.filter(|frame| frame.writable || !self.asks.writes());
            if frame.is_none() || !self.pool.fill_at_once(nodes) {
                return None;
            }
            let mut state = window.lock();
            let finish = state.finish_huge(frame, self.is_prefetch(), &mut self.pool);
            drop(state);
            return Some(self.entered(finish, &range, &frames));
        }
        let finish = self.finish(&mut state, &frames);
        drop(state);
        Some(self.entered(finish, &range, &frames) && range.start == self.want.start)
    }

    /// Whether a look that nobody waited for was of use. One that was not is no fault: a worker does that.
    fn entered(&self, finish: Finish, range: &PageRange, frames: &Frames) -> bool {
        let entered = finish == Finish::Installed;
        if entered {
            self.trace(range, frames, Ok(()));
        }
        entered
    }

    fn try_often(&mut self) -> Result<WriteGuard<'a, State>> {
        while !self.losses.hopeless() {
            if let Some(state) = self.try_once()? {
                return Ok(state);
            }
            mem::cond_resched();
        }
        pr_warn_once!(
            "page at {:#x} was taken away {} times before it could be used; giving up\n",
            self.region.geometry().address(self.want.start),
            self.losses.all()
        );
        Err(EBUSY)
    }

    /// # Returns
    ///
    /// `None` if it is to be tried again.
    fn try_once(&mut self) -> Result<Option<WriteGuard<'a, State>>> {
        let first = PageRange::one(self.want.start);
        // Before the state: closed, if it is open at the end, when that was let go.
        let window = pin!(Window::new(self.region.state()));
        let window = window.as_ref();
        let mut mm = self.lock_mm()?;
        let mut state = window.lock();
        state
            .as_mut()
            .contend(&mut self.losses, first.start, mem::thread());
        let (write, ahead) = (self.asks.writes(), self.losses.stale() == 0);
        let mut begun = state.begin_fault(self.want, write, ahead);
        if matches!(begun, Begin::HeldOff | Begin::Wait) && self.want != first {
            // For the sake of later pages: the first one will do. If it is the first one itself, the
            // others are still wanted afterwards.
            begun = state.begin_fault(first, write, ahead);
            if !matches!(begun, Begin::HeldOff | Begin::Wait) {
                self.want = first;
            }
        }
        match begun {
            Begin::Ready => Ok(Some(state.release())),
            Begin::Dead => Err(ESRCH),
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
                let frames = self.ask(&mut mm, range, nodes, window)?;
                let mut state = window.lock();
                if frames.huge() && !self.small && !is_part(&state.range()) {
                    return self.huge(&mm, state, window, frames);
                }
                let finish = self.finish(&mut state, &frames);
                self.judge(state.release(), finish)
            }
        }
    }

    /// The owner's address space, locked; `ESRCH` if it is going, `EINTR` if the wait was ended.
    fn lock_mm(&self) -> Result<MmLock<'a>> {
        MmLock::take(self.region.mm())
    }

    /// Has the VM bring in what of `range` was named, and looks at what it has of all of it.
    ///
    /// # Returns
    ///
    /// The frames of the first pages of the window, none of them named and not to be accessed as
    /// asked for. None at all if the VM took the first one away again.
    fn ask(
        &mut self,
        mm: &mut MmLock<'_>,
        range: PageRange,
        nodes: usize,
        window: Pin<&Window<'a>>,
    ) -> Result<Frames> {
        if !self.pool.fill(nodes) {
            return Err(ENOMEM);
        }
        let (write, named) = (self.asks.writes(), self.named(&range));
        let mut frames = Frames::new(range.len(), GFP_KERNEL)?;
        self.look(mm, &range, &mut frames);
        let mut there = frames.allowing(write, named);
        if there < named && self.asks != Asks::Present {
            let rest = PageRange::new(range.start + there, range.start + named);
            let brought = self.bring_in(mm, &rest, &mut frames, window);
            let mut state = window.lock();
            if state.is_dead() {
                return Err(ESRCH);
            }
            if state.renew() {
                let left = state.range();
                drop(state);
                self.look(mm, &left, &mut frames);
            }
            there = frames.allowing(write, named);
            if there == 0 {
                self.trace(&range, &frames, brought);
                brought?;
                if frames.refused() && self.losses.stale() >= REFUSED_TRIES {
                    return Err(EFAULT);
                }
            }
        } else if there == 0 {
            self.trace(&range, &frames, Err(EFAULT));
            return Err(EFAULT);
        }
        if there < named {
            frames.truncate(there);
        }
        if there > 0 {
            self.trace(&range, &frames, Ok(()));
        }
        Ok(frames)
    }

    /// How many of the first pages of `range` an operation named. What is behind them is a guess,
    /// and taken only as far as it is there.
    fn named(&self, range: &PageRange) -> u64 {
        match self.asks {
            Asks::Present => range.len(),
            Asks::Access { .. } | Asks::Prefetch { .. } => range.intersect(&self.want).len(),
        }
    }

    /// Has the VM bring `range` in; only its first page if that takes waiting for somebody, who may
    /// never answer: the other pages are left to others then. What is brought in is charged to the
    /// owner, and lies where it wants.
    fn bring_in(
        &self,
        mm: &mut MmLock<'_>,
        range: &PageRange,
        frames: &mut Frames,
        window: Pin<&Window<'a>>,
    ) -> Result {
        let write = self.asks.writes();
        let address = self.region.geometry().address(range.start);
        let env = pin!(AsOwner::new(self.region.owner()));
        let owner = env.as_ref().enter()?;
        match mm.fault_in(address, range.len(), write, How::AtOnce, frames, owner) {
            Err(error) if error == EAGAIN => (),
            answer => return answer,
        }
        let first = PageRange::one(window.lock().range().start);
        self.look(mm, &first, frames);
        if frames.allowing(write, 1) == 1 {
            // What is in front of the page that has to be waited for will do.
            return Ok(());
        }
        let mut state = window.lock();
        if state.is_dead() {
            return Err(ESRCH);
        }
        state.narrow_fault();
        drop(state);
        mm.fault_in(address, 1, write, How::Waiting, frames, owner)
    }

    fn look(&self, mm: &MmLock<'_>, range: &PageRange, frames: &mut Frames) {
        mm.look(
            self.region.geometry().address(range.start),
            range.len(),
            frames,
        );
    }

    fn trace(&self, range: &PageRange, frames: &Frames, result: Result) {
        let address = self.region.geometry().address(range.start);
        let error = result.map_or_else(|error| error.to_errno(), |()| 0);
        let huge = frames.huge();
        sight::trace_fault(address, frames.len(), self.asks.writes(), huge, error);
    }

    /// The first page is part of a huge page: looks at it again, to enter all of it as one.
    fn huge(
        &mut self,
        mm: &MmLock<'_>,
        mut state: Held<'_, 'a>,
        window: Pin<&Window<'a>>,
        mut frames: Frames,
    ) -> Result<Option<WriteGuard<'a, State>>> {
        let first = state.range().start;
        let Some((part, nodes)) = state.begin_huge(first) else {
            self.small = true;
            return Ok(None);
        };
        drop(state);
        let filled = self.pool.fill(nodes);
        self.look(mm, &PageRange::one(first), &mut frames);
        let frame = frames.of_part(first);
        let frame = frame.filter(|frame| filled && (frame.writable || !self.asks.writes()));
        let mut state = window.lock();
        if frame.is_some() {
            let address = self.region.geometry().address(part.start);
            sight::trace_fault(address, part.len(), self.asks.writes(), true, 0);
        }
        self.small |= frame.is_none();
        let finish = state.finish_huge(frame, self.is_prefetch(), &mut self.pool);
        self.judge(state.release(), finish)
    }

    fn is_prefetch(&self) -> bool {
        !matches!(self.asks, Asks::Access { .. })
    }

    /// Enters what was found.
    fn finish(&mut self, state: &mut Held<'_, 'a>, frames: &Frames) -> Finish {
        let prefetch = self.is_prefetch();
        let range = state.range();
        if frames.huge() && !self.small && is_part(&range) {
            let frame = frames.of_part(range.start);
            return state.finish_huge(frame, prefetch, &mut self.pool);
        }
        state.finish_fault(self.want, frames.iter(), prefetch, &mut self.pool)
    }

    /// Says whether this fault is over.
    fn judge(
        &mut self,
        mut state: WriteGuard<'a, State>,
        finish: Finish,
    ) -> Result<Option<WriteGuard<'a, State>>> {
        let first = self.want.start;
        match finish {
            // Present from `first` on, or from a later page if the first ones were there already.
            Finish::Installed if state.has(first, self.asks.writes()) => Ok(Some(state)),
            Finish::Dead => Err(ESRCH),
            Finish::Installed | Finish::Stale => {
                state.as_mut().lost(&mut self.losses);
                let address = self.region.geometry().address(first);
                sight::trace_fault_lost(address, self.losses.stale());
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
