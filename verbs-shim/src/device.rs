// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a device can do, asked once for each open context.

use crate::{
    abi::{self, Context, DeviceName, OdpCaps},
    devx,
    known::{self, Driver, Known, RXE_VENDOR},
    log,
    maker::Maker,
    policy::Facts,
    raw::{self, Uncancelled},
    real::Real,
    settings::Level,
    sys,
};
use core::{
    ffi::{CStr, c_char, c_void},
    mem, ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

static DEVICE_NAME: Real = Real::new(c"ibv_get_device_name");

/// The facts about `context`.
///
/// Capabilities are asked for once; only what failed to be asked is asked again. What serves on-demand regions of rxe can
/// change while a context is open: `mr_backend` can be set at any time. It is read anew each second, and nothing of other devices is.
///
/// # Safety
///
/// `context` is an open context of libibverbs, or null.
pub(crate) unsafe fn facts(context: *mut Context) -> Facts {
    if context.is_null() {
        return Facts::NONE;
    }
    let facts = Facts {
        devx: devx::is(context),
        ..Facts::NONE
    };
    // SAFETY: by this function's contract.
    let device = unsafe { (*context).device };
    let now = sys::seconds();
    let known = slots_of(context).find_map(|slot| slot.get(context, device));
    let answer = match known {
        Some((answer, asked_at)) if asked_at == now || !answer.can_change() => answer,
        Some((answer, _)) if answer.rxe && answer.corrupting == corrupting(true) => {
            remember(context, device, now, answer);
            answer
        }
        _ => {
            // The driver is asked on the program's behalf, not in its call.
            let _whole = Uncancelled::begin();
            // SAFETY: by this function's contract.
            let answer = unsafe { ask(context) };
            remember(context, device, now, answer);
            answer
        }
    };
    Facts {
        odp: answer.odp,
        corrupting: answer.corrupting,
        ..facts
    }
}

/// What a device was found to be.
#[derive(Clone, Copy)]
struct Answer {
    odp: Option<OdpCaps>,
    corrupting: Option<&'static Known>,
    rxe: bool,
    /// Whether it may answer another time.
    failed: bool,
}

impl Answer {
    /// Whether it may be another one a second later.
    fn can_change(&self) -> bool {
        self.rxe || self.failed
    }
}

fn remember(context: *mut Context, device: *const c_void, now: u32, answer: Answer) {
    let holds = |wanted| {
        move |slot: &&Slot| {
            let held: *mut Context = slot.context.load(Relaxed);
            held == wanted
        }
    };
    let slot = slots_of(context)
        .find(holds(context))
        .or_else(|| slots_of(context).find(holds(ptr::null_mut())))
        .unwrap_or_else(|| &SLOTS[NEXT.fetch_add(1, Relaxed) % SLOTS.len()]);
    slot.set(context, device, now, answer);
}

/// All slots, beginning with the one where `context` is most likely to be found.
fn slots_of(context: *mut Context) -> impl Iterator<Item = &'static Slot> {
    // Contexts are some hundred bytes long.
    let first = (context as usize >> 9) % SLOTS.len();
    SLOTS[first..].iter().chain(&SLOTS[..first])
}

/// Forgets `context`, which is about to be closed: another device's may come to the same address.
pub(crate) fn forget(context: *mut Context) {
    for slot in &SLOTS {
        // Only what is still this one's goes.
        let _ = slot
            .context
            .compare_exchange(context, ptr::null_mut(), Release, Relaxed);
    }
}

/// The answer for one context.
///
/// Readers check `version` before and after, and take the answer for missing if it has changed.
struct Slot {
    /// Odd while the rest is written.
    version: AtomicU32,
    /// Seconds.
    asked_at: AtomicU32,
    context: AtomicPtr<Context>,
    /// Its device: a context that was closed unseen may have left its address to another one's.
    device: AtomicPtr<c_void>,
    known: AtomicUsize,
    general: AtomicU64,
    rc: AtomicU32,
    uc: AtomicU32,
    ud: AtomicU32,
}

/// `Slot::known`: the capabilities are known.
const CAPS: usize = 1 << 16;
/// `Slot::known`: the device is one of rxe.
const RXE: usize = 1 << 17;
/// `Slot::known`: it could not be asked.
const FAILED: usize = 1 << 18;

