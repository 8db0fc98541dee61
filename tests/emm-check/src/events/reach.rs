//! Exactness: pages that no operation named are not allocated, copied, marked or brought in; those that it named take one fault
//! for each part of the region.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::files::memfd;
use super::fork::child;
use super::rare::{clear_marks, has_marks, marked};
use crate::mem::{Map, PAGE, pattern};
use crate::qp::Op;
use crate::swap::ensure_swap;
use crate::system::{Kind, nameless_file, smaps_kib};
use crate::target::Target;
use crate::trace::Counter;

const PAGES: usize = 256;
const SIZE: usize = PAGES * PAGE;
/// The first page that is named.
const FIRST: usize = 3;
/// How many are.
const COUNTS: [usize; 4] = [1, 4, 16, 65];
/// Some, where others lie behind them.
const SOME: usize = 5;
/// Where an operation begins in its first page.
const INSIDE: usize = 77;
const HUGE: usize = 2 << 20;
const MESSAGE: usize = 4 << 20;

// Documentation/admin-guide/mm/pagemap.rst
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

/// Memory, what of it is taken after operations on it, and the file that it is of.
struct Memory {
    name: &'static str,
    map: fn() -> Result<(Map, Option<File>)>,
    taken: fn(&Target, Option<&File>) -> Result<usize>,
    /// Whether a READ takes as much.
    reads: bool,
}

const MEMORIES: [Memory; 4] = [
    Memory {
        name: "fresh anonymous memory",
        map: || Ok((small(SIZE)?, None)),
        taken: |t, _| entries(t, |entry| entry & PRESENT != 0),
        reads: true,
    },
    Memory {
        name: "an empty memfd",
        map: || of_file(memfd(SIZE)?, libc::MAP_SHARED),
        taken: |_, file| blocks(file),
        reads: true,
    },
    Memory {
        name: "an empty file of tmpfs",
        map: || {
            let file = nameless_file("/tmp")?;
            file.set_len(SIZE as u64)?;
            of_file(file, libc::MAP_SHARED)
        },
        taken: |_, file| blocks(file),
        reads: true,
    },
    Memory {
        name: "a private mapping of a file",
        map: || {
            let file = memfd(SIZE)?;
            file.write_all_at(&vec![1; SIZE], 0)?;
            of_file(file, libc::MAP_PRIVATE)
        },
        taken: |t, _| entries(t, |entry| entry & (PRESENT | OF_FILE) == PRESENT),
        reads: false,
    },
];

/// How the pages are named.
#[derive(Clone, Copy)]
enum Way {
    OneMessage,
    OneByOne,
}

/// The cases.
pub fn reach(c: &Ctx<'_>) -> Result<()> {
    if c.kind.resolve() != Kind::Emm {
        c.env.report.skip("reach", "is of ib_emm", false);
        return Ok(());
    }
    for memory in &MEMORIES {
        for (how, way) in [
            ("a message", Way::OneMessage),
            ("one by one", Way::OneByOne),
        ] {
            let name = format!("WRITE to {}, {how}: pages taken", memory.name);
            c.case(&name, exact(c, memory, way, Op::Write));
            if memory.reads {
                let name = format!("READ of {}, {how}: pages taken", memory.name);
                c.case(&name, exact(c, memory, way, Op::Read));
            }
        }
    }
    c.case("WRITE to huge pages: those taken", huge(c));
    c.case(
        "WRITE beside pages shared with a child: those copied",
        shared(c),
    );
    if has_marks()? {
        c.case("WRITE beside clean pages: those marked soft-dirty", soft(c));
    } else {
        c.env
            .report
            .skip("reach: soft-dirty marks", "this kernel has none", false);
    }
    c.case("WRITE beside pages that may go: those that stay", lazy(c));
    c.case("WRITE beside pages in swap: those brought in", swapped(c));
    c.case("a cold message: fault calls", calls(c));
    c.case("a copied message: fault calls", copied(c));
    c.case("READ, then WRITE: fault calls", twice(c));
    Ok(())
}

fn small(len: usize) -> Result<Map> {
    let map = Map::anon(len)?;
    map.advise(0, len, libc::MADV_NOHUGEPAGE)?;
    Ok(map)
}

