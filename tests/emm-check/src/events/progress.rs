//! Operations go on although a thread throws their pages away without pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Ctx;
use crate::mem::PAGE;
use crate::target::Target;

const SIZE: usize = 64 * PAGE;
const TIME: Duration = Duration::from_secs(4);
/// Longest time of one operation. Of the guest's clock: an emulated CPU that its host does not run adds to it.
const STALL: Duration = Duration::from_millis(400);

/// The cases.
pub fn progress(c: &Ctx<'_>) -> Result<()> {
    c.case("the page of each operation", against(c, 1, 1));
    c.case("all pages, two threads", against(c, SIZE / PAGE, 2));
    Ok(())
}

/// `pages` pages are thrown away by each of `threads` threads, as fast as they can.
fn against(c: &Ctx<'_>, pages: usize, threads: usize) -> Result<String> {
    let t = c.target(SIZE)?;
    let over = AtomicBool::new(false);
    let thrown = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    // Fails only for wrong arguments.
                    let _ = t.map.advise(0, pages * PAGE, libc::MADV_DONTNEED);
                    thrown.fetch_add(1, Relaxed);
                }
            });
        }
        let result = work(c, &t);
        over.store(true, Relaxed);
        let (operations, worst) = result?;
        if worst > STALL {
            bail!("an operation took {} ms", worst.as_millis());
        }
        Ok(format!(
            "{operations} operations against {} invalidations, worst {:.1} ms",
            thrown.load(Relaxed),
            worst.as_secs_f64() * 1e3
        ))
    })
}

/// WRITEs and READs of the first page for a while: all must succeed. What they read may be gone already.
fn work(c: &Ctx<'_>, t: &Target) -> Result<(u32, Duration)> {
    let begin = Instant::now();
    let (mut operations, mut worst) = (0, Duration::ZERO);
    while begin.elapsed() < TIME {
        let start = Instant::now();
        if operations % 2 == 0 {
            t.write_one(5, 100, c.seed(1))?;
        } else {
            t.read_one(5, 100, |_, _| crate::mem::Wrong::default())?;
        }
        worst = worst.max(start.elapsed());
        operations += 1;
    }
    Ok((operations, worst))
}
