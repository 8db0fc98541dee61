//! Pages that only the device uses are young to the VM.

use anyhow::{Result, bail};

use super::{Ctx, khugepaged};
use crate::mem::Map;
use crate::swap::ensure_swap;
use crate::system::{Cgroup, smaps_kib};
use crate::target::Target;

const SIZE: usize = 4 << 20;
const ROUNDS: usize = 4;
/// Taken back in each round: in all, three quarters of what nobody uses.
const TAKEN: usize = 3 * SIZE / 4 / ROUNDS;

/// Percent of the idle part: with less, it may have been too little for the last round.
const SCARCE: u64 = 10;

fn resident(map: &Map) -> u64 {
    smaps_kib(map.addr(), SIZE, "Rss") * 1024 * 100 / SIZE as u64
}

/// As much memory is used by the device as lies idle. What reclaim takes has to be the idle part.
pub fn aging(c: &Ctx<'_>) -> Result<()> {
    ensure_swap()?;
    let group = Cgroup::new("emm-check-aging")?;
    group.add(std::process::id())?;
    let outcome = used_and_idle(c, &group);
    Cgroup::leave(std::process::id())?;
    c.case("what the device reads stays", outcome);
    c.case("a look takes no mark", khugepaged::look(c));
    Ok(())
}

fn used_and_idle(c: &Ctx<'_>, group: &Cgroup) -> Result<String> {
    // The used part is the older one: by age alone it would go first.
    let map = Map::anon(SIZE)?;
    map.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    let used = Target::new(c.env, c.kind, map)?;
    used.cpu_fill(0, SIZE, c.seed(1));
    let idle = Map::anon(SIZE)?;
    idle.advise(0, SIZE, libc::MADV_NOHUGEPAGE)?;
    // Another flag, or the kernel may make one mapping of the two, and counts its pages together.
    idle.advise(0, SIZE, libc::MADV_DONTDUMP)?;
    idle.fill(0, SIZE, c.seed(2), 0);
    let (mut stays, mut rounds) = (100, 0);
    for round in 0..=ROUNDS {
        used.read(0, SIZE, c.seed(1))?;
        // Less may come back than is asked for, and that shows below.
        let _ = group.reclaim(TAKEN);
        // When nearly all of the other part has gone, there was nothing else to take.
        if resident(&idle) < SCARCE {
            break;
        }
        // At first all of it is young: the CPU has just written it.
        if round > 0 {
            stays = stays.min(resident(&used.map));
            rounds += 1;
        }
    }
    if rounds == 0 {
        bail!("the first round took all of what nobody uses: nothing was shown");
    }
    let left = resident(&idle);
    if stays < 90 || left > 60 {
        bail!("{stays} % of what the device reads stayed, and {left} % of what nobody uses");
    }
    used.read(0, SIZE, c.seed(1))?;
    idle.check(0, SIZE, c.seed(2), 0).ok("the idle part")?;
    Ok(format!(
        "{stays} % of it, {left} % of what nobody uses; 0 wrong bytes"
    ))
}
