// SPDX-License-Identifier: MIT OR Apache-2.0

//! `VERBS_SHIM_IMPLICIT=1`: one implicit region of a protection domain serves its registrations.
//!
//! An implicit region reaches the whole address space (address 0, all of the length). A registration then
//! is an entry in a table of the process, with the implicit region's keys. There is one for each set of
//! access flags, so that a key grants no more than what was asked for, except for the range.
//!
//! [`TABLE`] is a leaf among the locks: what is called while it is held is this file's and the arena's only. An implicit region
//! is made and ended without it, so that two threads can make one at once; the later one ends its own again.

use crate::{
    abi::{Context, Mr, ON_DEMAND, Pd},
    arena::{Arena, Region},
    lock::Lock,
    policy::Request,
    raw::Uncancelled,
    sys,
};
use core::{
    ffi::{c_int, c_uint, c_void},
    ptr,
};

/// The most pairs of domain and flags; further ones are registered each on its own.
const MAX: usize = 64;

/// Makes a real region: of the domain, the address, the length, with the flags.
// SAFETY: to be called with a live domain.
pub(crate) type Make = unsafe fn(*mut Pd, *mut c_void, usize, c_uint) -> *mut Mr;
/// Ends a real region.
// SAFETY: to be called with one that is live, and not used again.
pub(crate) type End = unsafe fn(*mut Mr) -> c_int;

/// How implicit regions are made and ended.
#[derive(Clone, Copy)]
pub(crate) struct Ways {
    pub(crate) make: Make,
    pub(crate) end: End,
}

/// An implicit region.
#[derive(Clone, Copy)]
struct Implicit {
    pd: *mut Pd,
    context: *mut Context,
    access: c_uint,
    /// Null if the device refused it for good.
    mr: *mut Mr,
    /// Regions that it serves.
    users: usize,
}

struct Table {
    implicit: [Option<Implicit>; MAX],
    arena: Arena,
    /// Forks between the first process and this one.
    forks: u32,
}

// SAFETY: the pointers are libibverbs' objects, which any thread may use.
unsafe impl Send for Table {}

static TABLE: Lock<Table> = Lock::new(
    Table {
        implicit: [None; MAX],
        arena: Arena::new(),
        forks: 0,
    },
    Table::renew,
);

/// What became of a registration.
pub(crate) enum Served {
    /// It is this one.
    By(*mut Mr),
    /// The device refused the implicit region just now, with this error, and will not be asked again.
    Refused(c_int),
    /// The device refused it just now, with an error that passes.
    Later(c_int),
    /// It has to be registered on its own.
    Not,
}

/// Whether a refusal may be none the next time.
fn passes(errno: c_int) -> bool {
    matches!(
        errno,
        libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::EBUSY
    )
}

/// Whether the request could be served by a range of the address space as it is.
#[must_use]
pub(crate) fn fits(request: Request) -> bool {
    /// `IBV_ACCESS_MW_BIND`, `_ZERO_BASED`, `_HUGETLB`: they say something of one region.
    const OF_ONE: c_uint = 1 << 4 | 1 << 5 | 1 << 7;
    request.access & OF_ONE == 0
        && request.addr != 0
        && request.length != 0
        && request.iova == request.addr as u64
        && request.addr.checked_add(request.length).is_some()
}

/// Serves a request from the implicit region of `pd`, which is made at the first.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs, and `ways` make and end regions.
pub(crate) unsafe fn serve(pd: *mut Pd, request: Request, ways: Ways) -> Served {
    if !fits(request) {
        return Served::Not;
    }
    let known = |table: &mut Table| match table.find(pd, request.access) {
        Some(at) => table.region(at, request).map_or(Served::Not, Served::By),
        None if table.has_room() => Served::Later(0),
        None => Served::Not,
    };
    match TABLE.with(known) {
        Some(Served::Later(_)) => {}
        Some(known) => return known,
        None => return Served::Not,
    }
    // SAFETY: by this function's contract.
    unsafe { serve_first(pd, request, ways) }
}

/// [`serve`] where nothing is known of the domain and the flags.
///
/// # Safety
///
/// As for [`serve`].
#[cold]
unsafe fn serve_first(pd: *mut Pd, request: Request, ways: Ways) -> Served {
    // What is made has to be entered.
    let _whole = Uncancelled::begin();
    let access = request.access;
    // SAFETY: by this function's contract.
    let mr = unsafe { (ways.make)(pd, ptr::null_mut(), usize::MAX, access | ON_DEMAND) };
    let cause = sys::errno();
    if mr.is_null() && passes(cause) {
        return Served::Later(cause);
    }
    // SAFETY: by this function's contract.
    let context = unsafe { (*pd).context };
    let entered = TABLE.with(|table| {
        let (at, spare) = table.enter(Implicit {
            pd,
            context,
            access,
            mr,
            users: 0,
        })?;
        Some((table.region(at, request), spare))
    });
    let (region, spare) = entered.flatten().unwrap_or((None, mr));
    if !spare.is_null() {
        // SAFETY: made above, and nobody else knows it.
        unsafe { (ways.end)(spare) };
    }
    match region {
        Some(region) => Served::By(region),
        None if mr.is_null() => Served::Refused(cause),
        None => Served::Not,
    }
}

impl Table {
    fn find(&self, pd: *mut Pd, access: c_uint) -> Option<usize> {
        let is_it = |i: &Implicit| i.pd == pd && i.access == access;
        self.implicit
            .iter()
            .position(|slot| slot.as_ref().is_some_and(is_it))
    }

    fn has_room(&self) -> bool {
        self.implicit.iter().any(Option::is_none)
    }

