//! `access`: accesses of a region that are parked when they miss, seen through a driver that does nothing else
//! (`kernel/emm_client/emm_access.c`).

mod driver;
mod sleep;
mod stuck;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::fuse::Silent;
use crate::mem::{Map, PAGE};
use crate::report::Report;
use crate::system;
use crate::uffd::Uffd;

pub use stuck::child;

use driver::{Driver, Ended, What};

const SIZE: usize = 64 * PAGE;
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// What must not wait for anybody, on an emulated CPU of a busy host.
const SOON: Duration = Duration::from_secs(2);
/// Time in which something that must not happen would have happened.
const SILENCE: Duration = Duration::from_millis(300);
/// Threads that an owner's faults have at most (`WORKERS` of kernel/ib_emm/workers.rs).
const WORKERS: u32 = 64;

/// Runs the cases with one of `wanted` in their names; all of them if that is empty.
pub fn access(report: &Report, wanted: &[String]) -> Result<()> {
    type Case = fn() -> Result<String>;
    let cases: [(&str, Case); 17] = [
        ("what misses is parked, and done when tried again", again),
        ("two pages: all or nothing", two_pages),
        ("what is mapped is not parked", in_place),
        ("in a softirq", in_softirq),
        ("an error is returned once", error_once),
        ("without a cookie its thread waits", sleep::done),
        ("without a cookie: stopped, killed", sleep::ends),
        ("advice", advice),
        ("cancelled: nobody is told", cancelled),
        ("stopped: told once, then ESRCH", stopped),
        ("destroyed while a worker is stuck", destroyed),
        ("many cookies, one page: one fault", one_page),
        ("more cookies than workers", beyond),
        ("another process's faults go on", stuck::others),
        ("a killed owner leaves nothing", stuck::killed),
        ("a silent file server: cancel, stop, destroy", silent_server),
        ("pages that are taken away all the time", taken_away),
    ];
    if let Some(none) = wanted
        .iter()
        .find(|w| cases.iter().all(|(name, _)| !name.contains(*w)))
    {
        bail!("no case has {none:?} in its name");
    }
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w)) {
            report.case("", "access", name, true, case());
        }
    }
    Ok(())
}

fn fresh() -> Result<Map> {
    let map = Map::anon(SIZE)?;
    map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    Ok(map)
}

/// Memory whose pages nobody brings.
fn silent(pages: usize) -> Result<(Map, Uffd)> {
    let map = Map::anon(pages * PAGE)?;
    map.advise(0, map.len(), libc::MADV_NOHUGEPAGE)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler.watch(&map, 0, map.len())?;
    Ok((map, handler))
}

fn expect(what: &str, is: Ended, wanted: Ended) -> Result<()> {
    if is != wanted {
        bail!("{what}: {is:?} instead of {wanted:?}");
    }
    Ok(())
}

/// That `work` does not wait.
fn soon(what: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    let took = start.elapsed();
    if took > SOON {
        bail!("{what} took {took:?}");
    }
    Ok(took)
}

/// Parks a read of one byte of each page, in the cookie of its number, and waits until a worker asks for one.
fn park_all(driver: &Driver, handler: &Uffd, pages: u32) -> Result<()> {
    for page in 0..pages {
        let mut byte = [0];
        let ended = driver.read(page, page as usize * PAGE + 7, &mut byte);
        expect("a page that nobody brings", ended, Ended::Parked)?;
    }
    handler
        .next(PATIENCE)?
        .context("no worker asked for a page")?;
    Ok(())
}

fn again() -> Result<String> {
    let map = fresh()?;
    let driver = Driver::new(&map, 1)?;
    let data: Vec<u8> = (0..5000).map(|i| (i * 7 + 3) as u8).collect();
    let before = driver.told(0)?;
    let first = driver.write(0, 4321, &data);
    expect("a write to memory that is not there", first, Ended::Parked)?;
    if !driver.await_told(0, before + 1, PATIENCE)? {
        bail!("the driver was not told");
    }
    let ended = driver.until_done(0, PATIENCE, || driver.write(0, 4321, &data))?;
    expect("the write", ended, Ended::Well)?;
    let mut seen = vec![0; data.len()];
    map.read(4321, &mut seen);
    if seen != data {
        bail!("the bytes are wrong");
    }
    let mut back = vec![0; data.len()];
    expect(
        "a read of the same",
        driver.read(0, 4321, &mut back),
        Ended::Well,
    )?;
    if back != data {
        bail!("the bytes that were read are wrong");
    }
    Ok(format!("told {} times", driver.told(0)? - before))
}

