// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a device can do, asked at most once a second for each open context.

use crate::{
    abi::{self, Context, DeviceName, OdpCaps},
    known::{self, Driver, RXE_VENDOR},
    log::{self, Level},
    policy::Facts,
    raw::{self, Uncancelled},
    real::Real,
    sys,
};
use core::{
    ffi::{CStr, c_char},
    mem, ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

static DEVICE_NAME: Real = Real::new(c"ibv_get_device_name");

/// The facts about `context`.
///
/// They can change while the context is open: `mr_backend` of rxe can be set at any time. A second's
/// delay is the price of not asking at each registration.
///
/// # Safety
///
/// `context` is an open context of libibverbs, or null.
pub(crate) unsafe fn facts(context: *mut Context) -> Facts {
    if context.is_null() {
        return Facts::NONE;
    }
    let now = sys::seconds();
    if let Some(facts) = SLOTS.iter().find_map(|slot| slot.get(context, now)) {
        return facts;
    }
    // The driver is asked on the program's behalf, not in its call.
    let _whole = Uncancelled::begin();
    // SAFETY: by this function's contract.
    let facts = unsafe { ask(context) };
    let slot = SLOTS
        .iter()
        .find(|slot| slot.context.load(Relaxed) == context)
        .unwrap_or_else(|| &SLOTS[NEXT.fetch_add(1, Relaxed) % SLOTS.len()]);
    slot.set(context, now, &facts);
    facts
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
    known: AtomicUsize,
    general: AtomicU64,
    rc: AtomicU32,
    uc: AtomicU32,
    ud: AtomicU32,
}

/// `Slot::known`: the capabilities are known.
const CAPS: usize = 1 << 16;

static SLOTS: [Slot; 16] = [const { Slot::new() }; 16];
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            asked_at: AtomicU32::new(0),
            context: AtomicPtr::new(ptr::null_mut()),
            known: AtomicUsize::new(0),
            general: AtomicU64::new(0),
            rc: AtomicU32::new(0),
            uc: AtomicU32::new(0),
            ud: AtomicU32::new(0),
        }
    }

    fn get(&self, context: *mut Context, now: u32) -> Option<Facts> {
        let version = self.version.load(Acquire);
        let fresh = self.context.load(Acquire) == context && self.asked_at.load(Acquire) == now;
        if !fresh || version % 2 == 1 {
            return None;
        }
        let known = self.known.load(Acquire);
        let odp = OdpCaps {
            general: self.general.load(Acquire),
            rc: self.rc.load(Acquire),
            uc: self.uc.load(Acquire),
            ud: self.ud.load(Acquire),
        };
        // The loads above are acquiring ones, so this one comes after them.
        (self.version.load(Relaxed) == version).then(|| Facts {
            odp: (known & CAPS != 0).then_some(odp),
            corrupting: (known % CAPS)
                .checked_sub(1)
                .and_then(|at| known::CORRUPTING.get(at)),
        })
    }

    fn set(&self, context: *mut Context, now: u32, facts: &Facts) {
        let version = self.version.load(Relaxed);
        let mine = version % 2 == 0
            && self
                .version
                .compare_exchange(version, version + 1, Acquire, Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        let odp = facts.odp.unwrap_or_default();
        let entry = known::CORRUPTING
            .iter()
            .position(|known| Some(known) == facts.corrupting)
            .map_or(0, |at| at + 1);
        let caps = if facts.odp.is_some() { CAPS } else { 0 };
        // Releasing stores: who sees one of them sees that the version is odd.
        self.context.store(context, Release);
        self.asked_at.store(now, Release);
        self.known.store(entry | caps, Release);
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
unsafe fn ask(context: *mut Context) -> Facts {
    // SAFETY: by this function's contract.
    let says = unsafe { abi::says(context) };
    let odp = says.map(|says| says.odp);
    // SAFETY: by this function's contract.
    let name = unsafe { name(context) };
    // A program without /sys, or whose device was renamed meanwhile, finds no attribute.
    let driver = match says {
        Some(says) if says.vendor == RXE_VENDOR => Driver::Rxe,
        _ => name.map_or(Driver::Other, driver),
    };
    let mut backend = [0; 32];
    let backend = sys::read_file(c"/sys/module/rdma_rxe/parameters/mr_backend", &mut backend);
    let corrupting = known::corrupting(driver, backend);
    tell(name.unwrap_or(c"?"), odp, corrupting.is_some());
    Facts { odp, corrupting }
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
    let name_of = DEVICE_NAME.own();
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

/// The kind of the device: of the drivers in the tree, rxe alone has the attribute `parent`.
fn driver(name: &CStr) -> Driver {
    let mut path = [0_u8; 128];
    let parts = [
        b"/sys/class/infiniband/".as_slice(),
        name.to_bytes(),
        b"/parent",
    ];
    let mut len = 0;
    for part in parts {
        let Some(room) = path[..127].get_mut(len..len + part.len()) else {
            return Driver::Other;
        };
        room.copy_from_slice(part);
        len += part.len();
    }
    match CStr::from_bytes_until_nul(&path).is_ok_and(raw::exists) {
        true => Driver::Rxe,
        false => Driver::Other,
    }
}
