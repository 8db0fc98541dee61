//! Ends: of subscriptions, of processes, and what is another process's.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::{Client, DELAY, SIZE, Told, paired, slow, touched};
use crate::child::pidfd;
use crate::events::fork::{Gate, child, join};
use crate::mem::PAGE;

/// Each end of a subscription waits for the call that runs.
pub fn waits() -> Result<String> {
    let map = touched()?;
    let client = slow(&map)?;
    let start = Instant::now();
    let took = std::thread::scope(|scope| {
        let thread = scope.spawn(|| map.advise(0, PAGE, libc::MADV_DONTNEED));
        client.await_start()?;
        client.command("unregister")?;
        let took = start.elapsed();
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        anyhow::Ok(took)
    })?;
    if took < DELAY {
        bail!("unregistered {took:?} after a start that takes {DELAY:?} began");
    }
    // Its end may come before the thread that waits runs again.
    let told = client.changes()?;
    if !matches!(
        told[..],
        [Told::Start { .. }] | [Told::Start { .. }, Told::End { .. }]
    ) {
        bail!("it was told {told:x?}");
    }
    let all = client.told()?;
    map.advise(0, PAGE, libc::MADV_DONTNEED)?;
    if client.told()? != all {
        bail!("it was told more afterwards");
    }
    Ok(format!("{} ms, then silence", took.as_millis()))
}

/// Several threads subscribe, so that the first and the last one of the process meet others, while another invalidates without
/// pause: no call may hit what is gone.
pub fn at_once() -> Result<String> {
    const THREADS: usize = 3;
    const TIMES: usize = 100;
    let map = touched()?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                // Fails only for wrong arguments.
                let _ = map.advise(0, SIZE, libc::MADV_DONTNEED);
            }
        });
        let come_and_go = || (0..TIMES).try_for_each(|_| Client::watching(&map, 0, SIZE).map(drop));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(come_and_go)).collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        over.store(true, Relaxed);
        results.into_iter().try_for_each(|result| match result {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    let client = Client::watching(&map, 0, SIZE)?;
    map.advise(0, PAGE, libc::MADV_DONTNEED)?;
    if paired(&client.told()?)? == 0 {
        bail!("the next subscription hears nothing");
    }
    Ok(format!("{} came and went", THREADS * TIMES))
}

/// What happens to a forked child's memory is not told to its parent's subscription.
pub fn forked() -> Result<String> {
    let map = touched()?;
    let client = Client::watching(&map, 0, SIZE)?;
    let gate = Gate::new()?;
    let pid = child(|| {
        gate.wait();
        i32::from(map.advise(0, SIZE, libc::MADV_DONTNEED).is_err())
    })?;
    // The fork itself takes the parent's pages: they are read-only from then on.
    let at_fork = paired(&client.told()?)?;
    client.command("clear")?;
    gate.open();
    join(pid)?;
    let told = client.changes()?;
    if at_fork == 0 || !told.is_empty() {
        bail!("{at_fork} pairs at fork, then it was told {told:x?}");
    }
    map.advise(0, PAGE, libc::MADV_DONTNEED)?;
    let own = paired(&client.told()?)?;
    if own == 0 {
        bail!("its own page was not told");
    }
    Ok("its unmapping and its exit are silent".into())
}

/// A killed process whose memory is taken as the OOM reaper does it, while its own thread still waits for a slow start.
pub fn reaped() -> Result<String> {
    let map = touched()?;
    let client = Client::open()?;
    client.command(&format!("delay {}", (4 * DELAY).as_millis()))?;
    let victim = child(|| {
        let work = || {
            client.command("register")?;
            map.advise(0, SIZE, libc::MADV_DONTNEED)
        };
        i32::from(work().is_err())
    })?;
    let result = client.await_start().and_then(|()| reap(victim));
    // SAFETY: a signal to our own child, which may be dead already.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    // SAFETY: its status is not asked for.
    unsafe { libc::waitpid(victim, std::ptr::null_mut(), 0) };
    result?;
    client.await_told("release", |t| *t == Told::Release)?;
    let told = client.told()?;
    paired(&told)?;
    // Those of the reaper come while the slow one is under way.
    let deep = |t: &&Told| matches!(t, Told::Start { depth, .. } if *depth > 1);
    let blocking = |t: &&Told| matches!(t, Told::Start { blockable, .. } if *blockable);
    let reaped = told.iter().filter(deep).count();
    if reaped == 0 || told.iter().filter(deep).any(|t| blocking(&t)) {
        bail!("what must not block was not told as such: {told:x?}");
    }
    Ok(format!("{reaped} of the reaper's, each with its end"))
}

/// Kills a child that can't end yet, and has its memory taken: no start may fail.
pub fn reap(victim: i32) -> Result<()> {
    let fd = pidfd(victim).context("pidfd_open")?;
    // SAFETY: a signal to our own child.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    // SAFETY: takes numbers only.
    if unsafe { libc::syscall(libc::SYS_process_mrelease, fd.as_raw_fd(), 0) } != 0 {
        return Err(io::Error::last_os_error()).context("process_mrelease");
    }
    Ok(())
}
