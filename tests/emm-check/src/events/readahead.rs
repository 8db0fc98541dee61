//! How much a fault asks the VM for: more and more in a stream, and elsewhere what is needed. Fault calls are counted by their
//! trace event.

use anyhow::{Result, bail};

use super::Ctx;
use crate::mem::{Map, PAGE, Rng};
use crate::qp::Op;
use crate::system::{Kind, region};
use crate::target::Target;
use crate::trace::Counter;

const SIZE: usize = 4 << 20;
/// Fault calls that the whole region may take: a few more for each of its three or fewer parts than the steps that double up to a
/// part. One a packet would be 1024.
const FEW: u64 = 40;
/// READs of a page each, at random.
const RANDOM: usize = 200;
/// Of 16 GiB, so that two of them are neighbours in one case of 100 only.
const WIDE: usize = 16 << 30;

/// The cases.
pub fn readahead(c: &Ctx<'_>) -> Result<()> {
    if c.kind.resolve() != Kind::Emm {
        c.env.report.skip("readahead", "is of ib_emm", false);
        return Ok(());
    }
    c.case("a cold stream", stream(c));
    c.case("random pages", random(c));
    Ok(())
}

fn small(c: &Ctx<'_>, size: usize) -> Result<Target> {
    let map = Map::with(
        0,
        size,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_NORESERVE,
        -1,
    )?;
    map.advise(0, size, libc::MADV_NOHUGEPAGE)?;
    Target::new(c.env, c.kind, map)
}

fn stream(c: &Ctx<'_>) -> Result<String> {
    let t = small(c, SIZE)?;
    let faults = Counter::new("emm_fault")?;
    t.write(0, SIZE, c.seed(1))?;
    let calls = faults.count()?;
    t.cpu_check(0, SIZE, c.seed(1))?;
    if calls == 0 || calls > FEW {
        bail!("{calls} fault calls for {} pages", SIZE / PAGE);
    }
    Ok(format!("{calls} fault calls for {} pages", SIZE / PAGE))
}

fn random(c: &Ctx<'_>) -> Result<String> {
    let t = small(c, WIDE)?;
    let mut rng = Rng(c.seed(2));
    let faults = Counter::new("emm_fault")?;
    for _ in 0..RANDOM {
        let at = t.remote(rng.below(WIDE / PAGE) * PAGE + 77);
        t.qp().run(Op::Read, t.bounce_piece(64), 100, at)?;
    }
    let calls = faults.count()?;
    let pages = region(t.map.addr())?.resident;
    // Of so many places hardly two share a page: what counts no calls, or reads nothing, is found too.
    let (least, most) = (RANDOM as u64 * 9 / 10, RANDOM as u64);
    if !(least..=most).contains(&calls) || !(least..=most * 5 / 4).contains(&pages) {
        bail!("{RANDOM} READs took {calls} fault calls and brought {pages} pages");
    }
    Ok(format!(
        "{RANDOM} READs took {calls} fault calls and brought {pages} pages"
    ))
}
