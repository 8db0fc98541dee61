// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `/dev/xpmem` and its users agree on: the numbers and layouts of XPMEM 2.6, on 64-bit Linux.
//!
//! Each call is an `ioctl` with a pointer to one of the structures below; what it makes is written to the structure's last identifier.

use std::ffi::{CStr, c_int, c_ulong};

/// The device.
pub const DEVICE: &CStr = c"/dev/xpmem";

/// `_IO('x', number)`.
const fn io(number: c_ulong) -> c_ulong {
    (b'x' as c_ulong) << 8 | number
}

/// Returns the version of the interface, `0x26005` or newer; no argument.
pub const VERSION: c_ulong = io(0);
/// Makes a segment: [`Make`].
pub const MAKE: c_ulong = io(1);
/// Ends a segment: [`One`], its identifier.
pub const REMOVE: c_ulong = io(2);
/// Gets a permit for a segment: [`Get`].
pub const GET: c_ulong = io(3);
/// Gives a permit back: [`One`], its identifier.
pub const RELEASE: c_ulong = io(4);
/// Maps memory of a segment: [`Attach`].
pub const ATTACH: c_ulong = io(5);
/// Unmaps it: [`One`], an address in it.
pub const DETACH: c_ulong = io(6);
/// Before a fork; no argument. Nobody has to call it.
pub const FORK_BEGIN: c_ulong = io(7);
/// After a fork; no argument. Nobody has to call it.
pub const FORK_END: c_ulong = io(8);

/// A permit to read.
pub const RDONLY: c_int = 1;
/// A permit to read and write.
pub const RDWR: c_int = 2;
/// The only type of permit there is: `permit_value` is a mode of at most `0777`.
pub const PERMIT_MODE: c_int = 1;
/// The size of a segment that is all of the address space, now and later.
pub const WHOLE: usize = usize::MAX;
/// The errno by which a device says that the process has not opened it: it was opened before a fork.
pub const NOPROC: c_int = 2004;

/// The argument of [`MAKE`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Make {
    /// The first address.
    pub vaddr: u64,
    /// Bytes, or [`WHOLE`].
    pub size: usize,
    /// [`PERMIT_MODE`].
    pub permit_type: c_int,
    /// Who may attach: a mode.
    pub permit_value: u64,
    /// The new segment.
    pub segid: i64,
}

/// The argument of [`GET`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Get {
    /// The segment.
    pub segid: i64,
    /// [`RDONLY`] or [`RDWR`].
    pub flags: c_int,
    /// [`PERMIT_MODE`].
    pub permit_type: c_int,
    /// 0. The segment's owner decides.
    pub permit_value: u64,
    /// The new permit.
    pub apid: i64,
}

/// The argument of [`ATTACH`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attach {
    /// The permit.
    pub apid: i64,
    /// Bytes from the segment's start.
    pub offset: i64,
    /// Bytes.
    pub size: usize,
    /// Where to map, or 0; then where it was mapped.
    pub vaddr: u64,
    /// Not used.
    pub fd: c_int,
    /// Not used: 0.
    pub flags: c_int,
}

/// The argument of [`REMOVE`], [`RELEASE`] and [`DETACH`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct One {
    /// A segment, a permit or an address.
    pub id: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// As a C compiler lays them out: see `samples`, where one checks the header.
    #[test]
    fn layouts_are_those_of_c() {
        assert_eq!(size_of::<Make>(), 40);
        assert_eq!(offset_of!(Make, permit_value), 24);
        assert_eq!(offset_of!(Make, segid), 32);
        assert_eq!(size_of::<Get>(), 32);
        assert_eq!(offset_of!(Get, permit_value), 16);
        assert_eq!(offset_of!(Get, apid), 24);
        assert_eq!(size_of::<Attach>(), 40);
        assert_eq!(offset_of!(Attach, vaddr), 24);
        assert_eq!(offset_of!(Attach, flags), 36);
        assert_eq!(size_of::<One>(), 8);
        assert_eq!((VERSION, ATTACH, FORK_END), (0x7800, 0x7805, 0x7808));
    }
}
