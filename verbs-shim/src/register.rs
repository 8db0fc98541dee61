// SPDX-License-Identifier: MIT OR Apache-2.0

//! The way of one registration through the shim.

use crate::{
    abi::{Mr, ON_DEMAND, Pd},
    device, environment,
    implicit::{self, Served, Ways},
    line,
    log::{self, Warning},
    outermost::Outermost,
    policy::{self, Choice, Facts, Request, Why},
    prefetch,
    settings::{Level, Mode, Settings},
    stats,
    sys::{Errno, errno, set_errno},
};
use core::{
    ffi::{c_int, c_uint},
    ptr,
};

/// That memory stays pinned, against what the user expects.
static STAYS: Warning = Warning::new();

/// Registers memory of `pd` through `call`, which gets the access flags.
///
/// `entry` is the function that was called, for the log. `outermost` says that the program called it, and not another hooked function
/// from inside. `ways` make the implicit region, if there is to be one.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs, or null.
pub(crate) unsafe fn register(
    pd: *mut Pd,
    entry: &str,
    outermost: Option<&Outermost>,
    request: Request,
    ways: Ways,
    call: impl Fn(c_uint) -> *mut Mr,
) -> *mut Mr {
    let settings = environment::get();
    if settings.mode == Mode::Off || outermost.is_none() {
        return call(request.access);
    }
    if request.access & ON_DEMAND != 0 {
        return counted(call(request.access), || stats::asked(request.length));
    }
    let before = errno();
    // SAFETY: by this function's contract.
    let facts = unsafe { facts_of(pd) };
    let choice = policy::choose(settings, &facts, request);
    log::say(
        Level::Debug,
        format_args!(
            "{entry}: {} bytes, access {:#x}: {choice:?}",
            request.length, request.access
        ),
    );
    set_errno(before);
    let on_demand = !matches!(choice, Choice::Keep(_));
    if on_demand && settings.implicit {
        // SAFETY: by this function's contract.
        let mr = unsafe { from_implicit(pd, &facts, request, ways) };
        set_errno(before);
        if !mr.is_null() {
            return unpinned(mr, request);
        }
    }
    match choice {
        Choice::Keep(why) => keep(settings, &facts, why, request, call),
        Choice::OnDemand => unpinned(call(request.access | ON_DEMAND), request),
        Choice::TryOnDemand => try_on_demand(request, before, call),
    }
}

/// A region of the implicit one, or null if the request has to be registered on its own.
///
/// # Safety
///
/// `pd` is a protection domain of libibverbs, or null.
unsafe fn from_implicit(pd: *mut Pd, facts: &Facts, request: Request, ways: Ways) -> *mut Mr {
    static NONE: Warning = Warning::new();
    static NONE_NOW: Warning = Warning::new();
    if pd.is_null() {
        return ptr::null_mut();
    }
    if !policy::can_be_implicit(facts) {
        NONE.give(format_args!(
            "no implicit regions: the device has none; each region is registered on its own"
        ));
        return ptr::null_mut();
    }
    // SAFETY: by this function's contract.
    match unsafe { implicit::serve(pd, request, ways) } {
        Served::By(mr) => mr,
        Served::Not => ptr::null_mut(),
        Served::Refused(cause) => {
            NONE.give(format_args!(
                "no implicit regions: the device refused one with {}; each region is registered on its own",
                Errno(cause)
            ));
            ptr::null_mut()
        }
        Served::Later(cause) => {
            NONE_NOW.give(format_args!(
                "no implicit region yet: the device refused one with {}; regions are registered on their own until it makes one",
                Errno(cause)
            ));
            ptr::null_mut()
        }
    }
}

/// Registers as the program asked, and says why.
fn keep(
    settings: &Settings,
    facts: &Facts,
    why: Why,
    request: Request,
    call: impl Fn(c_uint) -> *mut Mr,
) -> *mut Mr {
    let mr = call(request.access);
    counted(mr, || {
        stats::kept(why, request.length);
        match (why, facts.corrupting) {
            (Why::Corrupting, Some(known)) => STAYS.give(format_args!(
                "memory stays pinned: {}; {} (or VERBS_SHIM=force)",
                known.cause, known.remedy
            )),
            (Why::NoPaging, _) => STAYS.give(format_args!(
                "memory stays pinned: the device has no on-demand paging"
            )),
            (Why::DevX, _) => STAYS.give(format_args!(
                "memory stays pinned: its context was opened for DevX, whose queue pairs can't wait for pages"
            )),
            // Asked for by the user or by the program: nothing to warn of.
            _ => line::write(
                settings,
                Level::Info,
                format_args!("memory stays pinned: {}", why.text()),
            ),
        }
    })
}

