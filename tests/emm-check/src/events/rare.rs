//! Calls that few programs make, each of which changes what an address means: guard pages, UFFDIO_MOVE, a debugger's writes,
//! poisoned pages, secret memory; and soft-dirty marks, by which checkpoints find what was written.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::files::memfd;
use super::fork::{child, join};
use super::mapping::{REMOTE, expect};
use crate::mem::{Map, PAGE, Wrong, pattern};
use crate::target::Target;
use crate::uffd::Uffd;

const PAGES: usize = 64;
const SIZE: usize = PAGES * PAGE;
/// What the calls are about.
const FIRST: usize = 16 * PAGE;
const LEN: usize = 8 * PAGE;
const BEHIND: usize = FIRST + LEN;

// include/uapi/asm-generic/mman-common.h
const MADV_SOFT_OFFLINE: i32 = 101;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;
/// Documentation/admin-guide/mm/pagemap.rst: bit 55.
const SOFT_DIRTY: u64 = 1 << 55;

/// The cases.
pub fn rare(c: &Ctx<'_>) -> Result<()> {
    c.case("guard pages", guard(c));
    c.case("mremap that leaves the mapping", left(c));
    c.case("UFFDIO_MOVE", moved(c));
    c.case("UFFDIO_CONTINUE", minor(c));
    c.case("read-only pages written by a debugger", forced(c));
    let poison = fs::read_to_string("/proc/meminfo")?.contains("HardwareCorrupted");
    c.where_there("pages taken offline", poison.then(|| offline(c)));
    c.where_there("poisoned pages", poison.then(|| poisoned(c)));
    c.where_there("secret memory", secret_file()?.map(|file| secret(c, &file)));
    c.where_there("soft-dirty marks", has_marks()?.then(|| soft_dirty(c)));
    Ok(())
}

impl Ctx<'_> {
    /// Reports a case of what not every kernel has.
    fn where_there(&self, name: &str, outcome: Option<Result<String>>) {
        match outcome {
            Some(outcome) => _ = self.case(name, outcome),
            None => {
                let name = format!("{}: {name}", self.event);
                self.env.report.skip(&name, "this kernel has none", false);
            }
        }
    }
}

/// READs of all but the pages in question.
fn rest(t: &Target, seed: u64) -> Result<()> {
    t.read(0, FIRST, seed)?;
    t.read(BEHIND, SIZE - BEHIND, seed)
}

/// That a WRITE to the pages in question, and a READ, end in errors.
fn refused(t: &mut Target) -> Result<String> {
    expect(t.write_one(FIRST + 77, 100, 7), &REMOTE, "WRITE")?;
    t.new_qp()?;
    let read = t.read_one(BEHIND - 100, 50, |_, _| Wrong::default());
    let said = expect(read.map(|_| ()), &REMOTE, "READ")?;
    t.new_qp()?;
    Ok(said)
}

fn guard(c: &Ctx<'_>) -> Result<String> {
    let mut t = c.target(SIZE)?;
    t.spare_qps(2)?;
    t.round(0, SIZE, c.seed(1))?;
    t.map.advise(FIRST, LEN, MADV_GUARD_INSTALL)?;
    let said = refused(&mut t)?;
    rest(&t, c.seed(1))?;
    t.map.advise(FIRST, LEN, MADV_GUARD_REMOVE)?;
    t.read_cmp(FIRST, LEN, |_, out| out.fill(0))?;
    t.round(1, SIZE - 1, c.seed(2))?;
    Ok(format!("{said}; without them fresh memory, 0 wrong bytes"))
}

fn left(c: &Ctx<'_>) -> Result<String> {
    let t = c.target(SIZE)?;
    t.round(0, SIZE, c.seed(1))?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let from = (t.map.addr() + FIRST) as *mut libc::c_void;
    let anywhere = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the range is the map's, which stays mapped; the new one is nobody's yet.
    let to = unsafe { libc::mremap(from, LEN, LEN, flags, anywhere) };
    if to == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).context("mremap");
    }
    let moved = Map::adopt(to as usize, LEN);
    t.read_cmp(FIRST, LEN, |_, out| out.fill(0))?;
    t.round(0, SIZE, c.seed(2))?;
    moved
        .check(0, LEN, c.seed(1), FIRST)
        .ok("what was moved away")?;
    Ok("fresh memory where it was, the old bytes where they went: 0 wrong".into())
}

