//! Files of persistent memory, mapped directly. Who takes a page of such a file away waits until nobody uses it: a reference that
//! comes and goes with each fault would make that wait endless.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::mapping::REMOTE;
use crate::mem::{Map, PAGE, Rng, pattern};
use crate::pmem::Pmem;
use crate::qp::{Op, OpError};
use crate::target::Target;

const SIZE: usize = 8 << 20;
/// How long it is punched and cut beside traffic, and longer until so many operations ended well.
const BESIDE: Duration = Duration::from_secs(6);
const OPERATIONS: u32 = 50;
/// The longest that one call may take, with what the host does meanwhile. It was for ever.
const LONGEST: Duration = Duration::from_secs(10);
/// What is cut off.
const TAIL: usize = 64 * PAGE;

/// The cases.
pub fn dax(c: &Ctx<'_>) -> Result<()> {
    if !Pmem::is_there() {
        let why = "there is no persistent memory: boot with memmap=512M!1G";
        c.env.report.skip(c.event, why, false);
        return Ok(());
    }
    let pmem = Pmem::new()?;
    c.case("the file has what RDMA wrote, and back", through(c, &pmem));
    c.case("holes punched beside traffic", beside(c, &pmem, punch));
    c.case("cut and grown beside traffic", beside(c, &pmem, cut));
    Ok(())
}

fn mapped(c: &Ctx<'_>, file: &File) -> Result<Target> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::with(0, SIZE, access, libc::MAP_SHARED, file.as_raw_fd())?;
    Target::new(c.env, c.kind, map)
}

fn through(c: &Ctx<'_>, pmem: &Pmem) -> Result<String> {
    let file = pmem.file(SIZE)?;
    let t = mapped(c, &file)?;
    t.round(1, SIZE - 1, c.seed(1))?;
    let (mut found, mut wanted) = (vec![0; SIZE - 1], vec![0; SIZE - 1]);
    file.read_exact_at(&mut found, 1)?;
    pattern(c.seed(1), 1, &mut wanted);
    if found != wanted {
        bail!("the file has other bytes than were written");
    }
    pattern(c.seed(2), 5000, &mut wanted[..70_001]);
    file.write_all_at(&wanted[..70_001], 5000)?;
    t.read(5000, 70_001, c.seed(2))?;
    Ok(format!("{SIZE} bytes, 0 wrong"))
}

/// A hole of some pages, somewhere.
fn punch(file: &File, rng: &mut Rng) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let page = rng.below(SIZE / PAGE - 16);
    let (off, len) = ((page * PAGE) as i64, ((1 + rng.below(16)) * PAGE) as i64);
    // SAFETY: takes numbers only.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, off, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The end goes, and comes back as a hole.
fn cut(file: &File, _: &mut Rng) -> io::Result<()> {
    file.set_len((SIZE - TAIL) as u64)?;
    file.set_len(SIZE as u64)
}

/// READs and WRITEs at odd places, most of them in the end of the file, while `event` happens again and again in another thread.
fn beside(
    c: &Ctx<'_>,
    pmem: &Pmem,
    event: fn(&File, &mut Rng) -> io::Result<()>,
) -> Result<String> {
    let file = pmem.file(SIZE)?;
    let mut t = mapped(c, &file)?;
    let over = AtomicBool::new(false);
    let (operations, errors, events) = std::thread::scope(|scope| {
        let other = scope.spawn(|| happen(&file, c.seed(7), &over, event));
        let traffic = traffic(c, &mut t);
        over.store(true, Relaxed);
        let events = other.join().expect("the thread does not panic")?;
        let (operations, errors) = traffic?;
        anyhow::Ok((operations, errors, events))
    })?;
    let (count, longest) = events;
    let said = format!(
        "{operations} operations ({errors} where nothing was) beside {count} of them, the longest {:.3} s",
        longest.as_secs_f64()
    );
    if longest > LONGEST || count < 20 {
        bail!("{said}");
    }
    t.round(1, SIZE - TAIL - 1, c.seed(3))?;
    Ok(said)
}

/// How often `event` happened until `over`, and how long the longest took.
fn happen(
    file: &File,
    seed: u64,
    over: &AtomicBool,
    event: fn(&File, &mut Rng) -> io::Result<()>,
) -> Result<(u32, Duration)> {
    let mut rng = Rng(seed);
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !over.load(Relaxed) {
        let start = Instant::now();
        event(file, &mut rng).context("the file is changed")?;
        longest = longest.max(start.elapsed());
        count += 1;
    }
    Ok((count, longest))
}

/// Operations, and those of them that ended in a protection error, as behind the end of the file.
fn traffic(c: &Ctx<'_>, t: &mut Target) -> Result<(u32, u32)> {
    let mut rng = Rng(c.seed(8));
    let (mut operations, mut errors) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < BESIDE || operations - errors < OPERATIONS {
        let len = rng.length(3 * PAGE);
        let from = if rng.below(2) == 0 { 0 } else { SIZE - TAIL };
        let off = from + rng.below(SIZE - from - len);
        let op = if rng.below(2) == 0 {
            Op::Read
        } else {
            Op::Write
        };
        let result = t
            .qp()
            .run(op, t.bounce_piece(64), len as u32, t.remote(off));
        operations += 1;
        match result {
            Ok(()) => (),
            Err(OpError::Status(status)) if REMOTE.contains(&status) => {
                errors += 1;
                t.new_qp()?;
            }
            Err(error) => return Err(error).context(format!("{op:?} of {len} bytes at {off:#x}")),
        }
    }
    Ok((operations, errors))
}
