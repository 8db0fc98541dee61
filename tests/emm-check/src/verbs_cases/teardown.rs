//! Queue pairs destroyed with their work in flight: nothing of it may hold them up, or change memory afterwards.

use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::Ctx;
use super::area::Area;
use super::lookup;
use crate::cpu;
use crate::mem::PAGE;
use crate::pair::Work;
use crate::verbs::ALL_ACCESS;

/// Several packets each, so that most are on their way when the queue pair goes.
const LEN: usize = 16 * PAGE;
const WORKS: usize = 6;
const ROUNDS: u64 = 40;
/// rxe gives up waiting for a reference after 50 s; one that is only late is gone in far less.
const LATE: Duration = Duration::from_secs(5);

/// The cases.
pub fn teardown(c: &Ctx<'_>) -> Result<()> {
    for (name, verb, first) in [
        ("READ in flight, requester first", Verb::Read, First::Near),
        ("READ in flight, responder first", Verb::Read, First::Far),
        ("WRITE in flight, requester first", Verb::Write, First::Near),
        ("WRITE in flight, responder first", Verb::Write, First::Far),
        ("SEND in flight, requester first", Verb::Send, First::Near),
        ("SEND in flight, responder first", Verb::Send, First::Far),
    ] {
        c.case(name, rounds(c, verb, first));
    }
    c.case("reset and connected again", reset(c));
    c.case("an error as soon as it has received", received(c));
    lookup::some(c);
    Ok(())
}

/// Ends that have done one to six requests are reset, and work again.
fn reset(c: &Ctx<'_>) -> Result<String> {
    let pair = c.pair()?;
    let mut near = c.area(LEN, ALL_ACCESS)?;
    let mut far = c.area(LEN, ALL_ACCESS)?;
    near.fill(0, LEN, c.seed(1));
    for round in 0..ROUNDS as usize {
        for _ in 0..round % WORKS + 1 {
            let (at, len) = (round * 1000 + 3, 1000 + round);
            let write = Work::Write(far.remote(at));
            pair.near
                .run(write, &[near.sge(at, len)])
                .with_context(|| format!("round {round}"))?;
            far.expect(at, near.holds(at, len));
        }
        far.check("the target")?;
        for end in [&pair.far, &pair.near] {
            end.qp.reset()?;
        }
        pair.connect(c.env.mtu)?;
    }
    Ok(format!("{ROUNDS} times, 0 wrong bytes"))
}

/// Whoever has received a message may take its queue pair away at once, as programs do at their end: the sender is told all the same
/// that it arrived. The receiver comes before the driver's threads, which it finds between its completion and their answer.
fn received(c: &Ctx<'_>) -> Result<String> {
    const TIMES: u32 = 300;
    let near = c.area(PAGE, ALL_ACCESS)?;
    let far = c.area(PAGE, ALL_ACCESS)?;
    let pair = c.pair()?;
    let once = || {
        pair.far.post_recv(0, &[far.sge(0, PAGE)])?;
        pair.near.post(&[(Work::Send, &[near.sge(0, PAGE)])])?;
        pair.far.received.wait()?;
        pair.far.qp.fail()?;
        pair.near.sent.wait().context("which was received")?;
        for end in [&pair.far, &pair.near] {
            end.qp.reset()?;
        }
        pair.connect(c.env.mtu)
    };
    let all = || {
        cpu::alone_on(0).context("taking CPU 0")?;
        (0..TIMES).try_for_each(|time| once().with_context(|| format!("message {time}")))
    };
    // The caller's own thread is to stay as it is.
    let all = scope(|scope| scope.spawn(all).join());
    all.map_err(|_| anyhow!("a thread panicked"))??;
    Ok(format!("{TIMES} messages, the sender was told of each"))
}

#[derive(Clone, Copy)]
enum Verb {
    Read,
    Write,
    Send,
}

/// Which end is destroyed first.
#[derive(Clone, Copy)]
enum First {
    Near,
    Far,
}

fn rounds(c: &Ctx<'_>, verb: Verb, first: First) -> Result<String> {
    let mut near = c.area(WORKS * LEN, ALL_ACCESS)?;
    let mut far = c.area(WORKS * LEN, ALL_ACCESS)?;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        near.fill(0, WORKS * LEN, c.seed(2 * round));
        far.fill(0, WORKS * LEN, c.seed(2 * round + 1));
        // So that what is under way meets faults too.
        let cold = if round % 2 == 0 { &near } else { &far };
        cold.cool()?;
        let took = flight(c, verb, first, &near, &far, round)?;
        slowest = slowest.max(took);
        if took > LATE {
            bail!("round {round}: destroying the queue pairs took {took:.1?}");
        }
        let (source, target) = match verb {
            Verb::Read => (&far, &near),
            Verb::Write | Verb::Send => (&near, &far),
        };
        source.check("the source")?;
        settled(source, target)?;
    }
    Ok(format!(
        "{ROUNDS} rounds of {WORKS} x {LEN} bytes, the slowest destroyed in {} ms",
        slowest.as_millis()
    ))
}

/// Posts all, and destroys both ends after some of it. Returns how long that took.
fn flight(
    c: &Ctx<'_>,
    verb: Verb,
    first: First,
    near: &Area,
    far: &Area,
    round: u64,
) -> Result<Duration> {
    let pair = c.pair()?;
    let elements: Vec<_> = (0..WORKS).map(|n| [near.sge(n * LEN, LEN)]).collect();
    let work = |n: usize| match verb {
        Verb::Read => Work::Read(far.remote(n * LEN)),
        Verb::Write => Work::Write(far.remote(n * LEN)),
        Verb::Send => Work::Send,
    };
    if let Verb::Send = verb {
        for n in 0..WORKS {
            pair.far.post_recv(n as u64, &[far.sge(n * LEN, LEN)])?;
        }
    }
    let works: Vec<_> = (0..WORKS).map(|n| (work(n), &elements[n][..])).collect();
    pair.near.post(&works)?;
    // From nothing done to most of it done.
    for _ in 0..round as usize % WORKS {
        pair.near.sent.wait()?;
    }
    let start = Instant::now();
    match first {
        First::Near => {
            drop(pair.near);
            drop(pair.far);
        }
        First::Far => {
            drop(pair.far);
            drop(pair.near);
        }
    }
    Ok(start.elapsed())
}

/// Every byte of the target is what was there or what was sent, and nothing changes it any more.
fn settled(source: &Area, target: &Area) -> Result<()> {
    let len = WORKS * LEN;
    let read = || {
        let mut bytes = vec![0; len];
        target.map().read(0, &mut bytes);
        bytes
    };
    let now = read();
    let (before, sent) = (target.holds(0, len), source.holds(0, len));
    if let Some(at) = (0..len).find(|&i| now[i] != before[i] && now[i] != sent[i]) {
        bail!("byte {at:#x} of the target is {:#04x}", now[at]);
    }
    if read() != now {
        bail!("the target changes after its queue pairs are gone");
    }
    Ok(())
}
