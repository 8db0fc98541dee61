//! What attachers do to their mappings is ordinary: it ends what it names, and nothing else.

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;

const P: u64 = PAGE as u64;
const SIZE: u64 = 32 * P;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem mapping",
        &[
            ("munmap of a part", &part),
            ("munmap of all, then detach", &all),
            ("mremap to another place", &moved),
            ("mremap to more", &grown),
            ("mprotect", &protected),
            ("madvise throws nothing away", &advised),
            ("memory mapped over a part", &over),
            ("detach by any address of it", &inside),
            ("exec", &exec),
        ],
    );
}

/// Owner, its address, attacher, permit, its address.
struct Scene {
    owner: Peer,
    there: u64,
    attacher: Peer,
    permit: u64,
    at: u64,
}

fn scene() -> Result<Scene> {
    let mut owner = Peer::start("owner")?;
    let mut attacher = Peer::start("attacher")?;
    let (there, segment) = owner.share(SIZE, 1)?;
    let (permit, at) = attacher.join(segment, SIZE)?;
    attacher.holds(at, SIZE, 1, 0)?;
    Ok(Scene {
        owner,
        there,
        attacher,
        permit,
        at,
    })
}

impl Scene {
    /// That nothing is at this address of the attacher's.
    fn is_gone(&mut self, at: u64) -> Result<()> {
        match self.attacher.refused(Order::Load, &[at, 1])? {
            Refusal::Signal(libc::SIGSEGV, _) => Ok(()),
            other => bail!("{at:#x}: {other}, not SIGSEGV"),
        }
    }

    /// That `range` pages are attached at `at`, both ways.
    fn works(&mut self, at: u64, pages: std::ops::Range<u64>, seed: u64) -> Result<()> {
        let count = (pages.end - pages.start) * P;
        let there = self.there + pages.start * P;
        self.attacher.must(Order::Store, &[at, count, seed, 0])?;
        self.owner.holds(there, count, seed, 0)?;
        self.owner
            .must(Order::Store, &[there, count, seed + 1, 0])?;
        self.attacher.holds(at, count, seed + 1, 0)?;
        // The VM takes it away from where it is now, too.
        self.owner
            .must(Order::Advise, &[there, count, libc::MADV_DONTNEED as u64])?;
        self.attacher.same(at, &vec![0; count as usize])
    }
}

fn part() -> Result<String> {
    let mut s = scene()?;
    let at = s.at;
    for pages in [0..2, 10..14, 30..32] {
        s.attacher.must(
            Order::Unmap,
            &[at + pages.start * P, (pages.end - pages.start) * P],
        )?;
        s.is_gone(at + pages.start * P)?;
    }
    s.works(at + 2 * P, 2..10, 11)?;
    s.works(at + 14 * P, 14..30, 21)?;
    s.attacher
        .end(abi::RELEASE, s.permit)?
        .context("releasing")?;
    for page in [2, 9, 14, 29] {
        s.is_gone(at + page * P)?;
    }
    Ok("at the beginning, in the middle, at the end; the rest works".into())
}

fn all() -> Result<String> {
    let mut s = scene()?;
    s.attacher.must(Order::Unmap, &[s.at, SIZE])?;
    let again = s.attacher.end(abi::DETACH, s.at)?;
    let Err(why) = again else {
        bail!("detached once more")
    };
    let at = s
        .attacher
        .attach(s.permit, 0, SIZE, 0)?
        .context("attaching again")?;
    s.works(at, 0..32, 3)?;
    s.owner.must(Order::Store, &[s.there, SIZE, 1, 0])?;
    s.attacher
        .end(abi::RELEASE, s.permit)?
        .context("releasing")?;
    s.owner.holds(s.there, SIZE, 1, 0)?;
    Ok(format!("then detach: {why}"))
}

fn moved() -> Result<String> {
    let mut s = scene()?;
    let place = s.attacher.memory(SIZE)?;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    // A part of it, so that two pieces are left.
    let words = [s.at + 8 * P, 8 * P, 8 * P, flags, place];
    match s.attacher.ask(Order::Remap, &words)? {
        Ok(_) => {
            s.is_gone(s.at + 8 * P)?;
            s.works(place, 8..16, 31)?;
            s.works(s.at, 0..8, 41)?;
            s.works(s.at + 16 * P, 16..32, 51)?;
            s.attacher
                .end(abi::DETACH, place)?
                .context("detaching what moved")?;
            s.is_gone(place)?;
            s.works(s.at, 0..8, 61)?;
            Ok("8 pages of it work there; the others where they are".into())
        }
        Err(why) => bail!("{why}"),
    }
}

