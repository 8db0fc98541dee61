// SPDX-License-Identifier: MIT OR Apache-2.0

//! `VERBS_SHIM_IMPLICIT=1`: one implicit region of a protection domain serves its registrations.
//!
//! An implicit region reaches the whole address space (address 0, all of the length). A registration then
//! is an entry in a table of the process, with the implicit region's keys. There is one for each set of
//! access flags, so that a key grants no more than what was asked for, except for the range.
//!
//! Lock order: [`TABLE`] alone. It is held over the creation of an implicit region, once for each domain and
//! set of flags; what the hooks call below it comes back as an inner call and passes through.

use crate::{
    abi::{Context, Mr, ON_DEMAND, Pd},
    arena::{Arena, Region},
    lock::Lock,
    policy::Request,
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

/// An implicit region.
#[derive(Clone, Copy)]
struct Implicit {
    pd: *mut Pd,
    context: *mut Context,
    access: c_uint,
    /// Null if the device refused it.
    mr: *mut Mr,
    /// Regions that it serves.
    users: usize,
}

struct Table {
    implicit: [Option<Implicit>; MAX],
    arena: Arena,
}

// SAFETY: the pointers are libibverbs' objects, which any thread may use.
unsafe impl Send for Table {}

static TABLE: Lock<Table> = Lock::new(
    Table {
        implicit: [None; MAX],
        arena: Arena::new(),
    },
    Table::leave_to_parent,
);

/// What became of a registration.
pub(crate) enum Served {
    /// It is this one.
    By(*mut Mr),
    /// The device refused the implicit region just now, with this error.
    Refused(c_int),
    /// It has to be registered on its own.
    Not,
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

/// Serves a request from the implicit region of `pd`, which `make` creates at the first.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs, and `make` registers.
pub(crate) unsafe fn serve(pd: *mut Pd, request: Request, make: Make) -> Served {
    if !fits(request) {
        return Served::Not;
    }
    TABLE.with(|table| {
        let known = table.find(pd, request.access);
        let at = match known {
            Some(at) => at,
            // SAFETY: by this function's contract.
            None => match unsafe { table.create(pd, request.access, make) } {
                Ok(at) => at,
                Err(refused) => return refused,
            },
        };
        table.region(at, request).map_or(Served::Not, Served::By)
    })
}

impl Table {
    fn find(&self, pd: *mut Pd, access: c_uint) -> Option<usize> {
        let is_it = |i: &Implicit| i.pd == pd && i.access == access;
        self.implicit
            .iter()
            .position(|slot| slot.as_ref().is_some_and(is_it))
    }

    /// Makes an implicit region. That it was refused is remembered too.
    ///
    /// # Safety
    ///
    /// As for [`serve`].
    unsafe fn create(&mut self, pd: *mut Pd, access: c_uint, make: Make) -> Result<usize, Served> {
        let slot = self.implicit.iter().position(Option::is_none);
        let at = slot.ok_or(Served::Not)?;
        // SAFETY: by this function's contract.
        let mr = unsafe { make(pd, ptr::null_mut(), usize::MAX, access | ON_DEMAND) };
        let cause = sys::errno();
        self.implicit[at] = Some(Implicit {
            pd,
            // SAFETY: by this function's contract.
            context: unsafe { (*pd).context },
            access,
            mr,
            users: 0,
        });
        if mr.is_null() {
            return Err(Served::Refused(cause));
        }
        Ok(at)
    }

    /// A region that the implicit one at `at` serves.
    fn region(&mut self, at: usize, request: Request) -> Option<*mut Mr> {
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
            at,
        ))?;
        implicit.users += 1;
        Some(region)
    }

    /// Ends a region of the table. `None` if it is none.
    fn release(&mut self, mr: *mut Mr) -> Option<Result<(), c_int>> {
        let at = match self.arena.give_back(mr)? {
            Ok(region) => region.implicit,
            Err(errno) => return Some(Err(errno)),
        };
        if let Some(implicit) = &mut self.implicit[at] {
            implicit.users = implicit.users.saturating_sub(1);
            if implicit.users == 0 && implicit.pd.is_null() {
                self.implicit[at] = None;
            }
        }
        Some(Ok(()))
    }

    /// In the child of a fork: the implicit regions are the parent's, and reach its memory. What the child registers gets
    /// others, and what it ends or closes leaves the parent's alone.
    fn leave_to_parent(&mut self) {
        for slot in &mut self.implicit {
            let used = slot.take().filter(|implicit| implicit.users > 0);
            // No domain, so that nobody finds it; it stays until the last region that the child knows is gone.
            *slot = used.map(|implicit| Implicit {
                pd: ptr::null_mut(),
                context: ptr::null_mut(),
                mr: ptr::null_mut(),
                ..implicit
            });
        }
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
    TABLE
        .with(|table| table.release(mr))
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
pub(crate) unsafe fn change(mr: *mut Mr, pd: *mut Pd, request: Request, make: Make) -> bool {
    // SAFETY: by this function's contract.
    let Served::By(new) = (unsafe { serve(pd, request, make) }) else {
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
    let idle = TABLE.with(|table| table.take_out(|i| i.pd == pd && i.users == 0));
    // SAFETY: regions that nobody finds any more.
    unsafe { end_all(&idle, end) };
}

/// Forgets `pd`, which is gone. What it had is gone with it, and its address may come again.
pub(crate) fn forget_domain(pd: *mut Pd) {
    TABLE.with(|table| table.take_out(|i| i.pd == pd));
}

/// Ends all implicit regions of `context`: the program is about to close it.
///
/// # Safety
///
/// `end` ends regions.
pub(crate) unsafe fn leave_context(context: *mut Context, end: End) {
    let all = TABLE.with(|table| table.take_out(|i| i.context == context));
    // SAFETY: regions that nobody finds any more.
    unsafe { end_all(&all, end) };
}

/// # Safety
///
/// The regions that are not null are registered and not in use.
unsafe fn end_all(regions: &[*mut Mr], end: End) {
    for mr in regions.iter().filter(|mr| !mr.is_null()) {
        // SAFETY: by this function's contract. A failure leaves the domain busy, as the program will see.
        unsafe { end(*mr) };
    }
}
