// SPDX-License-Identifier: GPL-2.0

//! `/dev/xpmem`, with the ioctls of XPMEM.

use crate::{
    grant::{ApId, Grant},
    limits::What,
    registry::{Opened, Registry},
    segment::{user_space, whole_pages, Access, SegId, Segment, PAGE},
};
use kernel::{
    bindings, container_of,
    error::to_result,
    fs::File,
    ioctl::_IO,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
    sync::Arc,
    transmute::FromBytes,
    types::Opaque,
    uaccess::{UserPtr, UserSlice},
};

/// What VERSION returns: XPMEM's own of this interface.
const VERSION_NUMBER: isize = 0x2_6005;

/// The file is another process's: libxpmem opens the device again.
const NOPROC: i32 = 2004;

const VERSION: u32 = _IO(b'x' as u32, 0);
const MAKE: u32 = _IO(b'x' as u32, 1);
const REMOVE: u32 = _IO(b'x' as u32, 2);
const GET: u32 = _IO(b'x' as u32, 3);
const RELEASE: u32 = _IO(b'x' as u32, 4);
const ATTACH: u32 = _IO(b'x' as u32, 5);
const DETACH: u32 = _IO(b'x' as u32, 6);
const FORK_BEGIN: u32 = _IO(b'x' as u32, 7);
const FORK_END: u32 = _IO(b'x' as u32, 8);

/// `permit_type`: a mode.
const PERMIT_MODE: i32 = 1;

const RDONLY: i32 = 1;
const RDWR: i32 = 2;

/// What MAKE takes; `segid` is given back.
#[repr(C)]
struct MakeArg {
    vaddr: u64,
    size: u64,
    permit_type: i32,
    permit_value: u64,
    segid: SegId,
}

/// What GET takes; `apid` is given back.
#[repr(C)]
struct GetArg {
    segid: SegId,
    flags: i32,
    permit_type: i32,
    permit_value: u64,
    apid: ApId,
}

/// What ATTACH takes; `vaddr` is given back. `fd` and `flags` have no meaning.
#[repr(C)]
struct AttachArg {
    apid: ApId,
    offset: i64,
    size: u64,
    vaddr: u64,
    fd: i32,
    flags: i32,
}

const _: () = {
    assert!(size_of::<MakeArg>() == 40 && size_of::<GetArg>() == 32);
    assert!(size_of::<AttachArg>() == 40);
};

// SAFETY: integers only; what lies between them is not looked at.
unsafe impl FromBytes for MakeArg {}
// SAFETY: integers only.
unsafe impl FromBytes for GetArg {}
// SAFETY: integers only.
unsafe impl FromBytes for AttachArg {}

/// The argument of an ioctl.
#[derive(Clone, Copy)]
struct Arg(usize);

impl Arg {
    fn read<T: FromBytes>(self) -> Result<T> {
        UserSlice::new(UserPtr::from_addr(self.0), size_of::<T>())
            .reader()
            .read()
    }

    /// Puts `value` where its field is.
    fn give(self, field: usize, value: i64) -> Result {
        let at = UserPtr::from_addr(self.0.wrapping_add(field));
        UserSlice::new(at, size_of::<i64>()).writer().write(&value)
    }
}

/// The device.
///
/// # Invariants
///
/// `misc` is registered from its construction to its end.
#[pin_data(PinnedDrop)]
pub(crate) struct Device {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    registry: Arc<Registry>,
}

// SAFETY: it may be given back by any thread.
unsafe impl Send for Device {}
// SAFETY: `&Device` gives the registry, which is `Sync`.
unsafe impl Sync for Device {}

impl Device {
    /// It can be opened from then on, by everybody.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registry: Registry::new()?,
            misc <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                let options = MiscDeviceOptions { name: c"xpmem" };
                let mut misc = options.into_raw::<Opened>();
                misc.mode = 0o666;
                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(misc) };
                // SAFETY: just written; `drop` deregisters it before its memory goes.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        }? Error)
    }
}

#[pinned_drop]
impl PinnedDrop for Device {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: registered, by the type's invariant.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

#[vtable]
impl MiscDevice for Opened {
    type Ptr = Arc<Self>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let misc = Opaque::cast_from(misc.as_raw());
        // SAFETY: the only such device is part of `Device`, and stays while it is being opened.
        let device = unsafe { &*container_of!(misc, Device, misc) };
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        Ok(Arc::new(device.registry.open(mm)?, GFP_KERNEL_ACCOUNT)?)
    }

