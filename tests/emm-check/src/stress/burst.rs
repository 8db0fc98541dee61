//! Small operations, many in flight at once on one queue pair: WRITEs in order, and READs behind them that must see them.

use anyhow::{Context as _, Result};

use crate::mem::{PAGE, Rng, pattern};
use crate::qp::Op;
use crate::target::{GUARD, Target};

use super::{Part, copy};

/// The most WRITEs, and the most READs, of one burst: a queue pair has room for 64 requests.
const MOST: usize = 24;
/// The most bytes of one: it can lie on two borders of pages.
const SMALL: usize = PAGE + 903;
/// From one place in the bounce buffer to the next, with room for guards and an odd start.
const STRIDE: usize = SMALL + 2 * GUARD + ODD;
const ODD: usize = 64;
/// Half of the places are so near to each other that they overlap and share pages.
const NEAR: usize = 3 * PAGE;

/// A READ in flight: where from, how much, and where to in the bounce buffer.
struct Reading {
    off: usize,
    len: usize,
    slot: usize,
}

/// Runs one burst within `part`, and compares what was read with its shadow, which the WRITEs change too.
///
/// # Returns
///
/// Operations and bytes.
pub(super) fn run(t: &Target, part: &mut Part, rng: &mut Rng) -> Result<(u64, u64)> {
    let (writes, reads) = (rng.below(MOST), 1 + rng.below(MOST));
    let (start, whole) = (part.from, part.to - part.from);
    let room = whole.min(NEAR);
    let near = start + rng.below(whole - room + 1);
    let place = |rng: &mut Rng| {
        let len = rng.length(SMALL);
        let (from, room) = if rng.below(2) == 0 {
            (near, room)
        } else {
            (start, whole)
        };
        (from + rng.below(room - len + 1), len)
    };
    let mut bytes = 0;
    let slot = |number: usize, rng: &mut Rng| GUARD + number * STRIDE + rng.below(ODD);
    let mut reading = Vec::with_capacity(reads);
    for number in 0..writes {
        let (off, len) = place(rng);
        let (seed, slot) = (rng.bits(), slot(number, rng));
        t.bounce_map().fill(slot, len, seed, off);
        pattern(seed, off, part.at(off, len));
        t.qp()
            .post(Op::Write, t.bounce_piece(slot), len as u32, t.remote(off))
            .with_context(|| format!("posting a WRITE of {len} bytes at {off:#x}"))?;
        bytes += len as u64;
    }
    for number in writes..writes + reads {
        let (off, len) = place(rng);
        let slot = slot(number, rng);
        t.set_guards(slot, len);
        t.qp()
            .post(Op::Read, t.bounce_piece(slot), len as u32, t.remote(off))
            .with_context(|| format!("posting a READ of {len} bytes at {off:#x}"))?;
        reading.push(Reading { off, len, slot });
        bytes += len as u64;
    }
    for number in 0..writes + reads {
        t.qp().wait().with_context(|| {
            format!("operation {number} of a burst of {writes} WRITEs and {reads} READs")
        })?;
    }
    for Reading { off, len, slot } in reading {
        let shadow = part.at(off, len);
        let what = format!("READ of {len} bytes at {off:#x} behind {writes} WRITEs");
        t.bounce_map()
            .compare(slot, len, |i, out| copy(shadow, i, out))
            .ok(&what)?;
        t.check_guards(slot, len)
            .ok(&format!("around the {what}"))?;
    }
    Ok(((writes + reads) as u64, bytes))
}