fn two_pages() -> Result<String> {
    let (map, handler) = silent(4)?;
    let driver = Driver::new(&map, 2)?;
    handler.answer(map.addr(), &[1; PAGE])?;
    let ended = driver.until_done(0, PATIENCE, || driver.write(0, 100, &[2; 10]))?;
    expect("a write to the page that is there", ended, Ended::Well)?;
    let across = [3; 64];
    let at = PAGE - 32;
    let first = driver.write(1, at, &across);
    expect("a write across", first, Ended::Parked)?;
    if map.check_byte(at, 32, 1).count != 0 {
        bail!("bytes were written before the second page was there");
    }
    handler.next(PATIENCE)?.context("no question")?;
    handler.answer(map.addr() + PAGE, &[4; PAGE])?;
    let ended = driver.until_done(1, PATIENCE, || driver.write(1, at, &across))?;
    expect("the write", ended, Ended::Well)?;
    if map.check_byte(at, 64, 3).count != 0 {
        bail!("the bytes are wrong");
    }
    Ok("nothing before the second page came".into())
}

fn in_place() -> Result<String> {
    let map = fresh()?;
    map.set(0, SIZE, 4);
    let huge = Map::anon_huge_aligned(2 << 20)?;
    huge.advise(0, huge.len(), libc::MADV_HUGEPAGE)?;
    huge.set(0, huge.len(), 4);
    for map in [&map, &huge] {
        let driver = Driver::new(map, 1)?;
        let mut bytes = [0; 100];
        for page in 0..SIZE / PAGE - 1 {
            let off = (page + 1) * PAGE - 50;
            let ended = driver.read(0, off, &mut bytes);
            expect("a read of what is mapped", ended, Ended::Well)?;
            let ended = driver.write(0, off, &bytes);
            expect("a write of what is mapped", ended, Ended::Well)?;
        }
        if bytes != [4; 100] || driver.told(0)? != 0 {
            bail!("wrong bytes, or told {} times", driver.told(0)?);
        }
    }
    Ok("small pages and a huge one, never parked".into())
}

/// Beside threads that take the same pages away: they hold the region's lock, which a softirq takes as well.
fn in_softirq() -> Result<String> {
    // Each comes too late until it starves: a timer fires with the next tick.
    const WRITES: u32 = 20;
    let map = fresh()?;
    let driver = Driver::new(&map, 1)?;
    let data = [6; 5000];
    let taking = || map.advise(0, SIZE, libc::MADV_DONTNEED);
    let over = AtomicBool::new(false);
    let work = || -> Result<String> {
        for _ in 0..WRITES {
            let write = || driver.write_in_softirq(0, 50, &data);
            expect(
                "a write",
                driver.until_done(0, PATIENCE, write)?,
                Ended::Well,
            )?;
        }
        Ok(format!("{WRITES} writes, told {} times", driver.told(0)?))
    };
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _ = taking();
            }
        });
        let said = work();
        over.store(true, Relaxed);
        said
    })?;
    let write = || driver.write_in_softirq(0, 50, &data);
    expect(
        "the last write",
        driver.until_done(0, PATIENCE, write)?,
        Ended::Well,
    )?;
    if map.check_byte(50, data.len(), 6).count != 0 {
        bail!("the bytes are wrong");
    }
    Ok(said)
}

fn error_once() -> Result<String> {
    let map = fresh()?;
    map.set(0, SIZE, 5);
    map.punch(8 * PAGE, PAGE)?;
    let driver = Driver::new(&map, 2)?;
    let mut byte = [0];
    let ended = driver.until_done(0, PATIENCE, || driver.read(0, 8 * PAGE, &mut byte))?;
    expect("a hole", ended, Ended::With(libc::EFAULT))?;
    map.renew(8 * PAGE, PAGE)?;
    map.set(8 * PAGE, PAGE, 6);
    let ended = driver.until_done(0, PATIENCE, || driver.read(0, 8 * PAGE, &mut byte))?;
    expect("the same, mapped anew", ended, Ended::Well)?;
    let told = driver.told(0)?;
    if byte != [6] {
        bail!("it read {byte:?}");
    }
    Ok(format!("EFAULT, then the new page; told {told} times"))
}

