//! Queue pairs destroyed while a packet is looking for them and does not get on with it: what it has found by its number may be
//! freed by then.
//!
//! A sender's work item runs on CPU 0, and now and then a thread that comes before it takes that CPU from it. If the item
//! was looking for the receiver just then, this is destroyed, on CPU 1.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use std::{array, io};

use anyhow::{Context as _, Result, anyhow, bail};

use super::Ctx;
use super::datagram::Ends;
use crate::cpu;
use crate::mem::PAGE;
use crate::qp::RawQp;
use crate::stacks::Workers;
use crate::system::kernel;
use crate::verbs::ALL_ACCESS;

/// The function that looks, and holds what it has found.
const LOOK: &str = "rxe_pool_get_index";
/// Lookups that do not get on: some of them are between the look and the hold.
const FOUND: u32 = 60;
/// Interruptions until there are so many: one of some hundred finds a lookup.
const TRIES: u32 = 12_000;
/// Where a look takes long, as on a slow host, this is enough of them if it is to be short.
const TIME: Duration = Duration::from_secs(20);
/// At least so many are met then.
const FEW: u32 = 3;
/// Packets that are sent at once.
const SENDS: usize = 60;

/// How often CPU 0 was taken, and was given back.
#[derive(Default)]
struct Turns {
    taken: AtomicU32,
    given: AtomicU32,
}

/// As many as there is time for.
pub fn some(c: &Ctx<'_>) {
    case(c, true);
}

/// All of them, however long that takes.
pub fn lookup(c: &Ctx<'_>) -> Result<()> {
    case(c, false);
    Ok(())
}

fn case(c: &Ctx<'_>, short: bool) {
    let name = "a packet is looking for it";
    if kernel().ends_with("-debug") {
        c.case(name, destroyed(c, short));
    } else {
        let why = "only a kernel with KASAN, as the debug one is, sees each touch of what is freed";
        c.env.report.skip(name, why, false);
    }
}

fn destroyed(c: &Ctx<'_>, short: bool) -> Result<String> {
    if cpu::online() < 2 {
        bail!("one CPU for the sender and one for the rest are needed");
    }
    let turns = Turns::default();
    scope(|scope| {
        let (ask, asked) = channel();
        let taker = scope.spawn(|| take(asked, &turns));
        // The caller's own thread is to stay where it likes.
        let rounds = scope.spawn(|| rounds(c, ask, &turns, short));
        let rounds = rounds.join().map_err(|_| anyhow!("a thread panicked"))?;
        let taken = taker.join().map_err(|_| anyhow!("a thread panicked"))?;
        taken.context("taking CPU 0")?;
        rounds
    })
}

/// Takes CPU 0 each time after as long as is asked, until it is to be given back.
fn take(asked: Receiver<Duration>, turns: &Turns) -> io::Result<()> {
    let bound = cpu::stay_on(0).and_then(|()| cpu::first());
    for (turn, after) in (1..).zip(asked) {
        sleep(after);
        turns.taken.store(turn, SeqCst);
        while bound.is_ok() && turns.given.load(SeqCst) < turn {
            spin_loop();
        }
    }
    bound
}

fn rounds(c: &Ctx<'_>, ask: Sender<Duration>, turns: &Turns, short: bool) -> Result<String> {
    cpu::stay_on(1).context("staying on CPU 1")?;
    let ends = Ends::new(c)?;
    let near = c.area(PAGE, ALL_ACCESS)?;
    let list = [near.sge(0, 1)];
    let send = |to: &RawQp| {
        let works: [_; SENDS] = array::from_fn(|_| (ends.to(to), &list[..]));
        ends.near.post(&works)
    };
    let sent = |n: usize| (0..n).try_for_each(|_| ends.near.sent.spin().map(drop));
    // What comes for it is looked at and dropped, and no work of its own keeps it.
    let receiver = || RawQp::new(&c.env.pd, &ends.near.received, &ends.near.received);
    let far = receiver()?;
    // How long a packet takes if nobody interrupts: some time in this is when somebody does.
    let mut each = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        send(&far)?;
        sent(SENDS)?;
        each = each.min(start.elapsed() / SENDS as u32);
    }
    let (mut turn, mut met, begin) = (0, 0, Instant::now());
    for found in 0..FOUND {
        if short && found >= FEW && begin.elapsed() > TIME {
            break;
        }
        let far = receiver()?;
        let mut workers = Workers::now();
        let mut left = 0;
        loop {
            if turn == TRIES {
                bail!(
                    "only {found} of {TRIES} interruptions met a packet that looks: too little was tried"
                );
            }
            turn += 1;
            if left == 0 {
                send(&far)?;
                left = SENDS;
            }
            // By steps of the golden section, which spread evenly.
            let after = each.mul_f64(f64::from(turn) * 0.618_034 % 1.0);
            ask.send(after).context("the other thread is gone")?;
            while turns.taken.load(SeqCst) < turn {
                spin_loop();
            }
            if workers.are_in("[rdma_rxe]", LOOK) {
                break;
            }
            turns.given.store(turn, SeqCst);
            while ends.near.sent.poll()?.is_some() {
                left -= 1;
            }
        }
        drop(far);
        turns.given.store(turn, SeqCst);
        // The rest finds nobody.
        sent(left)?;
        met = found + 1;
    }
    Ok(format!(
        "{met} destroyed while a packet looked for them, in {turn} interruptions"
    ))
}
