//! Pages of a disk that does not answer: an access waits for it, and nobody else does.

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::uffd::soon;
use super::watched::HEARD;
use crate::mem::PAGE;
use crate::nbd::Nbd;
use crate::qp::{Op, OpError};
use crate::target::Target;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 2 << 20;
/// What lies before this comes at once. Read-ahead does not reach from one to the other in the middle of each.
const SLOW: usize = SIZE / 2;
const LEN: usize = 100;

/// The cases, with the kernel's read-ahead and without.
pub fn disk(c: &Ctx<'_>) -> Result<()> {
    if !Nbd::is_there() {
        let why = "the kernel has no network block devices";
        c.env.report.skip(c.event, why, false);
        return Ok(());
    }
    for (pages, alone) in [("read ahead", false), ("page by page", true)] {
        let name = |what: &str| format!("a disk that is silent, {pages}: {what}");
        c.case(&name("it answers late"), late(c, alone));
        c.case(&name("the region goes"), region_goes(c, alone));
        c.case(&name("the queue pair goes"), queue_pair_goes(c, alone));
    }
    Ok(())
}

/// Memory of which half does not come.
fn silent(c: &Ctx<'_>, alone: bool) -> Result<(Nbd, Target)> {
    let nbd = Nbd::new(SIZE, SLOW, c.seed(1))?;
    let target = Target::new(c.env, c.kind, nbd.map(SIZE, alone)?)?;
    Ok((nbd, target))
}

/// Posts a READ by `key` of what does not come.
fn block(nbd: &Nbd, t: &Target, key: u32) -> Result<usize> {
    let off = SLOW + SLOW / 2 + 3 * PAGE + 5;
    let mut remote = t.remote(off);
    remote.key = key;
    t.qp()
        .post(Op::Read, t.bounce_piece(64), LEN as u32, remote)?;
    nbd.next(HEARD)?;
    Ok(off)
}

fn late(c: &Ctx<'_>, alone: bool) -> Result<String> {
    let (nbd, t) = silent(c, alone)?;
    let other = Target::sharing(c.env, t.map.clone(), t.mr.clone())?;
    let off = block(&nbd, &t, t.mr.rkey())?;
    soon("reading what is there", || other.read(1, PAGE, c.seed(1)))??;
    nbd.let_go()?;
    t.qp().wait().context("the READ that waited")?;
    let bounce = t.bounce_map();
    bounce
        .check(64, LEN, c.seed(1), off)
        .ok("the READ that waited")?;
    t.read(SLOW + 1, SLOW - 1, c.seed(1))?;
    t.read(1, SLOW, c.seed(1))?;
    Ok("others read meanwhile; then it ends well".into())
}

fn region_goes(c: &Ctx<'_>, alone: bool) -> Result<String> {
    let (nbd, mut t) = silent(c, alone)?;
    let access = ALL_ACCESS | c.kind.flags();
    let mr = Mr::new(&c.env.pd, t.map.addr(), SIZE, access)?;
    block(&nbd, &t, mr.rkey())?;
    soon("deregistering the region", || drop(mr))?;
    let said = match soon("the completion", || t.qp().wait())? {
        Err(e @ OpError::Status(_)) => e,
        Err(e) => bail!("{e}"),
        Ok(()) => bail!("the READ of a page that did not come ended well"),
    };
    t.new_qp()?;
    t.read(1, PAGE, c.seed(1))?;
    nbd.let_go()?;
    t.read(SLOW + 1, SLOW - 1, c.seed(1))?;
    Ok(format!("deregistered without waiting; {said}"))
}

fn queue_pair_goes(c: &Ctx<'_>, alone: bool) -> Result<String> {
    let (nbd, mut t) = silent(c, alone)?;
    block(&nbd, &t, t.mr.rkey())?;
    soon("destroying the queue pair", || t.new_qp())??;
    t.read(1, PAGE, c.seed(1))?;
    nbd.let_go()?;
    t.read(SLOW + 1, SLOW - 1, c.seed(1))?;
    Ok("destroyed without waiting; a new one works".into())
}