fn advice() -> Result<String> {
    let map = fresh()?;
    let driver = Driver::new(&map, 1)?;
    let first = driver.advise(0, What::AdviseWrite, 0, SIZE);
    expect("advice", first, Ended::Parked)?;
    let ended = driver.until_done(0, PATIENCE, || driver.advise(0, What::AdviseWrite, 0, SIZE))?;
    expect("advice", ended, Ended::Well)?;
    for page in 0..SIZE / PAGE {
        let ended = driver.write(0, page * PAGE + 9, &[1]);
        expect("a write after advice", ended, Ended::Well)?;
    }
    map.punch(8 * PAGE, PAGE)?;
    let ended = driver.until_done(0, PATIENCE, || driver.advise(0, What::AdviseRead, 0, SIZE))?;
    expect("advice about a hole", ended, Ended::With(libc::EFAULT))?;
    Ok("parked, done; a hole is said".into())
}

fn cancelled() -> Result<String> {
    let (map, handler) = silent(4)?;
    handler.answer(map.addr() + 3 * PAGE, &[7; PAGE])?;
    let driver = Driver::new(&map, 2)?;
    park_all(&driver, &handler, 1)?;
    let mut byte = [0];
    let ended = driver.until_done(1, PATIENCE, || driver.read(1, 3 * PAGE, &mut byte))?;
    expect("a page that is there", ended, Ended::Well)?;
    let took = soon("cancelling", || driver.cancel(0))?;
    if driver.await_told(0, 1, SILENCE)? {
        bail!("it was told of what was cancelled");
    }
    let ended = driver.until_done(0, PATIENCE, || driver.read(0, 3 * PAGE, &mut byte))?;
    expect("the cookie, used again", ended, Ended::Well)?;
    // And for the page that was cancelled: somebody asks for it again.
    let ended = driver.read(0, 0, &mut byte);
    expect("the page that was cancelled", ended, Ended::Parked)?;
    handler.answer(map.addr(), &[8; PAGE])?;
    let ended = driver.until_done(0, PATIENCE, || driver.read(0, 0, &mut byte))?;
    expect("the page that was cancelled", ended, Ended::Well)?;
    Ok(format!("{} us", took.as_micros()))
}

fn stopped() -> Result<String> {
    let (map, handler) = silent(WORKERS as usize + 36)?;
    let driver = Driver::new(&map, WORKERS + 36)?;
    park_all(&driver, &handler, WORKERS + 36)?;
    let took = soon("stopping", || driver.stop())?;
    for cookie in 0..WORKERS + 36 {
        if driver.told(cookie)? != 1 {
            bail!(
                "it was told {} times of cookie {cookie}",
                driver.told(cookie)?
            );
        }
        let mut byte = [0];
        for _ in 0..2 {
            let ended =
                driver.until_done(cookie, PATIENCE, || driver.read(cookie, 0, &mut byte))?;
            expect("an access", ended, Ended::With(libc::ESRCH))?;
        }
    }
    Ok(format!("{} us", took.as_micros()))
}

fn destroyed() -> Result<String> {
    let (map, handler) = silent(8)?;
    let driver = Driver::new(&map, 8)?;
    park_all(&driver, &handler, 8)?;
    let took = soon("destroying", || driver.destroy())?;
    let told = driver.told_in_all()?;
    if told != 8 {
        bail!("it was told {told} times of 8 cookies");
    }
    if system::region(map.addr()).is_ok() {
        bail!("the region is listed still");
    }
    Ok(format!("{} us", took.as_micros()))
}