fn moved(c: &Ctx<'_>) -> Result<String> {
    let (t, to) = (c.target(SIZE)?, c.target(SIZE)?);
    t.round(0, SIZE, c.seed(1))?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler
        .watch(&to.map, FIRST, LEN)
        .context("UFFDIO_REGISTER")?;
    for page in 0..LEN / PAGE {
        let off = FIRST + page * PAGE;
        handler
            .move_pages(t.map.addr() + off, PAGE, to.map.addr() + off)
            .with_context(|| format!("UFFDIO_MOVE of page {page}"))?;
        to.read(FIRST, (page + 1) * PAGE, c.seed(1))?;
    }
    t.read_cmp(FIRST, LEN, |_, out| out.fill(0))?;
    rest(&t, c.seed(1))?;
    t.write(FIRST, LEN, c.seed(2))?;
    to.cpu_check(FIRST, LEN, c.seed(1))?;
    to.round(FIRST + 1, LEN - 1, c.seed(3))?;
    t.cpu_check(FIRST, LEN, c.seed(2))?;
    Ok("the bytes went with the pages, page by page: 0 wrong".into())
}

/// Pages that a file has, and whose mapping waits for a handler.
fn minor(c: &Ctx<'_>) -> Result<String> {
    let file = memfd(SIZE)?;
    let map = |file: &File| {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Map::with(0, SIZE, prot, libc::MAP_SHARED, file.as_raw_fd())
    };
    let other = map(&file)?;
    other.fill(0, SIZE, c.seed(1), 0);
    let t = Target::new(c.env, c.kind, map(&file)?)?;
    let handler = Uffd::for_minor_faults().context("userfaultfd")?;
    handler
        .watch_minor(&t.map, FIRST, LEN)
        .context("UFFDIO_REGISTER")?;
    let asked = handler.serve(
        |address| handler.go_on(address),
        || {
            t.read(0, SIZE, c.seed(1))?;
            t.write(1, SIZE - 1, c.seed(2))?;
            other.check(1, SIZE - 1, c.seed(2), 1).ok("the file")
        },
    )?;
    if asked == 0 {
        bail!("the handler was never asked");
    }
    Ok(format!("{asked} questions, 0 wrong bytes"))
}

/// A debugger writes to read-only pages, which get copies of their own, as a child has them, too.
fn forced(c: &Ctx<'_>) -> Result<String> {
    const WORD: i64 = 0x0102_0304_0506_0708;
    let t = c.target(SIZE)?;
    t.round(0, SIZE, c.seed(1))?;
    t.map.protect(0, SIZE, libc::PROT_READ)?;
    t.read(0, SIZE, c.seed(1))?;
    // SAFETY: no arguments.
    let parent = unsafe { libc::getpid() };
    let words = (FIRST..BEHIND).step_by(PAGE);
    join(child(|| {
        for off in words.clone() {
            if let Err(step) = poke(parent, t.map.addr() + off, WORD) {
                return step;
            }
        }
        i32::from(!t.map.check(0, SIZE, c.seed(1), 0).none())
    })?)?;
    t.read_cmp(0, SIZE, |at, out| {
        pattern(c.seed(1), at, out);
        for off in words.clone() {
            for (i, byte) in WORD.to_ne_bytes().into_iter().enumerate() {
                if let Some(place) = (off + i).checked_sub(at).and_then(|i| out.get_mut(i)) {
                    *place = byte;
                }
            }
        }
    })?;
    Ok("READs have the new bytes, the child the old ones: 0 wrong".into())
}

/// Stops the process `pid`, which waits for us, writes a word of its memory, and lets it go on. The error says how far that came.
fn poke(pid: i32, address: usize, word: i64) -> Result<(), i32> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: ptrace touches the other process only.
    if unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, none, none) } != 0 {
        return Err(2);
    }
    // SAFETY: no status is asked for.
    if unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } != pid {
        return Err(3);
    }
    // SAFETY: as above: the word is in a page of the other's map.
    let poked = unsafe { libc::ptrace(libc::PTRACE_POKEDATA, pid, address, word) };
    // SAFETY: as above.
    let gone = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, none, none) };
    match (poked, gone) {
        (0, 0) => Ok(()),
        _ => Err(4),
    }
}

/// The kernel moves what is on a page that it suspects, and uses it no more.
fn offline(c: &Ctx<'_>) -> Result<String> {
    let t = c.target(SIZE)?;
    t.map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    t.round(0, SIZE, c.seed(1))?;
    for page in [FIRST, FIRST + 3 * PAGE] {
        t.map
            .advise(page, PAGE, MADV_SOFT_OFFLINE)
            .context("MADV_SOFT_OFFLINE")?;
        t.read(page, PAGE, c.seed(1))?;
    }
    t.cpu_check(0, SIZE, c.seed(1))?;
    t.round(1, SIZE - 1, c.seed(2))?;
    Ok("2 of them, 0 wrong bytes".into())
}

