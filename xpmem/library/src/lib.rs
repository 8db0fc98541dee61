// SPDX-License-Identifier: MIT OR Apache-2.0

//! `libxpmem.so.0`: XPMEM's seven functions, for programs that know them. The header says what they do.

use std::ffi::{c_int, c_void};
use std::io;

use xpmem::raw;

/// `struct xpmem_addr`
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Address {
    /// The permit.
    pub apid: i64,
    /// Bytes from the segment's start.
    pub offset: libc::off_t,
}

/// What the caller gets: -1 for an error, which is in errno.
fn answer<T>(result: io::Result<T>, failed: T) -> T {
    result.unwrap_or_else(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // SAFETY: takes nothing.
        let own = unsafe { libc::__errno_location() };
        // SAFETY: a pointer to this thread's own, always valid.
        unsafe { own.write(errno) };
        failed
    })
}

fn done(result: io::Result<()>) -> c_int {
    answer(result.map(|()| 0), -1)
}

/// The version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn xpmem_version() -> c_int {
    answer(raw::version(), -1)
}

/// Makes a segment.
///
/// # Safety
///
/// As for [`raw::make`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xpmem_make(
    vaddr: *mut c_void,
    size: usize,
    permit_type: c_int,
    permit_value: *mut c_void,
) -> i64 {
    // SAFETY: as the caller promises.
    let made = unsafe { raw::make(vaddr, size, permit_type, permit_value.addr() as u64) };
    answer(made, -1)
}

/// Ends a segment.
#[unsafe(no_mangle)]
pub extern "C" fn xpmem_remove(segid: i64) -> c_int {
    done(raw::remove(segid))
}

/// Gets a permit. What programs give as `permit_value` is not looked at, here and in the library that they were made for.
#[unsafe(no_mangle)]
pub extern "C" fn xpmem_get(
    segid: i64,
    flags: c_int,
    permit_type: c_int,
    _permit_value: *mut c_void,
) -> i64 {
    answer(raw::get(segid, flags, permit_type), -1)
}

/// Gives a permit back.
///
/// # Safety
///
/// As for [`raw::release`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xpmem_release(apid: i64) -> c_int {
    // SAFETY: as the caller promises.
    done(unsafe { raw::release(apid) })
}

/// Maps memory of a segment.
///
/// # Safety
///
/// As for [`raw::attach`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xpmem_attach(
    addr: Address,
    size: usize,
    vaddr: *mut c_void,
) -> *mut c_void {
    // SAFETY: as the caller promises.
    let attached = unsafe { raw::attach(addr.apid, addr.offset, size, vaddr) };
    answer(attached, libc::MAP_FAILED)
}

/// Unmaps it.
///
/// # Safety
///
/// As for [`raw::detach`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xpmem_detach(vaddr: *mut c_void) -> c_int {
    // SAFETY: as the caller promises.
    done(unsafe { raw::detach(vaddr) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::ptr::null_mut;

    /// What a program in C is told to be there.
    const PROGRAM: &str = "#include <xpmem.h>
        _Static_assert(sizeof(struct xpmem_addr) == 16 && sizeof(off_t) == 8, \"\");
        _Static_assert(XPMEM_RDONLY == 1 && XPMEM_RDWR == 2 && XPMEM_PERMIT_MODE == 1, \"\");
        _Static_assert(XPMEM_ERRNO_NOPROC == 2004 && XPMEM_MAXADDR_SIZE == (size_t)-1, \"\");
        int (*version)(void) = xpmem_version;
        __s64 (*make)(void *, size_t, int, void *) = xpmem_make;
        int (*remove_)(__s64) = xpmem_remove;
        __s64 (*get)(__s64, int, int, void *) = xpmem_get;
        int (*release)(__s64) = xpmem_release;
        void *(*attach)(struct xpmem_addr, size_t, void *) = xpmem_attach;
        int (*detach)(void *) = xpmem_detach;
        ";

    #[test]
    fn the_header_says_what_is_there() {
        let mut cc = Command::new("cc")
            .args([
                "-std=c11",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pedantic",
                "-fsyntax-only",
            ])
            .args([
                "-I",
                concat!(env!("CARGO_MANIFEST_DIR"), "/include"),
                "-x",
                "c",
                "-",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = cc.stdin.take().unwrap();
        input.write_all(PROGRAM.as_bytes()).unwrap();
        drop(input);
        assert!(cc.wait().unwrap().success());
        assert_eq!(size_of::<Address>(), 16);
    }

    /// With a device it is no segment; without there is no device.
    #[test]
    fn what_fails_is_in_errno() {
        assert_eq!(xpmem_get(0, 2, 1, null_mut()), -1);
        let errno = io::Error::last_os_error().raw_os_error();
        let expected = [libc::EINVAL, libc::ENOENT].map(Some);
        assert!(expected.contains(&errno), "{errno:?}");
        let addr = Address { apid: 0, offset: 0 };
        // SAFETY: it maps nothing: the permit is none.
        let at = unsafe { xpmem_attach(addr, 4096, null_mut()) };
        assert_eq!(at, libc::MAP_FAILED);
    }
}
