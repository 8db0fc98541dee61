//! Kinds of memory that a region reaches only so far, or not at all.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::mapping::{REMOTE, expect};
use crate::ffi;
use crate::kmsg::Journal;
use crate::mem::{Map, PAGE, Wrong};
use crate::qp::Op;
use crate::target::Target;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 64 * PAGE;
/// What pkey_mprotect(2) takes away from threads that have not said otherwise.
const PKEY_DISABLE_ACCESS: u64 = 1;
/// Bits of an address that Linear Address Masking leaves to the program.
const TAG: usize = 0x2a << 57;

/// The cases.
pub fn kinds(c: &Ctx<'_>) -> Result<()> {
    c.case("below a stack that could grow", stack(c));
    c.case("memory that may be written only", write_only(c));
    match key()? {
        Some(key) => _ = c.case("memory with a protection key", protected(c, &key)),
        None => c
            .env
            .report
            .skip("kinds: protection keys", "this CPU has none", false),
    }
    c.case("a tagged address", tagged(c));
    match registers()? {
        Some(map) => _ = c.case("registers of a device", register(c, map)),
        None => {
            let why = "no PCI device has registers that can be mapped";
            c.env.report.skip("kinds: registers", why, false);
        }
    }
    Ok(())
}

/// WRITE and READ of 100 bytes at `address` end in protection errors.
fn refused(t: &mut Target, address: u64) -> Result<String> {
    let mut said = String::new();
    for op in [Op::Write, Op::Read] {
        let mut at = t.remote(0);
        at.addr = address;
        let result = t.qp().run(op, t.bounce_piece(64), 100, at);
        said = expect(result, &REMOTE, &format!("{op:?} at {address:#x}"))?;
        t.new_qp()?;
    }
    Ok(said)
}

/// The page faults of a CPU grow a stack, by the stack pointer of its thread. A device has none.
fn stack(c: &Ctx<'_>) -> Result<String> {
    let mut journal = Journal::open(&c.env.device)?;
    // What is above stays mapped, below is nothing.
    let whole = Map::anon(SIZE)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let (addr, half) = (whole.addr(), SIZE / 2);
    let mr = Mr::new(&c.env.pd, addr, SIZE, ALL_ACCESS | c.kind.flags())?;
    let mut t = Target::sharing(c.env, Arc::new(whole), Arc::new(mr))?;
    t.spare_qps(4)?;
    t.map.punch(0, SIZE)?;
    let upper = Map::with(addr + half, half, access, libc::MAP_GROWSDOWN, -1)?;
    upper.set(0, half, 1);
    let below = (addr + half - 3 * PAGE) as u64;
    let said = refused(&mut t, below)?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let start = format!("{:x}-", addr + half);
    if !maps.lines().any(|line| line.starts_with(&start)) {
        bail!("the mapping at {start} has another start now:\n{maps}");
    }
    t.read_cmp(half, half, |_, out| out.fill(1))?;
    // The map above is a part of the target's, which unmaps it.
    std::mem::forget(upper);
    let log = journal.quiet()?;
    Ok(format!("{said}; {log}"))
}

fn write_only(c: &Ctx<'_>) -> Result<String> {
    let map = Map::with(0, SIZE, libc::PROT_WRITE, 0, -1)?;
    let mut t = Target::new(c.env, c.kind, map)?;
    t.spare_qps(2)?;
    let address = t.remote(PAGE + 5).addr;
    refused(&mut t, address)
}

/// A protection key that the thread's own accesses fail by.
struct Key(i64);

fn key() -> Result<Option<Key>> {
    // SAFETY: takes numbers only.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0u64, PKEY_DISABLE_ACCESS) };
    match io::Error::last_os_error().raw_os_error() {
        _ if key >= 0 => Ok(Some(Key(key))),
        Some(libc::ENOSPC | libc::EINVAL | libc::ENOSYS) => Ok(None),
        _ => Err(io::Error::last_os_error()).context("pkey_alloc"),
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: takes a number only; no mapping has the key any more.
        unsafe { libc::syscall(libc::SYS_pkey_free, self.0) };
    }
}

/// Keys are a thread's, and a device is none: what was registered stays reached, as by process_vm_readv(2).
fn protected(c: &Ctx<'_>, key: &Key) -> Result<String> {
    let t = c.target(SIZE)?;
    t.round(0, SIZE, c.seed(1))?;
    protect(&t.map, key.0)?;
    t.read(0, SIZE, c.seed(1))?;
    t.write(1, SIZE - 1, c.seed(2))?;
    t.read(1, SIZE - 1, c.seed(2))?;
    protect(&t.map, 0)?;
    t.cpu_check(1, SIZE - 1, c.seed(2))?;
    Ok("READ and WRITE go on, also where the CPU's own accesses fail: 0 wrong bytes".into())
}

fn protect(map: &Map, key: i64) -> Result<()> {
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let (addr, len) = (map.addr(), map.len());
    // SAFETY: the range is the map's, which nothing refers to by reference.
    match unsafe { libc::syscall(libc::SYS_pkey_mprotect, addr, len, access, key) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("pkey_mprotect"),
    }
}

/// Registrations are refused, and so are accesses through another one.
fn tagged(c: &Ctx<'_>) -> Result<String> {
    let mut t = c.target(SIZE)?;
    t.spare_qps(2)?;
    t.round(0, SIZE, c.seed(1))?;
    let access = ffi::IBV_ACCESS_REMOTE_READ | c.kind.flags();
    let registration = match Mr::new(&c.env.pd, t.map.addr() | TAG, PAGE, access) {
        Ok(_) => bail!("a tagged address is registered"),
        Err(error) => error,
    };
    let address = t.remote(0).addr | TAG as u64;
    let said = refused(&mut t, address)?;
    t.read_one(0, 100, |_, _| Wrong::default())?;
    Ok(format!("registration: {registration}; access: {said}"))
}

/// A page of registers of a PCI device, mapped.
fn registers() -> Result<Option<Map>> {
    for device in fs::read_dir("/sys/bus/pci/devices")? {
        let device = device?.path();
        for number in 0..6 {
            let path = device.join(format!("resource{number}"));
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let fd = file.as_raw_fd();
            if let Ok(map) = Map::with(0, PAGE, libc::PROT_READ, libc::MAP_SHARED, fd) {
                return Ok(Some(map));
            }
        }
    }
    Ok(None)
}

/// They are no memory: a region of them is refused, or reaches none of it.
fn register(c: &Ctx<'_>, map: Map) -> Result<String> {
    let access = ffi::IBV_ACCESS_REMOTE_READ | c.kind.flags();
    let mr = match Mr::new(&c.env.pd, map.addr(), PAGE, access) {
        Err(error) => return Ok(format!("registration is refused: {error}")),
        Ok(mr) => mr,
    };
    let mut t = Target::sharing(c.env, Arc::new(map), Arc::new(mr))?;
    t.spare_qps(2)?;
    let address = t.remote(0).addr;
    refused(&mut t, address)
}
