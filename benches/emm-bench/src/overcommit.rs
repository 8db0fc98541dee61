//! A region that is four times what its owner may have in memory: written whole by RDMA, read back whole, every byte compared.

use anyhow::{Context as _, Result};
use emm_check::mem::Wrong;
use emm_check::qp::Op;
use emm_check::system::ensure_swap;

use crate::facts::Subject;
use crate::guest::Cgroup;
use crate::isolated;
use crate::rig::{Rig, small_pages, timed};
use crate::traffic::{CHUNK, Stream};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "overcommit";
const LIMIT: usize = 32 << 20;
const SIZE: usize = 4 * LIMIT;
const SEED: u64 = 7;

const WRONG: Subject<'static> = Subject {
    row: ROW,
    case: "128 MiB in 32, through zram",
    unit: "wrong bytes",
};
const SECONDS: Subject<'static> = Subject { unit: "s", ..WRONG };

/// Measures all kinds.
pub fn all() -> Result<()> {
    let whos = [Who::Pinned, Who::Odp, Who::Emm];
    isolated::each(ROW, &whos, &[WRONG, SECONDS])
}

/// Measures one kind.
pub fn one(who: Who) -> Result<()> {
    let kind = who.kind().context("this row is about regions")?;
    let rig = Rig::open()?;
    let bounce = rig.source(CHUNK)?;
    ensure_swap()?;
    let group = Cgroup::new(&format!("{ROW}-{}", who.label()), LIMIT)?;
    group.take(std::process::id())?;
    let area = rig.area(kind, small_pages(SIZE)?)?;
    let qp = rig.qp()?;
    let stream = |op, off| Stream {
        qp: &qp,
        op,
        local: (&bounce, 0),
        remote: (&area, off),
        len: CHUNK,
    };
    let (wrong, time) = timed(|| {
        for off in (0..SIZE).step_by(CHUNK) {
            bounce.map.fill(0, CHUNK, SEED, off);
            stream(Op::Write, off).once()?;
        }
        let mut wrong = Wrong::default();
        for off in (0..SIZE).step_by(CHUNK) {
            bounce.map.set(0, CHUNK, 0);
            stream(Op::Read, off).once()?;
            wrong.add(bounce.map.check(0, CHUNK, SEED, off));
        }
        anyhow::Ok(wrong.count)
    });
    WRONG.tell(who.label(), wrong.map(|count| count as f64));
    SECONDS.tell(who.label(), Ok(time.as_secs_f64()));
    Ok(())
}
