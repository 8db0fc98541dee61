//! Accesses without a cookie: their thread waits.

use anyhow::{Context as _, Result, bail};

use super::driver::{Driver, Ended, What};
use super::stuck::{WAITS, stuck_process, workers_gone};
use super::{PATIENCE, SIZE, SOON, expect, fresh, silent, soon};
use crate::child::ends_within;
use crate::mem::PAGE;
use crate::stacks::workers_in;

/// Pages that a handler brings one by one, and a hole.
pub(super) fn done() -> Result<String> {
    const PAGES: usize = 6;
    const AT: usize = 4000;
    let (map, handler) = silent(PAGES + 1)?;
    let driver = Driver::new(&map, 1)?;
    let data: Vec<u8> = (0..PAGES * PAGE - AT - 9).map(|i| (i * 11) as u8).collect();
    let answered = handler.serve(
        |address| handler.answer(address, &[3; PAGE]),
        || {
            expect("a write", driver.write_sleeping(AT, &data), Ended::Well)?;
            let mut back = vec![0; data.len()];
            expect("a read", driver.read_sleeping(AT, &mut back), Ended::Well)?;
            if back != data {
                bail!("the bytes that were read are wrong");
            }
            Ok(())
        },
    )?;
    let mut seen = vec![0; PAGES * PAGE];
    map.read(0, &mut seen);
    let (before, rest) = seen.split_at(AT);
    let (written, behind) = rest.split_at(data.len());
    if written != data || [before, behind].iter().any(|b| b.iter().any(|b| *b != 3)) {
        bail!("the bytes are wrong, or others were written");
    }
    if answered != PAGES {
        bail!("the handler was asked {answered} times for {PAGES} pages");
    }
    let hole = fresh()?;
    hole.punch(8 * PAGE, PAGE)?;
    let other = Driver::new(&hole, 0)?;
    let mut byte = [0];
    let fault = Ended::With(libc::EFAULT);
    expect("a hole", other.read_sleeping(8 * PAGE, &mut byte), fault)?;
    let advice = |length| other.advise_sleeping(What::AdviseWrite, 0, length);
    expect("advice", advice(8 * PAGE), Ended::Well)?;
    expect("advice about a hole", advice(SIZE), fault)?;
    expect("a read", other.read_sleeping(0, &mut byte), Ended::Well)?;
    if driver.told_in_all()? + other.told_in_all()? != 0 {
        bail!("the driver was told of what was not parked in its cookies");
    }
    Ok(format!("{answered} pages came one by one; a hole is said"))
}

/// While its page never comes: the region's end, and the thread's.
pub(super) fn ends() -> Result<String> {
    let (map, handler) = silent(2)?;
    let driver = Driver::new(&map, 0)?;
    let stop = std::thread::scope(|scope| {
        let waits = scope.spawn(|| driver.read_sleeping(PAGE, &mut [0]));
        let heard = handler.next(PATIENCE);
        let stop = soon("stopping", || {
            driver.stop()?;
            let ended = waits.join().ok().context("it panicked")?;
            expect("an access", ended, Ended::With(libc::ESRCH))
        });
        heard?.context("no worker asked for a page")?;
        stop
    })?;
    let gone = workers_gone()?;
    let (mut child, _handler) = stuck_process(&["--sleeping"])?;
    if workers_in(WAITS) != 1 {
        bail!("{} workers wait for the handler", workers_in(WAITS));
    }
    let kill = soon("kill -9", || {
        child.kill()?;
        ends_within(&mut child, SOON)?.context("the process did not end")?;
        Ok(())
    })?;
    let killed = workers_gone()?;
    Ok(format!(
        "stopped after {} us, its worker {} ms later; killed after {} ms, {}",
        stop.as_micros(),
        gone.as_millis(),
        kill.as_millis(),
        killed.as_millis()
    ))
}