fn of_file(file: File, flags: i32) -> Result<(Map, Option<File>)> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::with(0, SIZE, access, flags, file.as_raw_fd())?;
    Ok((map, Some(file)))
}

/// The pages of `t` of which the page tables say this.
fn entries(t: &Target, says: fn(u64) -> bool) -> Result<usize> {
    let entries = t.map.entries().context("reading /proc/self/pagemap")?;
    Ok(entries.into_iter().filter(|entry| says(*entry)).count())
}

fn blocks(file: Option<&File>) -> Result<usize> {
    let file = file.context("memory of a file")?;
    Ok(file.metadata()?.blocks() as usize * 512 / PAGE)
}

/// Operations on `count` pages from [`FIRST`] on.
fn touch(t: &Target, count: usize, way: Way, op: Op) -> Result<()> {
    let run = |off: usize, len: usize| {
        let (piece, at) = (t.bounce_piece(128), t.remote(off));
        t.qp()
            .run(op, piece, len as u32, at)
            .with_context(|| format!("{op:?} of {len} bytes at {off:#x}"))
    };
    match way {
        Way::OneMessage => run(FIRST * PAGE + INSIDE, count * PAGE - 2 * INSIDE),
        Way::OneByOne => (FIRST..FIRST + count).try_for_each(|page| run(page * PAGE + INSIDE, 100)),
    }
}

fn exact(c: &Ctx<'_>, memory: &Memory, way: Way, op: Op) -> Result<String> {
    for count in COUNTS {
        let (map, file) = (memory.map)()?;
        let t = Target::new(c.env, c.kind, map)?;
        touch(&t, count, way, op)?;
        let taken = (memory.taken)(&t, file.as_ref())?;
        if taken != count {
            bail!("{taken} pages are taken by an operation on {count}");
        }
    }
    Ok(format!("as many as named: {COUNTS:?}"))
}

fn huge(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon_huge_aligned(4 * HUGE)?;
    map.advise(0, map.len(), libc::MADV_HUGEPAGE)?;
    let t = Target::new(c.env, c.kind, map)?;
    t.write(HUGE + 5, HUGE - 10, c.seed(1))?;
    let taken = smaps_kib(t.map.addr(), t.map.len(), "Rss") as usize >> 11;
    if taken != 1 {
        bail!("{taken} huge pages are taken by a message in one");
    }
    Ok("one of four".into())
}

/// A region of pages that the CPU has written.
fn resident(c: &Ctx<'_>) -> Result<Target> {
    let t = Target::new(c.env, c.kind, small(SIZE)?)?;
    t.cpu_fill(0, SIZE, c.seed(1));
    Ok(t)
}

/// Writes to [`SOME`] pages in a row, one after the other.
fn write_some(t: &Target) -> Result<()> {
    touch(t, SOME, Way::OneByOne, Op::Write)
}

fn as_many(found: usize, what: &str) -> Result<String> {
    if found != SOME {
        bail!("{found} pages {what} by WRITEs to {SOME}");
    }
    Ok(format!("{found} of {PAGES}"))
}

fn shared(c: &Ctx<'_>) -> Result<String> {
    let t = resident(c)?;
    let _sharer = Sharer::new()?;
    write_some(&t)?;
    let own = |entry| entry & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE;
    as_many(entries(&t, own)?, "are copied")
}

/// A child that shares all memory, until it is dropped.
struct Sharer(i32);

