//! Registered anew: another protection domain, other access; what else it may ask for is refused.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::area::Area;
use super::{Ctx, ends_with, refused};
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{Pair, Work};
use crate::private::{Change, Rereg};
use crate::system::Kind;
use crate::verbs::{ALL_ACCESS, Pd};

const SIZE: usize = 16 * PAGE;
const REFUSED: u32 = ffi::IBV_WC_REM_ACCESS_ERR;

/// The cases.
pub fn rereg(c: &Ctx<'_>) -> Result<()> {
    let rereg = Rereg::find()?;
    c.case("another protection domain", domain(c, rereg));
    c.case("less access and more again", access(c, rereg));
    c.case("both at once", both(c, rereg));
    c.case("refused", refusals(c, rereg));
    Ok(())
}

fn to_domain(pd: &Pd) -> Change<'_> {
    Change {
        pd: Some(pd),
        ..Change::default()
    }
}

fn to_access(access: u32) -> Change<'static> {
    Change {
        access: Some(access),
        ..Change::default()
    }
}

/// WRITE to and READ from the region, faulting anew.
fn works(pair: &Pair, area: &mut Area, local: &mut Area, seed: u64) -> Result<()> {
    let len = 20_011;
    local.fill(3, len, seed);
    area.cool()?;
    let at = area.remote(77);
    pair.near.run(Work::Write(at), &[local.sge(3, len)])?;
    area.expect(77, local.holds(3, len));
    area.check("WRITE")?;
    area.cool()?;
    pair.near.run(Work::Read(at), &[local.sge(30_001, len)])?;
    local.expect(30_001, area.holds(77, len));
    local.check("READ")
}

fn domain(c: &Ctx<'_>, rereg: Rereg) -> Result<String> {
    let other = Pd::new(c.env.pd.device())?;
    let here = c.pair()?;
    let there = Pair::new(&other, c.env.mtu, None)?;
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    let mut local = c.pinned(SIZE)?;
    let mut local_there = Area::new(&other, SIZE, ALL_ACCESS)?;
    works(&here, &mut area, &mut local, c.seed(1))?;
    let key = area.mr.rkey();

    rereg
        .change(&area.mr, to_domain(&other))
        .context("ibv_rereg_mr")?;
    if area.mr.rkey() != key {
        bail!("the key changed");
    }
    works(&there, &mut area, &mut local_there, c.seed(2)).context("in the new domain")?;
    let work = Work::Write(area.remote(0));
    ends_with(
        here.near.run(work, &[local.sge(0, 1)]),
        REFUSED,
        "old domain",
    )?;
    area.check("the old domain's WRITE")?;

    rereg
        .change(&area.mr, to_domain(&c.env.pd))
        .context("back")?;
    let here = c.pair()?;
    works(&here, &mut area, &mut local, c.seed(3)).context("back in the old domain")?;
    let result = there.near.run(work, &[local_there.sge(0, 1)]);
    ends_with(result, REFUSED, "the domain it left")?;
    Ok("there and back: works in its domain, refused in the other, 0 wrong bytes".into())
}

fn access(c: &Ctx<'_>, rereg: Rereg) -> Result<String> {
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    let mut local = c.pinned(SIZE)?;
    works(&c.pair()?, &mut area, &mut local, c.seed(4))?;
    let only_read = ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_READ | c.kind.flags();
    for round in 0..3 {
        rereg
            .change(&area.mr, to_access(only_read))
            .context("ibv_rereg_mr to read")?;
        let pair = c.pair()?;
        let at = area.remote(5);
        pair.near.run(Work::Read(at), &[local.sge(9, 5003)])?;
        local.expect(9, area.holds(5, 5003));
        local.check("READ")?;
        for (name, work, len) in [
            ("WRITE", Work::Write(area.remote(4095)), 2),
            ("FETCH_ADD", Work::FetchAdd(area.remote(8), 1), 8),
            ("ATOMIC_WRITE", Work::AtomicWrite(area.remote(8), 1), 0),
        ] {
            let list = [local.sge(0, len)];
            let list = if len > 0 { &list[..] } else { &[] };
            ends_with(c.pair()?.near.run(work, list), REFUSED, name)?;
        }
        area.check("what was refused")?;
        rereg
            .change(&area.mr, to_access(ALL_ACCESS | c.kind.flags()))
            .context("to everything")?;
        works(&c.pair()?, &mut area, &mut local, c.seed(10 + round))?;
    }
    Ok("reading works, writing is refused while it is not allowed; 0 wrong bytes".into())
}

fn both(c: &Ctx<'_>, rereg: Rereg) -> Result<String> {
    let other = Pd::new(c.env.pd.device())?;
    let there = Pair::new(&other, c.env.mtu, None)?;
    let mut area = c.area(SIZE, ffi::IBV_ACCESS_LOCAL_WRITE)?;
    let mut local = Area::new(&other, SIZE, ALL_ACCESS)?;
    let all = ALL_ACCESS | c.kind.flags();
    let change = Change {
        access: Some(all),
        ..to_domain(&other)
    };
    rereg.change(&area.mr, change).context("ibv_rereg_mr")?;
    works(&there, &mut area, &mut local, c.seed(5))?;
    Ok("0 wrong bytes".into())
}

fn refusals(c: &Ctx<'_>, rereg: Rereg) -> Result<String> {
    let other: Arc<Pd> = Pd::new(c.env.pd.device())?;
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    let mut local = c.pinned(SIZE)?;
    let all = ALL_ACCESS | c.kind.flags();
    let odd = ffi::IBV_ACCESS_REMOTE_WRITE | c.kind.flags();
    let huge = all | ffi::IBV_ACCESS_HUGETLB;
    let based = all | ffi::IBV_ACCESS_ZERO_BASED;
    let unknown = all | 1 << 18;
    let wrong = [libc::EINVAL, libc::EOPNOTSUPP];
    let other_domain = to_domain(&other);
    let also = |access| Change {
        access: Some(access),
        ..other_domain
    };
    let unknown_flag = Change {
        flags: 1 << 6,
        ..to_access(all)
    };
    let range = Change {
        range: Some((area.addr(), SIZE / 2)),
        ..Change::default()
    };
    let mut asked = vec![
        ("nothing", Change::default()),
        ("unknown flags", unknown_flag),
        ("remote write without local write", to_access(odd)),
        ("huge pages", to_access(huge)),
        ("zero based", to_access(based)),
        ("unknown access", to_access(unknown)),
        ("unknown access and another domain", also(unknown)),
        ("zero based and another domain", also(based)),
        ("another range", range),
    ];
    if c.kind != Kind::Pinned {
        asked.push(("pinned from now on", to_access(ALL_ACCESS)));
        asked.push(("pinned and another domain", also(ALL_ACCESS)));
    }
    for &(what, change) in &asked {
        refused(rereg.change(&area.mr, change), &wrong, what)?;
        works(&c.pair()?, &mut area, &mut local, c.seed(6))
            .with_context(|| format!("after: {what}"))?;
    }
    Ok(format!(
        "{} combinations, the region works on as it was",
        asked.len()
    ))
}
