//! What a queue pair's owner, or its peer, can do to the responder: an error completion at most.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::input::{HEARD, works};
use super::{Ctx, ends_with};
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::Work;
use crate::verbs::ALL_ACCESS;

const SIZE: usize = 16 * PAGE;
/// Longest time of a deregistration that waits for nobody.
const SOON: Duration = Duration::from_secs(10);

/// The cases.
pub fn responder(c: &Ctx<'_>) -> Result<()> {
    c.case("no resources for READ, atomics and FLUSH", none(c));
    c.case("a full completion queue", full(c));
    c.case("two threads change it at once", at_once(c));
    Ok(())
}

fn none(c: &Ctx<'_>) -> Result<String> {
    let access = ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_GLOBAL;
    let (area, local) = (c.area(SIZE, access)?, c.pinned(PAGE)?);
    let at = area.remote(8);
    let range = ffi::IBV_FLUSH_RANGE;
    let works_of = [
        ("READ", Work::Read(at), true),
        ("atomic", Work::FetchAdd(at, 1), true),
        ("ATOMIC_WRITE", Work::AtomicWrite(at, 1), false),
        (
            "FLUSH",
            Work::Flush(at, 100, ffi::IBV_FLUSH_GLOBAL, range),
            false,
        ),
        ("FLUSH of nothing", Work::Flush(at, 100, 0, range), false),
    ];
    for (what, work, has_list) in works_of {
        let pair = c.pair()?;
        pair.far.qp.responds(0)?;
        let list = [local.sge(8, 8)];
        let list = if has_list { &list[..] } else { &[] };
        ends_with(pair.near.run(work, list), ffi::IBV_WC_REM_INV_REQ_ERR, what)?;
    }
    area.check("the region")?;
    works(c)?;
    Ok("refused; the device works on".into())
}

/// WRITEs with immediate until nobody can be told of one: the region can go while its queue pair is there.
fn full(c: &Ctx<'_>) -> Result<String> {
    let (area, local) = (c.area(SIZE, ALL_ACCESS)?, c.pinned(PAGE)?);
    let pair = c.pair()?;
    let write = Work::WriteImm(area.remote(5), 7);
    let list = [local.sge(8, 100)];
    let room = pair.far.received.room();
    for number in 0..=room {
        let receive = pair.far.post_recv(number as u64, &[]);
        receive.context("posting a receive")?;
        pair.near.post(&[(write, &list)])?;
        if number < room {
            let sent = pair.near.sent.wait();
            sent.with_context(|| format!("WRITE {number}"))?;
        }
    }
    let device = c.env.pd.device();
    device.wait_for_event(ffi::ibv_event_type::IBV_EVENT_CQ_ERR, HEARD)?;
    let start = Instant::now();
    if area.deregister().is_err() {
        bail!("the deregistration was refused");
    }
    let took = start.elapsed();
    if took > SOON {
        bail!("the deregistration took {:.1} s", took.as_secs_f64());
    }
    drop(pair);
    works(c)?;
    Ok(format!("{room} found room; the region went at once"))
}

/// Its resources are replaced by two threads, under READs.
fn at_once(c: &Ctx<'_>) -> Result<String> {
    const CHANGES: u8 = 200;
    let area = c.area(SIZE, ALL_ACCESS)?;
    let mut local = c.pinned(PAGE)?;
    let pair = c.pair()?;
    let change = |first: u8| {
        let mut numbers = (0..CHANGES).map(|n| (n + first) % 16 + 1);
        numbers.try_for_each(|number| pair.far.qp.responds(number))
    };
    let mut reads = 0;
    std::thread::scope(|scope| {
        let changing = [scope.spawn(|| change(0)), scope.spawn(|| change(7))];
        while changing.iter().any(|thread| !thread.is_finished()) {
            pair.near
                .run(Work::Read(area.remote(64)), &[local.sge(8, 100)])
                .with_context(|| format!("READ {reads}"))?;
            reads += 1;
        }
        for thread in changing {
            let changed = thread.join();
            changed.map_err(|_| anyhow::anyhow!("a changing thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    local.expect(8, area.holds(64, 100));
    local.check("the READs' target")?;
    works(c)?;
    Ok(format!("2 times {CHANGES} changes under {reads} READs"))
}
