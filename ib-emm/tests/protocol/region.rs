// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel module's side of a region, on loom's locks: the gate, copies, faults and callbacks
//! as in `kernel/ib_emm/{gate,region}.rs`, around the real [`RegionState`]. And what can go wrong
//! in it: each [`Bug`] changes one place.

use crate::vm::{ALL, Vm};
use ib_emm::emm::{
    Begin, Finish, Frame, Geometry, Held, PAGE_SIZE, PART_PAGES, PageRange, Pool, RegionState,
    Window,
};
use ib_emm_models::HostNodes;
use loom::{
    sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::{self, Thread},
};
use std::pin::{Pin, pin};

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A copy lets the gate go before it uses the frame.
    CopyUnlocked,
    /// So does a copy that had to fault.
    FaultUnlocked,
    /// An invalidation takes the translations and holds nothing off.
    NoHold,
    /// An invalidation holds off when the translations are gone already.
    LateHold,
    /// A fault makes its window fresh when it has the VM's answer, not before it looks.
    LateRenewal,
    /// A fault opens its window when it has the VM's answer: invalidations that came and went
    /// meanwhile don't mark it.
    LateWindow,
    /// A stale answer is used.
    IgnoreStale,
    /// A frame that was asked for to read is entered for writing.
    EnterWritable,
    /// What was written is not passed on.
    NoDirty,
    /// Only the first part's translations go.
    OnePart,
    /// The end of an invalidation wakes nobody.
    EndWithoutWake,
    /// The end of a fault wakes nobody, with an answer or without.
    CloseWithoutWake,
    /// A waiter lets the gate go before it is known as one.
    LateWaiter,
    /// The owner's exit takes the translations and does not kill the region.
    NoKill,
    /// The owner's exit kills the region when the translations are gone already.
    LateKill,
    /// The answer of a fault that the owner's exit overtook is used.
    IgnoreDead,
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The VM has nothing there.
    Fault,
    /// The owner has exited.
    Dead,
}

type State = RegionState<HostNodes>;

/// A value behind a lock whose exclusive holders can sleep until woken.
struct Gate {
    state: RwLock<State>,
    waiters: Mutex<Vec<Thread>>,
    bug: Option<Bug>,
}

/// The state, held exclusively.
type Guard<'g> = RwLockWriteGuard<'g, State>;

// SAFETY: the lock is the only way in, and lets in one writer, or readers.
unsafe impl<'g> ib_emm::emm::Gate for &'g Gate {
    type Mem = HostNodes;
    type Guard<'s>
        = Guard<'g>
    where
        Self: 's;

    fn lock(&self) -> Guard<'g> {
        self.write()
    }

    fn state<'s>(guard: &'s mut Guard<'_>) -> Pin<&'s mut State> {
        pinned(guard)
    }

    fn wake(&self, _held: &Guard<'_>) {
        if self.bug != Some(Bug::CloseWithoutWake) {
            Gate::wake(self);
        }
    }
}

/// The state behind `guard`, to be changed.
fn pinned<'s>(guard: &'s mut Guard<'_>) -> Pin<&'s mut State> {
    // SAFETY: the state stays in its gate, and the gate in its region: nothing here moves it out.
    unsafe { Pin::new_unchecked(guard) }
}

impl Gate {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap()
    }

    fn write(&self) -> Guard<'_> {
        self.state.write().unwrap()
    }

    /// Lets go and sleeps until the next [`Self::wake`].
    fn wait(&self, guard: Guard<'_>, late: bool) {
        let guard = (!late).then_some(guard);
        self.waiters.lock().unwrap().push(thread::current());
        drop(guard);
        thread::park();
    }

    /// Wakes all who wait. Called with the gate held exclusively.
    fn wake(&self) {
        for waiter in self.waiters.lock().unwrap().drain(..) {
            waiter.unpark();
        }
    }
}

/// A region and its owner's VM.
pub struct Region {
    gate: Gate,
    mem: HostNodes,
    /// The VM that it asks.
    pub vm: Vm,
    bug: Option<Bug>,
}

impl Region {
    /// The region [`ALL`] with nothing translated.
    pub fn new(bug: Option<Bug>) -> Self {
        let start = ALL.start * PAGE_SIZE;
        let base = PART_PAGES * PAGE_SIZE * 8;
        let geometry = Geometry::new(base + start, ALL.len() * PAGE_SIZE).unwrap();
        assert_eq!(geometry.pages(), ALL);
        let mem = HostNodes::default();
        Self {
            gate: Gate {
                state: RwLock::new(State::new(geometry, mem.clone())),
                waiters: Mutex::new(Vec::new()),
                bug,
            },
            mem,
            vm: Vm::new(),
            bug,
        }
    }

    /// Nodes in use.
    pub fn nodes(&self) -> usize {
        self.mem.live()
    }