/// What memory with an error holds is lost: operations on it end, all others go on, and a new mapping is as any.
fn poisoned(c: &Ctx<'_>) -> Result<String> {
    let mut t = c.target(SIZE)?;
    t.map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    t.spare_qps(2)?;
    t.round(0, SIZE, c.seed(1))?;
    let handled = Handled::sigbus()?;
    for page in (FIRST..BEHIND).step_by(PAGE) {
        t.map
            .advise(page, PAGE, libc::MADV_HWPOISON)
            .context("MADV_HWPOISON")?;
    }
    drop(handled);
    let said = refused(&mut t)?;
    rest(&t, c.seed(1))?;
    t.map.renew(FIRST, LEN)?;
    t.read_cmp(FIRST, LEN, |_, out| out.fill(0))?;
    t.round(1, SIZE - 1, c.seed(2))?;
    Ok(format!("{said}; mapped anew, 0 wrong bytes"))
}

/// SIGBUS does nothing meanwhile: the kernel tells by it whose page was poisoned.
struct Handled(libc::sigaction);

impl Handled {
    fn sigbus() -> io::Result<Self> {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: zeroes are a valid `sigaction`: no flags, an empty mask, the default action.
        let (mut new, mut old) =
            unsafe { std::mem::zeroed::<(libc::sigaction, libc::sigaction)>() };
        new.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        // SAFETY: both structures are valid, and the handler touches nothing.
        match unsafe { libc::sigaction(libc::SIGBUS, &new, &mut old) } {
            0 => Ok(Self(old)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        // SAFETY: the structure is what `sigaction` gave.
        unsafe { libc::sigaction(libc::SIGBUS, &self.0, std::ptr::null_mut()) };
    }
}

/// A file of memory that the kernel itself can't reach, unless that is switched off.
fn secret_file() -> Result<Option<File>> {
    // SAFETY: takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if fd < 0 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
            error => Err(error).context("memfd_secret"),
        };
    }
    // SAFETY: the descriptor is new and ours.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    file.set_len(SIZE as u64)?;
    Ok(Some(file))
}

/// Registered or not, no operation reaches it.
fn secret(c: &Ctx<'_>, file: &File) -> Result<String> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::with(0, SIZE, prot, libc::MAP_SHARED, file.as_raw_fd())?;
    map.fill(0, SIZE, c.seed(1), 0);
    let mut t = match Target::new(c.env, c.kind, map) {
        Err(error) => return Ok(format!("registration is refused: {error:#}")),
        Ok(target) => target,
    };
    let said = refused(&mut t)?;
    t.cpu_check(0, SIZE, c.seed(1))?;
    Ok(said)
}

/// Whether the kernel keeps soft-dirty marks. Without them they can be cleared all the same.
pub(super) fn has_marks() -> Result<bool> {
    let map = Map::anon(SIZE)?;
    clear_marks()?;
    map.set(0, 1, 1);
    Ok(marked(&map)? == [0])
}

pub(super) fn clear_marks() -> Result<()> {
    fs::write("/proc/self/clear_refs", "4").context("writing to /proc/self/clear_refs")
}

/// A WRITE marks the page that it writes, a READ none.
fn soft_dirty(c: &Ctx<'_>) -> Result<String> {
    let t = c.target(SIZE)?;
    t.map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    t.round(0, SIZE, c.seed(1))?;
    for turn in 0..20 {
        let page = turn * 37 % PAGES;
        clear_marks()?;
        t.read(0, SIZE, c.seed(1))?;
        let pages = marked(&t.map)?;
        if !pages.is_empty() {
            bail!("turn {turn}: a READ marked {pages:?}");
        }
        t.write_one(page * PAGE + 5, 100, c.seed(1))?;
        let pages = marked(&t.map)?;
        if pages != [page] {
            bail!("turn {turn}: a WRITE to page {page} marked {pages:?}");
        }
    }
    Ok("20 times the page that was written, and no other".into())
}

/// The pages of `map` with a soft-dirty mark.
pub(super) fn marked(map: &Map) -> Result<Vec<usize>> {
    let entries = map.entries().context("reading /proc/self/pagemap")?;
    Ok(entries
        .into_iter()
        .enumerate()
        .filter(|(_, entry)| entry & SOFT_DIRTY != 0)
        .map(|(page, _)| page)
        .collect())
}
