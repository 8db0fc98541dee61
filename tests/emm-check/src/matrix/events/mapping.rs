//! The mapping under the region goes, changes its protection, moves, or is replaced.

use std::io;

use anyhow::{Context as _, Result, bail};

use crate::matrix::scene::Scene;
use crate::matrix::side::Allows;
use crate::mem::{Map, remap as move_mapping};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Pages thrown away read as zero.
pub fn dontneed(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for _ in 0..6 {
        s.traffic(6)?;
        let range = s.pages(3);
        s.advise(&range, libc::MADV_DONTNEED)?;
        s.stage.zero(range.clone());
        s.traffic_in(range, 4)?;
        s.traffic(2)?;
        s.stage.verify("the stage")?;
    }
    Ok("6 ranges thrown away read as zero and take new bytes".into())
}

/// In between there is a hole; then the new mapping is reached through the old registration.
pub fn remap(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for round in 0..3u64 {
        s.traffic(6)?;
        let range = s.pages(6);
        let at = s.stage.at(range.start);
        s.stage.stock(2)?;
        s.stage.map().punch(at, range.len())?;
        let refused = s.obey(Allows::Nothing, range.clone());
        s.stage.map().renew(at, range.len())?;
        refused.context("in the hole")?;
        s.stage.zero(range.clone());
        s.traffic_in(range.clone(), 4)?;
        s.stage.fill(range, s.seed(round + 2));
        s.traffic(4)?;
        s.stage.verify("the stage")?;
    }
    Ok("3 holes refused, 3 new mappings reached".into())
}

/// The pages move away with their bytes: the region must not follow them, and finds them when they are back.
pub fn mremap(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for round in 0..3u64 {
        s.traffic(6)?;
        let range = s.pages(6);
        let away = Map::with(0, range.len(), libc::PROT_NONE, 0, -1)?;
        s.stage.stock(2)?;
        move_mapping(s.address(range.start), range.len(), away.addr())?;
        let refused = s.obey(Allows::Nothing, range.clone());
        let moved = away.compare(0, range.len(), |at, out| {
            let from = range.start + at;
            out.copy_from_slice(s.stage.model(from..from + out.len()));
        });
        // What is written there comes back with the pages.
        away.fill(0, range.len(), s.seed(round + 2), range.start);
        move_mapping(away.addr(), range.len(), s.address(range.start))?;
        // Nothing is mapped at `away` any more, and somebody else may be given its place.
        std::mem::forget(away);
        refused.context("where the pages were")?;
        moved.ok("where the pages went")?;
        s.stage.expect(range.clone(), s.seed(round + 2));
        s.traffic_in(range, 4)?;
        s.stage.verify("the stage")?;
    }
    Ok("3 times away and back".into())
}

/// Read-only memory is read and not written, memory without access neither.
pub fn mprotect(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for _ in 0..3 {
        s.traffic(6)?;
        let range = s.pages(6);
        for (prot, allows) in [
            (libc::PROT_READ, Allows::Reading),
            (libc::PROT_NONE, Allows::Nothing),
        ] {
            s.protect(&range, prot)?;
            let obeyed = s.obey(allows, range.clone());
            s.protect(&range, RW)?;
            obeyed?;
            s.traffic_in(range.clone(), 3)?;
        }
        s.traffic(3)?;
        s.stage.verify("the stage")?;
    }
    Ok("3 ranges read-only, without access, and back".into())
}

/// The stage is the top of the heap: its second half is given back, and comes again.
pub fn brk(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(10)?;
    let half = s.stage.len() / 2..s.stage.len();
    let by = half.len() as isize;
    for _ in 0..3 {
        s.stage.stock(2)?;
        // SAFETY: asks for the break.
        let top = unsafe { libc::sbrk(0) } as usize;
        if top != s.address(s.stage.len()) {
            bail!("the heap grew meanwhile: its top is no longer the stage's");
        }
        // SAFETY: what goes is the stage's own.
        if unsafe { libc::sbrk(-by) } as usize == usize::MAX {
            bail!("trimming the heap: {}", io::Error::last_os_error());
        }
        let refused = s.obey(Allows::Nothing, half.clone());
        // SAFETY: memory at the same place, which nobody has asked for meanwhile.
        if unsafe { libc::sbrk(by) } as usize != s.address(half.start) {
            bail!("the heap did not grow at the same place");
        }
        refused.context("above the heap's top")?;
        s.stage.zero(half.clone());
        s.traffic_in(half.clone(), 4)?;
        s.traffic(4)?;
        s.stage.verify("the stage")?;
    }
    Ok("3 times trimmed and grown".into())
}
