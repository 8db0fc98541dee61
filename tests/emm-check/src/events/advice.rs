//! madvise calls that throw pages away.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

use super::Ctx;
use crate::mem::{PAGE, Rng, pattern};
use crate::swap::ensure_swap;
use crate::system::smaps_kib;

const SIZE: usize = 4 << 20;

/// DONTNEED while WRITEs run: each byte is then zero or the written one, never anything else, and nothing is lost later.
pub fn dontneed(c: &Ctx<'_>) -> Result<()> {
    let t = c.target(SIZE)?;
    let work = || {
        for i in 0..10u64 {
            let (off, len) = ((i as usize * 53 % 500) * PAGE, 300 * PAGE);
            t.round(off, len, c.seed(i))?;
            t.map.advise(off, len, libc::MADV_DONTNEED)?;
            t.read_cmp(off, len, |_, out| out.fill(0))?;
            t.round(off + 1, len - 1, c.seed(i + 50))?;
        }
        Ok("10 rounds: reads as zero, then holds what RDMA wrote".into())
    };
    c.case("in turn with traffic", work());

    let seed = c.seed(99);
    let stop = AtomicBool::new(false);
    let map = t.map.clone();
    let mut events = 0u64;
    let traffic = std::thread::scope(|s| {
        let stop = &stop;
        let events = &mut events;
        let thrower = s.spawn(move || -> Result<()> {
            let mut rng = Rng(seed);
            while !stop.load(Ordering::Relaxed) {
                let first = rng.below(SIZE / PAGE);
                let pages = rng.length(SIZE / PAGE - first);
                map.advise(first * PAGE, pages * PAGE, libc::MADV_DONTNEED)?;
                *events += 1;
                std::thread::yield_now();
            }
            Ok(())
        });
        let mut result = Ok(());
        for _ in 0..15 {
            result = t.write(0, SIZE, seed);
            if result.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        match thrower.join() {
            Ok(thrown) => result.and(thrown),
            Err(_) => bail!("the thread with the events panicked"),
        }
    });
    let work = || {
        traffic?;
        let mut zero = 0;
        let mut want = [0; PAGE];
        let mut have = [0; PAGE];
        for off in (0..SIZE).step_by(PAGE) {
            pattern(seed, off, &mut want);
            t.map.read(off, &mut have);
            for (h, w) in have.iter().zip(&want) {
                zero += u32::from(*h == 0 && *w != 0);
                if *h != 0 && h != w {
                    bail!("page at {off:#x} holds bytes that nobody wrote there");
                }
            }
        }
        // What READ sees is what the CPU sees, and a WRITE after the last event is complete.
        let view = t.map.clone();
        t.read_cmp(0, SIZE, |at, out| view.read(at, out))?;
        t.round(0, SIZE, seed)?;
        Ok(format!(
            "{events} times thrown away under 60 MiB of WRITEs; {zero} bytes back to zero, 0 wrong"
        ))
    };
    c.case("while WRITEs run", work());
    Ok(())
}

/// What RDMA writes after MADV_FREE must survive reclaim; the page's table entry may be clean by then.
pub fn madvfree(c: &Ctx<'_>) -> Result<()> {
    ensure_swap()?;
    let t = c.target(SIZE)?;
    let work = || {
        t.write(0, SIZE, c.seed(1))?;
        t.map.advise(0, SIZE, libc::MADV_FREE)?;
        t.write(0, SIZE / 2, c.seed(2))?;
        for _ in 0..3 {
            t.map.advise(0, SIZE, libc::MADV_PAGEOUT)?;
        }
        let left = smaps_kib(t.map.addr(), SIZE, "Rss");
        t.cpu_check(0, SIZE / 2, c.seed(2))?;
        t.read(0, SIZE / 2, c.seed(2))?;
        let mut have = [0; PAGE];
        let mut want = [0; PAGE];
        let mut gone = 0;
        for off in (SIZE / 2..SIZE).step_by(PAGE) {
            t.map.read(off, &mut have);
            pattern(c.seed(1), off, &mut want);
            if have == [0; PAGE] {
                gone += 1;
            } else if have != want {
                bail!("freed page at {off:#x} is neither zero nor what it was");
            }
        }
        Ok(format!(
            "the half written by RDMA afterwards survives; of the other {gone} of {} pages were reclaimed, {left} KiB stayed",
            SIZE / 2 / PAGE
        ))
    };
    c.case("RDMA WRITE after MADV_FREE, then reclaim", work());
    Ok(())
}
