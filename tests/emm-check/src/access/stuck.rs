//! A process whose faults never end, and others beside it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::driver::{Driver, Ended};
use super::{PATIENCE, SILENCE, SIZE, SOON, expect, fresh, park_all, silent};
use crate::child::ends_within;
use crate::mem::{Map, PAGE};
use crate::stacks::workers_in;
use crate::uffd::Uffd;

/// Cookies of the process whose faults never end.
const STUCK: u32 = 3000;
/// Where a thread waits for a userfaultfd handler.
pub(super) const WAITS: &str = "handle_userfault";

/// A process of its own with `STUCK` accesses that wait for ever; with `--sleeping` one, whose thread waits.
///
/// # Returns
///
/// Also its handler's descriptor: what waits for it does not end with the process.
pub(super) fn stuck_process(how: &[&str]) -> Result<(std::process::Child, Uffd)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("access-child")
        .args(how)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a process")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
    let handler = || -> Result<Uffd> {
        let fd = line.trim().strip_prefix("stuck ");
        let fd = fd.and_then(|fd| fd.parse().ok());
        let fd = fd.with_context(|| format!("it said {line:?}"))?;
        Uffd::take(child.id(), fd).context("taking its handler")
    };
    match handler() {
        Ok(handler) => Ok((child, handler)),
        Err(e) => {
            child.kill()?;
            child.wait()?;
            Err(e)
        }
    }
}

/// The process whose faults never end.
pub fn child(sleeping: bool) -> Result<()> {
    let (map, handler) = silent(STUCK as usize)?;
    let driver = Driver::new(&map, STUCK)?;
    let thread = sleeping.then(|| driver.try_clone()).transpose()?;
    if let Some(driver) = thread {
        std::thread::spawn(move || driver.read_sleeping(0, &mut [0]));
        handler.next(PATIENCE)?.context("nobody asked for a page")?;
    } else {
        park_all(&driver, &handler, STUCK)?;
    }
    println!("stuck {}", handler.fd());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// Cold accesses in a second.
fn rate(driver: &Driver, map: &Map) -> Result<f64> {
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(1) {
        map.advise(0, SIZE, libc::MADV_DONTNEED)?;
        for page in (0..SIZE / PAGE).step_by(8) {
            let access = || driver.write(0, page * PAGE + 1, &[1; 8]);
            expect(
                "a write",
                driver.until_done(0, PATIENCE, access)?,
                Ended::Well,
            )?;
            done += 1;
        }
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

/// Share of the time that the CPUs had nothing to do, while this thread waits for `SILENCE` three times.
fn idle(driver: &Driver) -> Result<f64> {
    let read = || -> Result<(f64, f64)> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let all: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|n| n.parse().ok())
            .collect();
        let idle = all.get(3).zip(all.get(4)).map(|(a, b)| a + b);
        Ok((idle.context("/proc/stat")?, all.iter().take(8).sum()))
    };
    let before = read()?;
    driver.await_told(0, u64::MAX, SILENCE * 3)?;
    let after = read()?;
    Ok((after.0 - before.0) / (after.1 - before.1))
}

pub(super) fn others() -> Result<String> {
    let map = fresh()?;
    let driver = Driver::new(&map, 1)?;
    rate(&driver, &map)?;
    let alone = rate(&driver, &map)?;
    let (mut child, _handler) = stuck_process(&[])?;
    let measured = rate(&driver, &map).and_then(|beside| Ok((beside, idle(&driver)?)));
    child.kill()?;
    child.wait()?;
    let (beside, idle) = measured?;
    let after = rate(&driver, &map)?;
    let said = format!(
        "{alone:.0} and {after:.0} cold writes/s alone, {beside:.0} beside {STUCK} parked; CPUs {:.0} % idle",
        idle * 100.0
    );
    // On a host with other work one second is not as good as another.
    if beside < alone.min(after) / 2.0 {
        bail!("{said}");
    }
    if idle < 0.5 {
        bail!("{said}: something spins");
    }
    Ok(said)
}

pub(super) fn killed() -> Result<String> {
    let (mut child, _handler) = stuck_process(&[])?;
    let stuck = workers_in(WAITS);
    if stuck == 0 {
        bail!("no worker waits for the handler");
    }
    let start = Instant::now();
    child.kill()?;
    ends_within(&mut child, PATIENCE)?.context("it did not end")?;
    let took = start.elapsed();
    if took > SOON {
        bail!("it took {took:?}");
    }
    let gone = workers_gone()?;
    Ok(format!(
        "{} ms, its workers {} ms later",
        took.as_millis(),
        gone.as_millis()
    ))
}

/// Waits until no worker waits for a handler. They were told to end: nobody else hears of it.
pub(super) fn workers_gone() -> Result<Duration> {
    let start = Instant::now();
    while workers_in(WAITS) > 0 {
        if start.elapsed() > PATIENCE {
            bail!("{} workers wait still", workers_in(WAITS));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}