    /// Enters an implicit region, or that it was refused: its place, and the region itself if another thread was first. `None` if there
    /// is no room.
    fn enter(&mut self, new: Implicit) -> Option<(usize, *mut Mr)> {
        if let Some(at) = self.find(new.pd, new.access) {
            return Some((at, new.mr));
        }
        let at = self.implicit.iter().position(Option::is_none)?;
        self.implicit[at] = Some(new);
        Some((at, ptr::null_mut()))
    }

    /// A region that the implicit one at `at` serves.
    fn region(&mut self, at: usize, request: Request) -> Option<*mut Mr> {
        let forks = self.forks;
        let implicit = self.implicit[at].as_mut().filter(|i| !i.mr.is_null())?;
        // SAFETY: a region that was registered and has not ended.
        let keys = unsafe { &*implicit.mr };
        let region = self.arena.take(Region::new(
            Mr {
                context: keys.context,
                pd: implicit.pd,
                addr: request.addr as *mut c_void,
                length: request.length,
                handle: keys.handle,
                lkey: keys.lkey,
                rkey: keys.rkey,
            },
            request.access,
            at as u32,
            forks,
        ))?;
        implicit.users += 1;
        Some(region)
    }

    /// Ends a region of the table. `None` if it is none.
    fn release(&mut self, mr: *mut Mr) -> Option<Result<(), c_int>> {
        let region = match self.arena.give_back(mr)? {
            Ok(region) => region,
            Err(errno) => return Some(Err(errno)),
        };
        // One that a parent registered is of the parent's table.
        let (own, pd) = (region.forks == self.forks, region.domain());
        let place = self.implicit.get_mut(region.implicit as usize);
        let implicit = place.and_then(Option::as_mut).filter(|i| own && i.pd == pd);
        if let Some(implicit) = implicit {
            implicit.users = implicit.users.saturating_sub(1);
        }
        Some(Ok(()))
    }

    /// In the child of a fork: the implicit regions are the parent's, and reach its memory. What the child registers gets
    /// others, and what it ends or closes leaves the parent's alone.
    fn renew(&mut self) {
        self.implicit = [None; MAX];
        self.forks = self.forks.wrapping_add(1);
        self.arena.renew();
    }

    /// Takes the implicit regions that match out of the table.
    fn take_out(&mut self, matches: impl Fn(&Implicit) -> bool) -> [*mut Mr; MAX] {
        let mut out = [ptr::null_mut(); MAX];
        for (slot, out) in self.implicit.iter_mut().zip(&mut out) {
            if slot.as_ref().is_some_and(&matches) {
                *out = slot.take().map_or(ptr::null_mut(), |i| i.mr);
            }
        }
        out
    }
}

/// Ends a region that [`serve`] made: 0, or an error number. `None` if it is a real one.
pub(crate) fn release(mr: *mut Mr) -> Option<c_int> {
    if !Arena::may_own(mr) {
        return None;
    }
    let released = TABLE.with(|table| table.release(mr));
    // A child that has no memory for its lock leaves the region where it is.
    released
        .unwrap_or(Some(Err(libc::ENOMEM)))
        .map(|done| done.err().unwrap_or(0))
}

/// Whether [`serve`] made this region.
pub(crate) fn is_served(mr: *const Mr) -> bool {
    Arena::may_own(mr)
}

/// Moves a region that [`serve`] made to what `request` and `pd` say: its object stays, its keys may change.
///
/// # Safety
///
/// As for [`serve`], and `mr` is a region that it made.
pub(crate) unsafe fn change(mr: *mut Mr, pd: *mut Pd, request: Request, ways: Ways) -> bool {
    // SAFETY: by this function's contract.
    let Served::By(new) = (unsafe { serve(pd, request, ways) }) else {
        return false;
    };
    TABLE.with(|table| table.arena.swap(mr, new));
    release(new);
    true
}

/// The access flags of a region that [`serve`] made.
///
/// # Safety
///
/// `mr` is such a region.
pub(crate) unsafe fn access_of(mr: *const Mr) -> c_uint {
    // SAFETY: by this function's contract, a region of the arena.
    unsafe { (*mr.cast::<Region>()).access }
}

/// Ends the implicit regions of `pd` that serve nobody: the program is about to give it back.
///
/// # Safety
///
/// `end` ends regions.
pub(crate) unsafe fn leave_domain(pd: *mut Pd, end: End) {
    // SAFETY: by this function's contract.
    unsafe { leave(|i| i.pd == pd && i.users == 0, end) };
}

/// Forgets `pd`, which is gone. What it had is gone with it, and its address may come again.
pub(crate) fn forget_domain(pd: *mut Pd) {
    if TABLE.was_used() {
        TABLE.with(|table| table.take_out(|i| i.pd == pd));
    }
}

/// Ends all implicit regions of `context`: the program is about to close it.
///
/// # Safety
///
/// `end` ends regions.
pub(crate) unsafe fn leave_context(context: *mut Context, end: End) {
    // SAFETY: by this function's contract.
    unsafe { leave(|i| i.context == context, end) };
}

/// Takes the implicit regions that match out of the table, and ends them.
///
/// # Safety
///
/// `end` ends regions.
unsafe fn leave(matches: impl Fn(&Implicit) -> bool, end: End) {
    if !TABLE.was_used() {
        return;
    }
    // What is taken out has to be ended.
    let _whole = Uncancelled::begin();
    let Some(all) = TABLE.with(|table| table.take_out(matches)) else {
        return;
    };
    for mr in all.iter().filter(|mr| !mr.is_null()) {
        // SAFETY: a region that nobody finds any more. A failure leaves the domain busy, as the program will see.
        unsafe { end(*mr) };
    }
}