fn one_page() -> Result<String> {
    const COOKIES: u32 = 500;
    let (map, handler) = silent(2)?;
    let driver = Driver::new(&map, COOKIES)?;
    let mut byte = [0];
    for cookie in 0..COOKIES {
        let ended = driver.read(cookie, PAGE + 3, &mut byte);
        expect("a page that is not there", ended, Ended::Parked)?;
    }
    let address = handler.next(PATIENCE)?.context("no question")?;
    if handler.next(SILENCE)?.is_some() {
        bail!("a second question for one page");
    }
    handler.answer(address, &[3; PAGE])?;
    if !driver.await_told_in_all(COOKIES.into(), PATIENCE)? {
        bail!(
            "it was told {} times of {COOKIES} cookies",
            driver.told_in_all()?
        );
    }
    for cookie in 0..COOKIES {
        let ended = driver.read(cookie, PAGE + 3, &mut byte);
        expect("the page", ended, Ended::Well)?;
    }
    let told = driver.told_in_all()?;
    if told != u64::from(COOKIES) {
        bail!("it was told {told} times of {COOKIES} cookies");
    }
    Ok(format!("{COOKIES} cookies, 1 question"))
}

/// What waits for a worker is served when one is free.
fn beyond() -> Result<String> {
    const PAGES: u32 = WORKERS * 3;
    let (map, handler) = silent(PAGES as usize)?;
    let driver = Driver::new(&map, PAGES)?;
    let mut byte = [0];
    for page in 0..PAGES {
        let ended = driver.read(page, page as usize * PAGE, &mut byte);
        expect("a page that is not there", ended, Ended::Parked)?;
    }
    let mut most = 0;
    let mut answered = 0;
    while answered < PAGES {
        let mut asked = Vec::new();
        while let Some(address) = handler.next(if asked.is_empty() { PATIENCE } else { SILENCE })? {
            asked.push(address);
        }
        if asked.is_empty() {
            bail!("{answered} of {PAGES} pages were asked for");
        }
        most = most.max(asked.len());
        for address in asked {
            handler.answer(address, &[1; PAGE])?;
            answered += 1;
        }
    }
    if most > WORKERS as usize {
        bail!("{most} faults at once, {WORKERS} are allowed");
    }
    if !driver.await_told_in_all(PAGES.into(), PATIENCE)? {
        bail!("it was told {} times of {PAGES}", driver.told_in_all()?);
    }
    for page in 0..PAGES {
        let ended = driver.read(page, page as usize * PAGE, &mut byte);
        expect("a page", ended, Ended::Well)?;
    }
    Ok(format!("{PAGES} pages, {most} faults at once"))
}

fn silent_server() -> Result<String> {
    let Some(server) = Silent::mount()? else {
        return Ok("not tried: the kernel has no FUSE".into());
    };
    let map = server.map(8 * PAGE)?;
    let driver = Driver::new(&map, 3)?;
    let mut byte = [0];
    for cookie in 0..3 {
        let ended = driver.read(cookie, cookie as usize * 2 * PAGE, &mut byte);
        expect("a page of the server", ended, Ended::Parked)?;
    }
    server.await_read(PATIENCE)?;
    let cancel = soon("cancelling", || driver.cancel(0))?;
    let stop = soon("stopping", || driver.stop())?;
    let destroy = soon("destroying", || driver.destroy())?;
    let told = driver.told_in_all()?;
    if told != 2 {
        bail!("it was told {told} times of 2 cookies");
    }
    // Its cookies go while workers are stuck; these end when the server goes.
    drop(driver);
    Ok(format!(
        "{} us, {} us, {} us",
        cancel.as_micros(),
        stop.as_micros(),
        destroy.as_micros()
    ))
}

/// Threads that throw a page away without pause: the access succeeds all the same.
fn taken_away() -> Result<String> {
    let map = fresh()?;
    let driver = Driver::new(&map, 1)?;
    let over = AtomicBool::new(false);
    let thrown = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let _ = map.advise(0, PAGE, libc::MADV_DONTNEED);
                    thrown.fetch_add(1, Relaxed);
                }
            });
        }
        let work = || -> Result<String> {
            let mut longest = Duration::ZERO;
            for n in 0..200 {
                while thrown.load(Relaxed) < n * 10 {
                    std::thread::yield_now();
                }
                let start = Instant::now();
                let ended = driver.until_done(0, PATIENCE, || driver.write(0, 5, &[1; 8]))?;
                expect("a write", ended, Ended::Well)?;
                longest = longest.max(start.elapsed());
            }
            let tries = driver.told(0)?;
            Ok(format!(
                "200 writes, told {tries} times, longest {} ms",
                longest.as_millis()
            ))
        };
        let result = work();
        over.store(true, Relaxed);
        result
    })
}
