//! Between the start and the end of an invalidation nothing is established: a second subscriber, which makes the time between
//! them long, shows it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::PAGE;
use crate::notifier::{Client, DEVICE};
use crate::target::Target;

const SIZE: usize = 64 * PAGE;
/// The pages that go. The region begins before them, so it hears of the start first.
const GOING: (usize, usize) = (8 * PAGE, 16 * PAGE);
const DELAY: Duration = Duration::from_millis(400);

/// The cases.
pub fn holdoff(c: &Ctx<'_>) -> Result<()> {
    if !Path::new(DEVICE).exists() {
        c.env.report.skip(
            "holdoff",
            &format!("there is no {DEVICE}: emm_client is not loaded"),
            false,
        );
        return Ok(());
    }
    for hot in [true, false] {
        let name = if hot {
            "translated before"
        } else {
            "not translated"
        };
        c.case(&format!("WRITE, {name}"), written(c, hot));
        c.case(&format!("READ, {name}"), read(c, hot));
    }
    c.case("WRITE, two at once", overlapping(c));
    Ok(())
}

/// Does `work` after the start of an invalidation, and hands it a look at whether the end has come.
fn between(
    c: &Ctx<'_>,
    hot: bool,
    work: impl FnOnce(&Target) -> Result<()>,
) -> Result<(Target, Duration)> {
    let t = c.target(SIZE)?;
    t.cpu_fill(0, SIZE, c.seed(1));
    if hot {
        t.read(0, SIZE, c.seed(1))?;
        t.write(GOING.0, GOING.1 - GOING.0, c.seed(1))?;
    }
    let client = Client::watching(&t.map, GOING.0, GOING.1 - GOING.0)?;
    client.command(&format!("delay {}", DELAY.as_millis()))?;
    let map = t.map.clone();
    let took = std::thread::scope(|scope| {
        let start = Instant::now();
        let thrower =
            scope.spawn(move || map.advise(GOING.0, GOING.1 - GOING.0, libc::MADV_DONTNEED));
        client.await_start()?;
        let result = work(&t);
        let took = start.elapsed();
        thrower
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
            .context("MADV_DONTNEED")?;
        result.map(|()| took)
    })?;
    Ok((t, took))
}

/// What is written meanwhile waits for the end and lands in the new page, or it would be thrown away with the old one.
fn written(c: &Ctx<'_>, hot: bool) -> Result<String> {
    let (off, len) = (10 * PAGE + 7, 3000);
    let (t, took) = between(c, hot, |t| Ok(t.write_one(off, len, c.seed(2))?))?;
    t.cpu_check(off, len, c.seed(2))
        .context("what was WRITten between start and end")?;
    t.read(off, len, c.seed(2))?;
    if took < DELAY / 2 {
        bail!("the WRITE was done {took:?} after the start, the end came after {DELAY:?}");
    }
    Ok(format!(
        "held off for {} ms, 0 bytes lost",
        took.as_millis()
    ))
}

/// What is read meanwhile is what is there afterwards.
fn read(c: &Ctx<'_>, hot: bool) -> Result<String> {
    let (off, len) = (12 * PAGE + 5, 3000);
    let (_, took) = between(c, hot, |t| t.read_cmp(off, len, |_, out| out.fill(0)))?;
    Ok(format!("held off for {} ms, no old byte", took.as_millis()))
}

/// Two invalidations whose ranges overlap: what is written to the pages that both take waits for both ends, whichever comes first.
fn overlapping(c: &Ctx<'_>) -> Result<String> {
    // Each has pages of its own, where a subscriber makes its start long: the first one's end comes first.
    let (first, second) = ((8 * PAGE, 16 * PAGE), (12 * PAGE, 20 * PAGE));
    let (off, len) = (13 * PAGE + 7, 3000);
    let t = c.target(SIZE)?;
    t.cpu_fill(0, SIZE, c.seed(1));
    t.write(0, SIZE, c.seed(1))?;
    let slow = |at: usize, delay: Duration| -> Result<Client> {
        let client = Client::watching(&t.map, at, PAGE)?;
        client.command(&format!("delay {}", delay.as_millis()))?;
        Ok(client)
    };
    let begun = slow(first.0, DELAY)?;
    let last = slow(second.1 - PAGE, 2 * DELAY)?;
    let map = &t.map;
    let took = std::thread::scope(|scope| {
        let throw = |(from, to): (usize, usize)| map.advise(from, to - from, libc::MADV_DONTNEED);
        let mut throwers = vec![scope.spawn(move || throw(first))];
        begun.await_start()?;
        let start = Instant::now();
        throwers.push(scope.spawn(move || throw(second)));
        last.await_start()?;
        let result = t.write_one(off, len, c.seed(2));
        let took = start.elapsed();
        for thrower in throwers {
            thrower
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
                .context("MADV_DONTNEED")?;
        }
        result?;
        anyhow::Ok(took)
    })?;
    t.cpu_check(off, len, c.seed(2))
        .context("what was WRITten between start and end")?;
    t.read(off, len, c.seed(2))?;
    if took < 2 * DELAY {
        bail!(
            "the WRITE was done after {took:?}, the last end came {:?} after its start",
            2 * DELAY
        );
    }
    Ok(format!(
        "held off for {} ms, until the second end; 0 bytes lost",
        took.as_millis()
    ))
}
