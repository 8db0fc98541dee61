//! What ib_emm keeps for an address space whose last subscription has gone: for a while, and no longer than it may.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Client, PATIENCE, touched};
use crate::events::fork::{Gate, child, join};
use crate::mem::PAGE;

const FILE: &str = "/sys/kernel/debug/ib_emm/hubs";
/// How long the module keeps one. A machine that is slower than this can't see that it does.
const LINGER: Duration = Duration::from_secs(1);
/// Invalidations told in vain that end it earlier, and how many more for each mapping.
const CALLS: usize = 256;
const CALLS_PER_MAPPING: usize = 4;

/// How many there are, how many of these have no subscriptions, and how many are not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hubs {
    there: usize,
    idle: usize,
    not_freed: usize,
}

fn hubs() -> Result<Hubs> {
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let &["hubs", there, "idle", idle, "not_freed", not_freed] = &words[..] else {
        bail!("{FILE} says {text:?}");
    };
    Ok(Hubs {
        there: there.parse()?,
        idle: idle.parse()?,
        not_freed: not_freed.parse()?,
    })
}

/// Waits for the end of all, those that the cases before left behind too.
fn none_left() -> Result<Duration> {
    let start = Instant::now();
    loop {
        let now = hubs()?;
        if now.there + now.not_freed == 0 {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            bail!("{now:?} after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A subscription that comes and goes.
fn come_and_go() -> Result<()> {
    let client = Client::open()?;
    client.command("register")?;
    Ok(client.command("unregister")?)
}

/// Whoever subscribes again soon finds what was there; who does not, leaves nothing.
pub fn linger() -> Result<String> {
    none_left()?;
    let start = Instant::now();
    come_and_go()?;
    let kept = hubs()?;
    let client = Client::open()?;
    client.command("register")?;
    let again = hubs()?;
    let took = start.elapsed();
    client.command("unregister")?;
    let left = none_left()?;
    let one = |idle| Hubs {
        there: 1,
        idle,
        not_freed: 1,
    };
    if took < LINGER && (kept, again) != (one(1), one(0)) {
        bail!("{kept:?} when the last one went, {again:?} with the next one");
    }
    Ok(format!(
        "the next one found it; gone {} ms after the last",
        left.as_millis()
    ))
}

/// A process that unmaps much pays for what is kept no longer than it gained.
pub fn in_vain() -> Result<String> {
    const TRIES: usize = 5;
    let map = touched()?;
    let mappings = fs::read_to_string("/proc/self/maps")?.lines().count();
    let most = CALLS + CALLS_PER_MAPPING * (mappings + 8);
    for _ in 0..TRIES {
        none_left()?;
        let start = Instant::now();
        come_and_go()?;
        for _ in 0..most {
            map.advise(0, PAGE, libc::MADV_DONTNEED)?;
        }
        let there = hubs()?.there;
        if start.elapsed() > LINGER {
            // It may have gone for its time.
            continue;
        }
        if there != 0 {
            bail!("still there after {most} invalidations that nobody was told of");
        }
        return Ok(format!("{most} invalidations"));
    }
    bail!("{TRIES} times {most} invalidations took longer than {LINGER:?}: nothing is known")
}

/// Exit takes it at once; a forked child has none.
pub fn exit_and_fork() -> Result<String> {
    none_left()?;
    let gate = Gate::new()?;
    let pid = child(|| i32::from(come_and_go().is_err()))?;
    join(pid)?;
    let after_exit = hubs()?;
    none_left()?;
    let start = Instant::now();
    come_and_go()?;
    let pid = child(|| {
        gate.wait();
        0
    })?;
    let beside_child = hubs()?;
    let took = start.elapsed();
    gate.open();
    join(pid)?;
    if after_exit.there != 0 {
        bail!("{after_exit:?} when the process had exited");
    }
    if took < LINGER && beside_child.there != 1 {
        bail!("{beside_child:?} with a forked child");
    }
    none_left()?;
    Ok("gone with the process, and none for the child".into())
}

/// So does exec.
pub fn exec() -> Result<String> {
    none_left()?;
    let client = Client::open()?;
    let mut process = Command::new("sh")
        .args([
            "-c",
            "echo register >&0 && echo unregister >&0 && exec cat /dev/fd/3 3<&1",
        ])
        .stdin(client.to_stdio()?)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a process")?;
    let start = Instant::now();
    let exe = format!("/proc/{}/comm", process.id());
    while fs::read_to_string(&exe)?.trim() != "cat" {
        if start.elapsed() > PATIENCE {
            bail!("it does not become another program");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let after = hubs()?;
    process.kill()?;
    process.wait()?;
    if after.there != 0 {
        bail!("{after:?} after exec");
    }
    none_left()?;
    Ok("gone with the old program".into())
}
