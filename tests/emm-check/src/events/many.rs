//! Many regions in one address space: an invalidation costs those that it hits, not those that are there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::{Map, PAGE, Rng};
use crate::qp::{Op, Piece};
use crate::verbs::{ALL_ACCESS, Mr};

const REGIONS: usize = 10_000;
/// How often an unrelated page is thrown away; the shortest time counts.
const TIMES: usize = 300;
/// By how much that time may grow. One look at each region would make it tens of times as long.
const GROWTH: u32 = 3;

/// The cases.
pub fn many(c: &Ctx<'_>) -> Result<()> {
    let field = Map::anon(REGIONS * PAGE)?;
    let other = Map::anon(PAGE)?;
    // Another flag, or the kernel may make one mapping of the two.
    other.advise(0, PAGE, libc::MADV_DONTDUMP)?;
    let access = ALL_ACCESS | c.kind.flags();
    let register = |off: usize| {
        Mr::new(&c.env.pd, field.addr() + off, PAGE, access)
            .with_context(|| format!("registering the page at {off:#x}"))
    };
    let mut regions = vec![register(0)?];
    let alone = thrown(&other)?;
    for off in (PAGE..field.len()).step_by(PAGE) {
        regions.push(register(off)?);
    }
    let crowded = thrown(&other)?;
    let text = format!(
        "{:.1} µs beside one region, {:.1} µs beside {REGIONS}",
        alone.as_secs_f64() * 1e6,
        crowded.as_secs_f64() * 1e6
    );
    let outcome = if crowded > GROWTH * alone {
        Err(anyhow::anyhow!(text))
    } else {
        Ok(text)
    };
    c.case("MADV_DONTNEED of a page of none of them", outcome);
    c.case("of a page of one of them", own(c, &field, &regions));
    Ok(())
}

/// The shortest time to throw a touched page away.
fn thrown(page: &Map) -> Result<Duration> {
    let mut shortest = Duration::MAX;
    for _ in 0..TIMES {
        page.set(0, PAGE, 1);
        let start = Instant::now();
        page.advise(0, PAGE, libc::MADV_DONTNEED)?;
        shortest = shortest.min(start.elapsed());
    }
    Ok(shortest)
}

/// Some regions, each written by RDMA and thrown away beside all others: it must hear of that.
fn own(c: &Ctx<'_>, field: &Map, regions: &[Mr]) -> Result<String> {
    const LEN: usize = 100;
    let t = c.target(PAGE)?;
    let mut rng = Rng(c.seed(1));
    for _ in 0..50 {
        let number = rng.below(regions.len());
        let off = number * PAGE;
        let at = Piece {
            addr: (field.addr() + off) as u64,
            key: regions[number].rkey(),
        };
        t.bounce_map().set(64, LEN, 0x77);
        t.qp().run(Op::Write, t.bounce_piece(64), LEN as u32, at)?;
        field.check_byte(off, LEN, 0x77).ok("what was WRITten")?;
        field.advise(off, PAGE, libc::MADV_DONTNEED)?;
        t.qp().run(Op::Read, t.bounce_piece(64), LEN as u32, at)?;
        if !t.bounce_map().check_byte(64, LEN, 0).none() {
            bail!("region {number} reads as before it was thrown away");
        }
    }
    Ok("50 of them, each reads as zero".into())
}
