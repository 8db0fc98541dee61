//! What a driver may rely on that is no region: why pages go, that it may say "not now", and that release is the last word.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context as _, Result, bail};

use super::{Client, DELAY, Event, SIZE, Told, paired, touched};
use crate::child::pidfd;
use crate::events::fork::{child, join};
use crate::mem::{Map, PAGE};

/// The events of all starts that hit `addr`, when `work` has been done. Their ends have the same.
fn events(
    client: &Client,
    addr: usize,
    work: impl FnOnce() -> io::Result<()>,
) -> Result<Vec<Event>> {
    client.command("clear")?;
    work()?;
    let told = client.told()?;
    paired(&told)?;
    let hit = told.iter().filter_map(|t| match t {
        Told::Start { range, event, .. } if range.0 <= addr && addr < range.1 => Some(*event),
        _ => None,
    });
    Ok(hit.collect())
}

/// Each way to take pages, or rights to them, is told as what it is.
pub fn kinds() -> Result<String> {
    let map = touched()?;
    let client = Client::watching(&map, 0, SIZE)?;
    let mut seen = Vec::new();
    let mut expect = |page: usize, wanted: Event, work: &dyn Fn() -> io::Result<()>| {
        let events = events(&client, map.addr() + page * PAGE, work)?;
        if !events.contains(&wanted) {
            bail!("told {events:?} instead of {wanted:?}");
        }
        seen.push(wanted);
        Ok(())
    };
    expect(1, Event::Clear, &|| {
        map.advise(PAGE, PAGE, libc::MADV_DONTNEED)
    })?;
    expect(2, Event::SoftDirty, &|| {
        fs::write("/proc/self/clear_refs", "4")
    })?;
    expect(3, Event::ProtectionPage, &|| {
        let pid = child(|| 0)?;
        join(pid).map_err(io::Error::other)
    })?;
    expect(4, Event::ProtectionVma, &|| {
        map.protect(4 * PAGE, PAGE, libc::PROT_READ)
    })?;
    expect(8, Event::Unmap, &|| map.punch(8 * PAGE, PAGE))?;
    map.renew(8 * PAGE, PAGE)?;
    Ok(format!("{seen:?}"))
}

/// A driver that says "not now" where it must not block: the VM goes without the memory, and asks again.
pub fn refused() -> Result<String> {
    let map = touched()?;
    let slow = Client::open()?;
    slow.command(&format!("delay {}", (4 * DELAY).as_millis()))?;
    let refusing = Client::open()?;
    refusing.command("refusing")?;
    refusing.command("refuse 1000000")?;
    let victim = child(|| {
        let work = || {
            refusing.command("register")?;
            slow.command("register")?;
            map.advise(0, SIZE, libc::MADV_DONTNEED)
        };
        i32::from(work().is_err())
    })?;
    let look = || -> Result<()> {
        slow.await_start()?;
        let fd = pidfd(victim).context("pidfd_open")?;
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(victim, libc::SIGKILL) };
        match release(&fd) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            other => bail!("process_mrelease: {other:?}, though a driver said \"not now\""),
        }
        refusing.command("refuse 0")?;
        release(&fd).context("process_mrelease, when no driver refuses")
    };
    let result = look();
    // SAFETY: a signal to our own child, which may be dead already.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    // SAFETY: its status is not asked for.
    unsafe { libc::waitpid(victim, std::ptr::null_mut(), 0) };
    result?;
    for client in [&slow, &refusing] {
        client.await_told("release", |t| *t == Told::Release)?;
        paired(&client.told()?)?;
    }
    let count = |client: &Client| -> Result<usize> {
        let told = client.told()?;
        let refused = |t: &&Told| matches!(t, Told::Start { refused: true, .. });
        Ok(told.iter().filter(refused).count())
    };
    let (refusals, others) = (count(&refusing)?, count(&slow)?);
    if refusals == 0 || others != 0 {
        bail!("{refusals} refused, and {others} by the one that can't");
    }
    Ok(format!("{refusals} refused, then the memory was taken"))
}

pub(super) fn release(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::syscall(libc::SYS_process_mrelease, fd.as_raw_fd(), 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Subscriptions of such drivers come and go beside invalidations: their starts and ends come by different ways.
pub fn refusing_at_once() -> Result<String> {
    const THREADS: usize = 3;
    const TIMES: usize = 60;
    let map = touched()?;
    let over = AtomicBool::new(false);
    let watch = || -> Result<Client> {
        let client = Client::open()?;
        client.command("refusing")?;
        client.command(&format!("register {:x} {SIZE:x}", map.addr()))?;
        Ok(client)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                // Fails only for wrong arguments.
                let _ = map.advise(0, SIZE, libc::MADV_DONTNEED);
            }
        });
        let come_and_go = || (0..TIMES).try_for_each(|_| watch().map(drop));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(come_and_go)).collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        over.store(true, Relaxed);
        results.into_iter().try_for_each(|result| match result {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    let client = watch()?;
    map.advise(0, PAGE, libc::MADV_DONTNEED)?;
    let pairs = paired(&client.told()?)?;
    if pairs == 0 {
        bail!("the next subscription hears nothing");
    }
    Ok(format!("{} came and went", THREADS * TIMES))
}

/// While a second driver's release takes long, pages of the process go: the first one, which was released, hears nothing of it.
pub fn last_word() -> Result<String> {
    const PAGES: usize = 2;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"last-word".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("memfd_create");
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: takes numbers only.
    if unsafe { libc::ftruncate(file.as_raw_fd(), (PAGES * PAGE) as i64) } != 0 {
        return Err(io::Error::last_os_error()).context("ftruncate");
    }
    let map = Map::of_file(PAGES * PAGE, file.as_raw_fd(), 0)?;
    let (first, second) = (Client::open()?, Client::open()?);
    second.command(&format!("delay-release {}", (2 * DELAY).as_millis()))?;
    let pid = child(|| {
        let work = || {
            map.set(0, map.len(), 1);
            first.command(&format!("register {:x} {:x}", map.addr(), map.len()))?;
            second.command(&format!("register {:x} {PAGE:x}", map.addr() + PAGE))
        };
        i32::from(work().is_err())
    })?;
    let look = || -> Result<bool> {
        second.await_told("release", |t| *t == Told::Release)?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: takes numbers only.
        let punched = unsafe { libc::fallocate(file.as_raw_fd(), mode, PAGE as i64, PAGE as i64) };
        if punched != 0 {
            return Err(io::Error::last_os_error()).context("fallocate");
        }
        let mut status = 0;
        // SAFETY: room for the status.
        Ok(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0)
    };
    let meanwhile = look();
    if !matches!(meanwhile, Ok(false)) {
        join(pid)?;
    }
    if !meanwhile? {
        bail!("the release was over when the pages went: nothing is known");
    }
    let told = first.changes()?;
    if told.last() != Some(&Told::Release) {
        bail!("after its release it was told {told:x?}");
    }
    Ok("nothing follows".into())
}
