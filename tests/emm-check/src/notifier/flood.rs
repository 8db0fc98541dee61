//! More invalidations than a subscriber or the module can take: who comes or goes meanwhile is not held up for ever.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Client, PATIENCE, Told, touched};
use crate::events::fork::child;
use crate::mem::{Map, PAGE};

/// Whoever leaves waits for the calls that run, each of which takes so long, and not for those that others would begin meanwhile.
pub fn leaving() -> Result<String> {
    const THREADS: usize = 8;
    const CALL: Duration = Duration::from_millis(30);
    const LONGEST: Duration = Duration::from_secs(8);
    let map = touched()?;
    let client = Client::watching(&map, 0, map.len())?;
    client.command(&format!("delay {}", CALL.as_millis()))?;
    let over = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        let start = Instant::now();
        for i in 0..THREADS {
            let (map, over) = (&map, &over);
            scope.spawn(move || {
                // One after the other, so that there is always a call that runs.
                std::thread::sleep(CALL * i as u32 / THREADS as u32);
                while !over.load(Relaxed) && start.elapsed() < LONGEST {
                    // Fails only for wrong arguments.
                    let _ = map.advise(i * PAGE, PAGE, libc::MADV_DONTNEED);
                }
            });
        }
        let deep = |t: &Told| matches!(t, Told::Start { depth, .. } if *depth > 2);
        let ready = client.await_told("several starts at once", deep);
        let begin = Instant::now();
        let result = ready.and_then(|()| Ok(client.command("unregister")?));
        over.store(true, Relaxed);
        result.map(|()| begin.elapsed())
    })?;
    if took > LONGEST / 4 {
        bail!("unregistering took {took:?} beside calls of {CALL:?}");
    }
    Ok(format!("{} ms", took.as_millis()))
}

/// The state of a process's first thread: `D`, `Z`, as in proc(5).
fn state(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(") ").context("no name in stat")?.1;
    Ok(rest.chars().take(1).collect())
}

fn await_state(pid: i32, wanted: &str, longest: Duration) -> Result<Duration> {
    let start = Instant::now();
    while state(pid)? != wanted {
        if start.elapsed() > longest {
            bail!(
                "its state is {:?}, not {wanted:?}, after {longest:?}",
                state(pid)?
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}

/// A registration that waits, as more invalidations are under way than are remembered, ends with its thread.
pub fn killed() -> Result<String> {
    const THREADS: usize = 80;
    /// How long these are under way: what can't be killed stays so long.
    const CALL: Duration = Duration::from_secs(10);
    let client = Client::open()?;
    let victim = child(|| {
        let work = || -> Result<()> {
            let map = Map::anon(THREADS * PAGE)?;
            map.set(0, map.len(), 1);
            // Of these pages only: threads get stacks meanwhile.
            client.command(&format!("register {:x} {:x}", map.addr(), map.len()))?;
            client.command(&format!("delay {}", CALL.as_millis()))?;
            std::thread::scope(|scope| {
                for i in 0..THREADS {
                    let map = &map;
                    scope.spawn(move || map.advise(i * PAGE, PAGE, libc::MADV_DONTNEED));
                }
                let all =
                    |t: &Told| matches!(t, Told::Start { depth, .. } if *depth >= THREADS as i32);
                client.await_told("all starts", all)?;
                Ok(Client::open()?.command("register")?)
            })
        };
        i32::from(work().is_err())
    })?;
    let look = || -> Result<Duration> {
        let all = |t: &Told| matches!(t, Told::Start { depth, .. } if *depth >= THREADS as i32);
        client.await_told("all starts", all)?;
        await_state(victim, "D", PATIENCE)?;
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(victim, libc::SIGKILL) };
        await_state(victim, "Z", CALL / 2)
    };
    let result = look();
    // SAFETY: a signal to our own child, which may be dead already.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    // SAFETY: its status is not asked for.
    if unsafe { libc::waitpid(victim, std::ptr::null_mut(), 0) } != victim {
        return Err(io::Error::last_os_error()).context("waitpid");
    }
    Ok(format!("{} ms after the signal", result?.as_millis()))
}