fn grown() -> Result<String> {
    let mut s = scene()?;
    let words = [s.at, SIZE, SIZE + P, libc::MREMAP_MAYMOVE as u64, 0];
    let why = s.attacher.refused(Order::Remap, &words)?;
    // And less.
    s.attacher
        .must(Order::Remap, &[s.at, SIZE, SIZE / 2, 0, 0])?;
    s.is_gone(s.at + SIZE / 2)?;
    s.works(s.at, 0..16, 3)?;
    Ok(format!("{why}; less is possible"))
}

fn protected() -> Result<String> {
    let mut s = scene()?;
    let (at, middle) = (s.at, s.at + 8 * P);
    let protect = |s: &mut Scene, access: i32| {
        s.attacher
            .must(Order::Protect, &[middle, 8 * P, access as u64])
            .map(drop)
    };
    protect(&mut s, libc::PROT_READ)?;
    s.attacher.holds(at, SIZE, 1, 0)?;
    let store = s.attacher.refused(Order::Store, &[middle, 1])?;
    let Refusal::Signal(libc::SIGSEGV, _) = store else {
        bail!("a store where it is read-only: {store}")
    };
    protect(&mut s, libc::PROT_NONE)?;
    s.is_gone(middle)?;
    s.works(at, 0..8, 5)?;
    protect(&mut s, libc::PROT_READ | libc::PROT_WRITE)?;
    s.works(at, 0..32, 7)?;
    Ok("read-only and nothing, as it says; then all of it".into())
}

fn advised() -> Result<String> {
    let mut s = scene()?;
    let mut said = Vec::new();
    for (name, advice) in [
        ("DONTNEED", libc::MADV_DONTNEED),
        ("COLD", libc::MADV_COLD),
        ("PAGEOUT", libc::MADV_PAGEOUT),
        ("FREE", libc::MADV_FREE),
        ("WILLNEED", libc::MADV_WILLNEED),
        ("REMOVE", libc::MADV_REMOVE),
        ("DOFORK", libc::MADV_DOFORK),
        ("DODUMP", libc::MADV_DODUMP),
        ("MERGEABLE", libc::MADV_MERGEABLE),
        ("HUGEPAGE", libc::MADV_HUGEPAGE),
        ("POPULATE_READ", 22),
        ("POPULATE_WRITE", 23),
        ("COLLAPSE", 25),
    ] {
        let words = [s.at, SIZE, advice as u64];
        if s.attacher.ask(Order::Advise, &words)?.is_err() {
            said.push(name);
        }
        s.attacher.holds(s.at, SIZE, 1, 0).context(name)?;
        s.owner.holds(s.there, SIZE, 1, 0).context(name)?;
    }
    s.works(s.at, 0..32, 3)?;
    Ok(format!(
        "refused: {}; all bytes are there after each",
        said.join(", ")
    ))
}

fn over() -> Result<String> {
    let mut s = scene()?;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    s.attacher
        .must(Order::Map, &[s.at + 8 * P, 8 * P, access, flags])?;
    s.attacher
        .must(Order::Store, &[s.at + 8 * P, 8 * P, 77, 0])?;
    s.owner.holds(s.there, SIZE, 1, 0)?;
    s.attacher
        .end(abi::RELEASE, s.permit)?
        .context("releasing")?;
    s.attacher.holds(s.at + 8 * P, 8 * P, 77, 0)?;
    s.is_gone(s.at)?;
    s.is_gone(s.at + 16 * P)?;
    Ok("it is the attacher's own, and stays behind the permit".into())
}

fn inside() -> Result<String> {
    let mut s = scene()?;
    s.attacher
        .end(abi::DETACH, s.at + 5 * P + 123)?
        .context("detaching")?;
    for page in [0, 5, 31] {
        s.is_gone(s.at + page * P)?;
    }
    let own = s.attacher.memory(P)?;
    for at in [own, 0, u64::MAX, 1 << 47] {
        if s.attacher.end(abi::DETACH, at)?.is_ok() {
            bail!("{at:#x}, where no attachment is, was detached");
        }
    }
    s.attacher.must(Order::Store, &[own, P, 1, 0])?;
    Ok("all of it goes; where none is, it is refused".into())
}

fn exec() -> Result<String> {
    let mut s = scene()?;
    s.attacher.tell(Order::Exec, &[])?;
    let path = format!("/proc/{}/comm", s.attacher.pid());
    let start = std::time::Instant::now();
    while std::fs::read_to_string(&path)?.trim() != "sleep" {
        if start.elapsed() > super::peer::SOON {
            bail!("it did not become another program");
        }
        std::thread::yield_now();
    }
    s.owner
        .must(Order::Advise, &[s.there, SIZE, libc::MADV_DONTNEED as u64])?;
    s.owner.must(Order::Store, &[s.there, SIZE, 4, 0])?;
    s.owner.holds(s.there, SIZE, 4, 0)?;
    s.attacher.end_by_kill()?;
    Ok("the owner goes on".into())
}