    /// Runs `f` on the state, held shared.
    pub fn with_state<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.gate.read())
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// An access of the HCA to each page of `range`, which lies in one part.
    pub fn copy(&self, range: PageRange, write: bool) -> Result<(), Failed> {
        for page in range.start..range.end {
            let state = self.gate.read();
            if let Some(entry) = state.access(page, write) {
                let _held = (!self.has(Bug::CopyUnlocked)).then_some(state);
                self.vm.access(page, entry.pfn(), write);
                continue;
            }
            drop(state);
            let (state, frame) = self.fault(PageRange::new(page, range.end), write)?;
            let _held = (!self.has(Bug::FaultUnlocked)).then_some(state);
            self.vm.access(page, frame, write);
        }
        Ok(())
    }

    /// Makes the first page of `want` present.
    ///
    /// # Returns
    ///
    /// The state, held exclusively, and the frame of that page, which is in the table.
    fn fault(&self, mut want: PageRange, write: bool) -> Result<(Guard<'_>, u64), Failed> {
        let first = PageRange::one(want.start);
        let mut pool = Pool::new(&self.mem);
        let mut ahead = true;
        loop {
            let window = pin!(Window::new(&self.gate));
            let window = window.as_ref();
            let mut state = window.lock();
            let (range, nodes) = match state.begin_fault(want, write, ahead) {
                Begin::Ready => {
                    let entry = state.access(first.start, write);
                    return Ok((
                        state.release(),
                        entry.expect("present, and still locked").pfn(),
                    ));
                }
                Begin::Dead => return Err(Failed::Dead),
                Begin::HeldOff | Begin::Wait if want != first => {
                    want = first;
                    continue;
                }
                Begin::HeldOff | Begin::Wait => {
                    self.gate.wait(state.release(), self.has(Bug::LateWaiter));
                    continue;
                }
                Begin::Go(range, nodes) => (range, nodes),
            };
            if self.has(Bug::LateWindow) {
                state.abandon();
            }
            drop(state);
            assert!(pool.fill(nodes), "the host has memory");
            let brought = self.bring_in(range, write);
            let early = self.has(Bug::LateRenewal).then(|| self.vm.look(range));
            if brought && !window.lock().renew() {
                (want, ahead) = (first, false);
                continue;
            }
            let answer = early.unwrap_or_else(|| self.vm.look(range));
            let mut state = window.lock();
            let Some(frames) = answer else {
                state.abandon();
                return Err(if state.is_dead() {
                    Failed::Dead
                } else {
                    Failed::Fault
                });
            };
            if self.has(Bug::LateWindow) && !reopen(&mut state, range) {
                continue;
            }
            let frames_found = frames.iter().map(|frame| Frame {
                writable: frame.writable || self.has(Bug::EnterWritable),
                ..*frame
            });
            let finish = state.finish_fault(want, frames_found, false, &mut pool);
            let entry = state.access(first.start, write);
            let state = state.release();
            match finish {
                Finish::Stale if self.has(Bug::IgnoreStale) => return Ok((state, frames[0].pfn)),
                Finish::Dead if self.has(Bug::IgnoreDead) => return Ok((state, frames[0].pfn)),
                Finish::Dead => return Err(Failed::Dead),
                Finish::Installed if entry.is_some() => {
                    return Ok((state, entry.unwrap().pfn()));
                }
                Finish::Installed | Finish::Stale => (want, ahead) = (first, false),
            }
        }
    }

    /// A write to a shared page replaces that first, as in `do_wp_page`.
    ///
    /// # Returns
    ///
    /// Whether one was.
    fn bring_in(&self, range: PageRange, write: bool) -> bool {
        let mut any = false;
        for page in (range.start..range.end).filter(|_| write) {
            if self.vm.is_shared(page) {
                self.invalidate(PageRange::one(page), Vm::replace);
                any = true;
            }
        }
        any
    }

    /// An invalidation of `range`: `change` is what the VM does between its start and its end.
    pub fn invalidate(&self, range: PageRange, change: impl FnOnce(&Vm, PageRange)) {
        self.start(range);
        self.vm.hold(range, 1);
        change(&self.vm, range);
        self.vm.hold(range, -1);
        self.end(range);
    }

    fn start(&self, range: PageRange) {
        if self.has(Bug::NoHold) {
            self.drop_translations(range, |_| ());
        } else if self.has(Bug::LateHold) {
            self.drop_translations(range, |_| ());
            pinned(&mut self.gate.write()).hold(range);
        } else {
            self.drop_translations(range, |state| state.hold(range));
        }
    }

    fn end(&self, range: PageRange) {
        let mut state = self.gate.write();
        assert!(
            pinned(&mut state).unhold(range) || self.has(Bug::NoHold),
            "was begun"
        );
        if !self.has(Bug::EndWithoutWake) {
            self.gate.wake();
        }
    }

    /// The owner exits.
    pub fn release(&self) {
        if self.has(Bug::NoKill) {
            self.drop_translations(ALL, |_| ());
        } else if self.has(Bug::LateKill) {
            self.drop_translations(ALL, |_| ());
            pinned(&mut self.gate.write()).kill();
        } else {
            self.drop_translations(ALL, State::kill);
        }
        self.vm.hold(ALL, 1);
        self.vm.tear_down();
    }

    /// Runs `begin` on the state and takes the translations of `range`, passing on what was
    /// written.
    fn drop_translations(&self, range: PageRange, begin: impl FnOnce(Pin<&mut State>)) {
        let mut rest = range;
        let mut state = self.gate.write();
        begin(pinned(&mut state));
        loop {
            let more = pinned(&mut state).clear_next(&mut rest, |entry| {
                if entry.dirty() && !self.has(Bug::NoDirty) {
                    self.vm.mark_dirty(entry.pfn());
                }
            });
            if !more || self.has(Bug::OnePart) {
                self.gate.wake();
                return;
            }
            drop(state);
            state = self.gate.write();
        }
    }
}

/// Opens the window again that [`Bug::LateWindow`] closed too early.
fn reopen(state: &mut Held<'_, &Gate>, range: PageRange) -> bool {
    matches!(state.begin_fault(range, true, true), Begin::Go(..))
}