    fn ioctl(
        opened: <Self::Ptr as kernel::types::ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        command: u32,
        arg: usize,
    ) -> Result<isize> {
        if command == VERSION {
            return Ok(VERSION_NUMBER);
        }
        if !(MAKE..=FORK_END).contains(&command) {
            return Err(ENOTTY);
        }
        if !opened.process().is_current() {
            return Err(Error::from_errno(-NOPROC));
        }
        let arg = Arg(arg);
        match command {
            MAKE => make(&opened, arg),
            REMOVE => remove(&opened, arg.read()?),
            GET => get(&opened, arg),
            RELEASE => release(&opened, arg.read()?),
            ATTACH => attach(&opened, arg),
            DETACH => detach(arg.read()?),
            // A child has no attachments by itself.
            FORK_BEGIN | FORK_END => Ok(()),
            _ => Err(ENOTTY),
        }?;
        Ok(0)
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl(
        _opened: <Self::Ptr as kernel::types::ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        _command: u32,
        _arg: usize,
    ) -> Result<isize> {
        // Nobody has defined what these look like to a 32-bit program.
        Err(ENOTTY)
    }
}

fn make(opened: &Opened, arg: Arg) -> Result {
    let make: MakeArg = arg.read()?;
    if make.permit_type != PERMIT_MODE || make.permit_value > 0o777 {
        return Err(EINVAL);
    }
    let current = current!();
    let mm = current.mm().ok_or(EINVAL)?;
    let mode = make.permit_value as u32;
    let charge = opened.registry().charge(What::Segment)?;
    let segment = Segment::new(mm, make.vaddr, make.size, mode, charge)?;
    let id = opened
        .registry()
        .publish(opened.process(), segment.clone())
        .inspect_err(|_| segment.end())?;
    arg.give(core::mem::offset_of!(MakeArg, segid), id)
        .inspect_err(|_| {
            let _ = remove(opened, id);
        })
}

fn remove(opened: &Opened, id: SegId) -> Result {
    if id <= 0 {
        return Err(EINVAL);
    }
    let Some(segment) = opened.process().take_segment(id) else {
        let other = opened.registry().segment(id);
        return Err(if other.is_some() { EACCES } else { ENOENT });
    };
    opened.registry().withdraw(id);
    segment.end();
    Ok(())
}

fn get(opened: &Opened, arg: Arg) -> Result {
    let get: GetArg = arg.read()?;
    let access = match get.flags {
        RDONLY => Access::Read,
        RDWR => Access::Write,
        _ => return Err(EINVAL),
    };
    if get.permit_type != PERMIT_MODE || get.permit_value != 0 || get.segid <= 0 {
        return Err(EINVAL);
    }
    let segment = opened.registry().segment(get.segid).ok_or(ENOENT)?;
    if segment.is_over() {
        return Err(ENOENT);
    }
    if !segment.permits(access) {
        return Err(EACCES);
    }
    let id = opened.registry().name_grant();
    let charge = opened.registry().charge(What::Grant)?;
    let grant = Grant::new(segment, access, charge)?;
    opened.process().add_grant(id, grant)?;
    arg.give(core::mem::offset_of!(GetArg, apid), id)
        .inspect_err(|_| {
            let _ = release(opened, id);
        })
}

fn release(opened: &Opened, id: ApId) -> Result {
    if id <= 0 {
        return Err(EINVAL);
    }
    let grant = opened.process().take_grant(id).ok_or(ENOENT)?;
    grant.release(true);
    Ok(())
}

fn attach(opened: &Opened, arg: Arg) -> Result {
    let attach: AttachArg = arg.read()?;
    let offset = u64::try_from(attach.offset).map_err(|_| EINVAL)?;
    if attach.apid <= 0 || offset % PAGE != 0 || attach.vaddr % PAGE != 0 {
        return Err(EINVAL);
    }
    let grant = opened.process().grant(attach.apid).ok_or(ENOENT)?;
    let segment = grant.segment();
    if segment.is_over() {
        return Err(ENOENT);
    }
    let address = segment.address(offset, attach.size).ok_or(EINVAL)?;
    let (first, bytes) = whole_pages(address, attach.size).ok_or(EINVAL)?;
    if attach.vaddr > user_space().saturating_sub(bytes) {
        return Err(EINVAL);
    }
    // Not over what is attached.
    if attach.vaddr != 0
        && current!().mm().is_some_and(|mm| segment.is_of(mm))
        && attach.vaddr < first + bytes
        && first < attach.vaddr + bytes
    {
        return Err(EINVAL);
    }
    let at = grant.attach(first, bytes, attach.vaddr)?;
    // The byte that was asked for.
    let byte = at + (address - first);
    arg.give(core::mem::offset_of!(AttachArg, vaddr), byte as i64)
        .inspect_err(|_| {
            let _ = detach(at);
        })
}

fn detach(at: u64) -> Result {
    // SAFETY: an ioctl's caller has memory, whose lock is not held.
    to_result(unsafe { crate::glue::emm_xpmem_detach(at) })
}