/// Registers on demand, and as the program asked if the device refuses that.
fn try_on_demand(request: Request, before: c_int, call: impl Fn(c_uint) -> *mut Mr) -> *mut Mr {
    let mr = call(request.access | ON_DEMAND);
    if !mr.is_null() {
        return unpinned(mr, request);
    }
    let cause = errno();
    set_errno(before);
    counted(call(request.access), || {
        refused("registration", request.length, cause);
    })
}

/// Counts memory that is pinned because the device refused it on demand, and says so once.
fn refused(what: &str, bytes: usize, cause: c_int) {
    stats::kept(Why::Refused, bytes);
    STAYS.give(format_args!(
        "memory stays pinned: on-demand {what} of {bytes} bytes failed with {}",
        Errno(cause)
    ));
}

/// Counts an on-demand region, and has its pages prefetched if that is wanted.
fn unpinned(mr: *mut Mr, request: Request) -> *mut Mr {
    counted(mr, || {
        stats::unpinned(request.length);
        // SAFETY: a region that was just registered.
        unsafe { prefetch::prefetch(mr, request) };
    })
}

/// Does `count` if there is a region. Keeps `errno` as the registration left it.
fn counted(mr: *mut Mr, count: impl FnOnce()) -> *mut Mr {
    if !mr.is_null() {
        let after = errno();
        count();
        set_errno(after);
    }
    mr
}

/// Changes a region through `call`, which gets the access flags: a change of access keeps an on-demand
/// region what it is. Where that fails the region is changed as the program asks.
///
/// # Safety
///
/// `mr` is a region of libibverbs.
pub(crate) unsafe fn change(
    mr: *mut Mr,
    request: Request,
    outermost: Option<&Outermost>,
    call: impl Fn(c_uint) -> c_int,
) -> c_int {
    let settings = environment::get();
    let off = settings.mode == Mode::Off || outermost.is_none();
    if off || request.access & ON_DEMAND != 0 {
        return call(request.access);
    }
    let before = errno();
    // SAFETY: by this function's contract.
    let pd = unsafe { (*mr).pd };
    // SAFETY: the protection domain of a registered region is valid.
    let facts = unsafe { facts_of(pd) };
    set_errno(before);
    match policy::choose(settings, &facts, request) {
        Choice::Keep(_) => call(request.access),
        Choice::OnDemand => call(request.access | ON_DEMAND),
        Choice::TryOnDemand => match call(request.access | ON_DEMAND) {
            0 => 0,
            _ => {
                let cause = errno();
                set_errno(before);
                let status = call(request.access);
                if status == 0 {
                    let after = errno();
                    refused("re-registration", request.length, cause);
                    set_errno(after);
                }
                status
            }
        },
    }
}

/// Registers memory in a way that has no on-demand form, and counts it.
pub(crate) fn left_alone(
    why: Why,
    bytes: usize,
    outermost: Option<&Outermost>,
    call: impl FnOnce() -> *mut Mr,
) -> *mut Mr {
    let settings = environment::get();
    if settings.mode == Mode::Off || outermost.is_none() {
        return call();
    }
    counted(call(), || stats::kept(why, bytes))
}

/// Counts a region that only its end brings to notice.
pub(crate) fn met_at_its_end(bytes: usize) {
    if environment::get().mode != Mode::Off {
        stats::kept(Why::Device, bytes);
    }
}

/// # Safety
///
/// `pd` is a protection domain of libibverbs, or null.
unsafe fn facts_of(pd: *mut Pd) -> Facts {
    let context = if pd.is_null() {
        ptr::null_mut()
    } else {
        // SAFETY: a protection domain has this field in every version.
        unsafe { (*pd).context }
    };
    // SAFETY: the context of a protection domain is open.
    unsafe { device::facts(context) }
}