impl Sharer {
    fn new() -> Result<Self> {
        let sleep = || loop {
            // SAFETY: touches no memory.
            unsafe { libc::pause() };
        };
        Ok(Self(child(sleep).context("fork")?))
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        // SAFETY: the child is ours, and was not waited for yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

fn soft(c: &Ctx<'_>) -> Result<String> {
    let t = resident(c)?;
    clear_marks()?;
    write_some(&t)?;
    as_many(marked(&t.map)?.len(), "are marked")
}

/// Pages that MADV_FREE gave to the VM stay so until they are written.
fn lazy(c: &Ctx<'_>) -> Result<String> {
    let t = resident(c)?;
    let may_go = || smaps_kib(t.map.addr(), SIZE, "LazyFree") as usize * 1024 / PAGE;
    // The VM keeps some of them for each CPU before it marks them, and marks those of the CPU where it is asked again.
    for _ in 0..5 {
        t.map.advise(0, SIZE, libc::MADV_FREE)?;
        if may_go() == SIZE / PAGE {
            break;
        }
    }
    let before = may_go();
    write_some(&t)?;
    let after = may_go();
    if before < SIZE / PAGE * 9 / 10 {
        bail!(
            "of {} pages, MADV_FREE left {before} to the VM",
            SIZE / PAGE
        );
    }
    // A page that was written by the device only counts as one when its translation goes. Some of another CPU's may be marked
    // in between.
    if before.saturating_sub(after) > SOME {
        bail!("{before} pages may go, {after} after WRITEs to {SOME}");
    }
    Ok(format!("{before} pages may go before, {after} afterwards"))
}

fn swapped(c: &Ctx<'_>) -> Result<String> {
    ensure_swap()?;
    let t = resident(c)?;
    for _ in 0..5 {
        t.map.advise(0, SIZE, libc::MADV_PAGEOUT)?;
        if entries(&t, |entry| entry & PRESENT != 0)? == 0 {
            break;
        }
    }
    if entries(&t, |entry| entry & PRESENT != 0)? > 0 {
        bail!("some pages stay in memory");
    }
    write_some(&t)?;
    as_many(entries(&t, |entry| entry & PRESENT != 0)?, "are brought in")
}

/// Fault calls of messages to [`MESSAGE`] bytes from a part's boundary on.
fn count_calls(t: &Target, op: Op, step: usize) -> Result<u64> {
    let faults = Counter::new("emm_fault")?;
    for off in (0..MESSAGE).step_by(step) {
        let at = t.remote(off);
        t.qp().run(op, t.bounce_piece(0), step as u32, at)?;
    }
    faults.count()
}

/// The longest message that the bounce buffer has room for.
const STEP: usize = 1 << 20;

fn calls(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon_huge_aligned(MESSAGE)?;
    map.advise(0, MESSAGE, libc::MADV_NOHUGEPAGE)?;
    let t = Target::new(c.env, c.kind, map)?;
    few(count_calls(&t, Op::Write, STEP)?)
}

/// What a fault copies is no invalidation that it loses against.
fn copied(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon_huge_aligned(MESSAGE)?;
    map.advise(0, MESSAGE, libc::MADV_NOHUGEPAGE)?;
    let t = Target::new(c.env, c.kind, map)?;
    t.cpu_fill(0, MESSAGE, c.seed(1));
    let _sharer = Sharer::new()?;
    few(count_calls(&t, Op::Write, STEP)?)
}

/// One for each message.
fn few(calls: u64) -> Result<String> {
    let most = (MESSAGE / STEP) as u64;
    if calls == 0 || calls > most {
        bail!("{calls} fault calls for {most} messages of {STEP} bytes");
    }
    Ok(format!("{calls} for {MESSAGE} bytes"))
}

/// What the VM maps writable is entered so by a READ.
fn twice(c: &Ctx<'_>) -> Result<String> {
    let file = memfd(MESSAGE)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::with(0, MESSAGE, access, libc::MAP_SHARED, file.as_raw_fd())?;
    let t = Target::new(c.env, c.kind, map)?;
    t.cpu_fill(0, MESSAGE, c.seed(1));
    let mut bytes = vec![0; MESSAGE];
    t.read(0, MESSAGE, c.seed(1))?;
    let calls = count_calls(&t, Op::Write, STEP)?;
    if calls > 0 {
        bail!("{calls} fault calls of a WRITE after a READ");
    }
    t.write(1, MESSAGE - 1, c.seed(2))?;
    file.read_exact_at(&mut bytes[1..], 1)?;
    let mut wanted = vec![0; MESSAGE - 1];
    pattern(c.seed(2), 1, &mut wanted);
    if bytes[1..] != wanted {
        bail!("the file has other bytes than were written");
    }
    Ok("none for the WRITE".into())
}