/// Room for as many contexts as a program may have open: without it, each registration would ask the device.
static SLOTS: [Slot; 128] = [const { Slot::new() }; 128];
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            asked_at: AtomicU32::new(0),
            context: AtomicPtr::new(ptr::null_mut()),
            device: AtomicPtr::new(ptr::null_mut()),
            known: AtomicUsize::new(0),
            general: AtomicU64::new(0),
            rc: AtomicU32::new(0),
            uc: AtomicU32::new(0),
            ud: AtomicU32::new(0),
        }
    }

    /// What is known of the context, and the second it was found out in.
    fn get(&self, context: *mut Context, device: *const c_void) -> Option<(Answer, u32)> {
        let version = self.version.load(Acquire);
        let its = self.context.load(Acquire) == context
            && self.device.load(Acquire).cast_const() == device;
        if !its || version % 2 == 1 {
            return None;
        }
        let asked_at = self.asked_at.load(Acquire);
        let known = self.known.load(Acquire);
        let odp = OdpCaps {
            general: self.general.load(Acquire),
            rc: self.rc.load(Acquire),
            uc: self.uc.load(Acquire),
            ud: self.ud.load(Acquire),
        };
        let answer = Answer {
            odp: (known & CAPS != 0).then_some(odp),
            corrupting: (known % CAPS)
                .checked_sub(1)
                .and_then(|at| known::CORRUPTING.get(at)),
            rxe: known & RXE != 0,
            failed: known & FAILED != 0,
        };
        // The loads above are acquiring ones, so this one comes after them.
        (self.version.load(Relaxed) == version).then_some((answer, asked_at))
    }

    fn set(&self, context: *mut Context, device: *const c_void, now: u32, answer: Answer) {
        let version = self.version.load(Relaxed);
        let mine = version % 2 == 0
            && self
                .version
                .compare_exchange(version, version + 1, Acquire, Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        let odp = answer.odp.unwrap_or_default();
        let entry = known::CORRUPTING
            .iter()
            .position(|known| Some(known) == answer.corrupting)
            .map_or(0, |at| at + 1);
        let flag = |is, flag| if is { flag } else { 0 };
        let flags =
            flag(answer.odp.is_some(), CAPS) | flag(answer.rxe, RXE) | flag(answer.failed, FAILED);
        // Releasing stores: who sees one of them sees that the version is odd.
        self.context.store(context, Release);
        self.device.store(device.cast_mut(), Release);
        self.asked_at.store(now, Release);
        self.known.store(entry | flags, Release);
        self.general.store(odp.general, Release);
        self.rc.store(odp.rc, Release);
        self.uc.store(odp.uc, Release);
        self.ud.store(odp.ud, Release);
        self.version.store(version.wrapping_add(2), Release);
    }
}

/// # Safety
///
/// `context` is an open context of libibverbs.
#[cold]
unsafe fn ask(context: *mut Context) -> Answer {
    // SAFETY: by this function's contract.
    let says = unsafe { abi::says(context) };
    let odp = says.map(|says| says.odp);
    // SAFETY: by this function's contract.
    let name = unsafe { name(context) };
    // A program without /sys, or whose device was renamed meanwhile, finds no attribute.
    let rxe = match says {
        Some(says) if says.vendor == RXE_VENDOR => true,
        _ => name.is_some_and(has_parent),
    };
    let corrupting = corrupting(rxe);
    tell(name.unwrap_or(c"?"), odp, corrupting.is_some());
    Answer {
        odp,
        corrupting,
        rxe,
        failed: says.is_none(),
    }
}

/// Why the device is not to be trusted, if so. It is read for rxe only.
fn corrupting(rxe: bool) -> Option<&'static Known> {
    if !rxe {
        return known::corrupting(Driver::Other, None);
    }
    let mut backend = [0; 32];
    let backend = sys::read_file(c"/sys/module/rdma_rxe/parameters/mr_backend", &mut backend);
    known::corrupting(Driver::Rxe, backend)
}

/// Says what was found.
fn tell(name: &CStr, odp: Option<OdpCaps>, corrupting: bool) {
    let name = name.to_str().unwrap_or("?");
    match odp {
        Some(odp) => log::say(Level::Info, format_args!("{name}: {odp}")),
        None => log::say(Level::Info, format_args!("{name}: can't be asked")),
    }
    if corrupting {
        log::say(
            Level::Info,
            format_args!("{name}: known to corrupt on-demand data"),
        );
    }
}

/// # Safety
///
/// `context` is an open context of libibverbs, and stays open while the name is used.
unsafe fn name<'a>(context: *mut Context) -> Option<&'a CStr> {
    // SAFETY: by this function's contract.
    let name_of = DEVICE_NAME.own(unsafe { Maker::of_context(context) });
    if name_of.is_null() {
        return None;
    }
    // SAFETY: an open context has a device.
    let device = unsafe { (*context).device };
    // SAFETY: the address is that of `ibv_get_device_name`.
    let name_of: DeviceName = unsafe { mem::transmute(name_of) };
    // SAFETY: the device of an open context.
    let name: *const c_char = unsafe { name_of(device) };
    // SAFETY: the name is part of the device, which is there as long as the context.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}

/// Whether the device has the attribute `parent`: of the drivers in the tree, rxe alone has.
fn has_parent(name: &CStr) -> bool {
    let mut path = [0_u8; 128];
    let parts = [
        b"/sys/class/infiniband/".as_slice(),
        name.to_bytes(),
        b"/parent",
    ];
    let mut len = 0;
    for part in parts {
        let Some(room) = path[..127].get_mut(len..len + part.len()) else {
            return false;
        };
        room.copy_from_slice(part);
        len += part.len();
    }
    CStr::from_bytes_until_nul(&path).is_ok_and(raw::exists)
}
