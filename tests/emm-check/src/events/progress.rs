//! Operations go on although a thread throws pages away without pause (their own, or those that a
//! fault reads ahead), or forks. ib_emm's trace tells what faults do that lose to it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Ctx;
use crate::beat::Beat;
use crate::child;
use crate::counters::duplicates;
use crate::ffi;
use crate::mem::{Map, PAGE, Wrong};
use crate::private::Advise;
use crate::spent::{Account, Spent};
use crate::stall::Watch;
use crate::system::Kind;
use crate::target::Target;
use crate::trace::{Counter, Log, field};

/// A region's pages: a huge page's, as many as one fault can ask for.
const ALL: usize = 512;
/// Pages that operations read before they begin again.
const ROW: usize = 32;
/// A page behind them, among those that an operation on twice as many names.
const AHEAD: usize = ROW + ROW / 2;
/// Those that a thread throws away together.
const SOME: usize = 64;
const TIME: Duration = Duration::from_secs(4);
/// How often a case is played until a fault loses.
const ROUNDS: usize = 5;
/// Longest time of one operation while the guest's CPUs run, and its thread does not just wait for one.
const STALL: Duration = Duration::from_millis(100);
/// And at all: a busy host can keep a CPU from running for seconds.
const AT_ALL: Duration = Duration::from_secs(5);
/// Operations that are shorter are not looked at closely.
const SHORT: Duration = Duration::from_millis(20);

/// The cases.
pub fn progress(c: &Ctx<'_>) -> Result<()> {
    let _calm = NoHugePages::new();
    let own = target(c).and_then(|t| against(c, &t, 1, first_page, throw(0..1)));
    c.case("the page of each operation", own);
    let some = target(c).and_then(|t| against(c, &t, 2, first_page, throw(0..SOME)));
    c.case("64 pages, two threads", some);
    // Some of them are always between an invalidation's start and its end.
    let many = target(c).and_then(|t| against(c, &t, 16, first_page, throw(0..SOME)));
    c.case("64 pages, sixteen threads", many);
    c.case("a page further on in the message", further_on(c));
    let forks = traced(c, in_a_row, 0..ALL, |_| child::short());
    c.case("forks", forks.and_then(Seen::never_lost));
    let advised = traced(c, advice, 0..ALL, |_| child::short());
    c.case(
        "prefetches against forks",
        advised.and_then(Seen::never_lost),
    );
    Ok(())
}

/// Keeps khugepaged away from this process. It holds the mmap_lock for writing while it copies two megabytes, at the lowest
/// priority: while other threads want all CPUs, whoever needs the lock waits for a second or more, a fault as well as mmap(2).
struct NoHugePages;

impl NoHugePages {
    fn new() -> Self {
        Self::set(1);
        Self
    }

    fn set(off: libc::c_ulong) {
        // SAFETY: numbers only. Fails only for others.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, off, 0, 0, 0) };
    }
}

impl Drop for NoHugePages {
    fn drop(&mut self) {
        Self::set(0);
    }
}

/// A busy host may run the guest's CPUs one after the other for so long that nothing comes between.
fn further_on(c: &Ctx<'_>) -> Result<String> {
    for _ in 0..ROUNDS {
        // A fault of the thrown page itself may have been answered and come too late: the access asks anew then.
        let seen = traced(c, at_once, 0..AHEAD, throw_far_ones)?;
        if seen.faults.as_ref().is_none_or(|f| !f.again.is_empty()) {
            return seen.narrow();
        }
    }
    bail!("{ROUNDS} times no fault lost, so that nothing was shown")
}

/// What came of operations against events.
struct Seen {
    text: String,
    /// Of what ib_emm serves.
    faults: Option<Faults>,
}

/// Faults that lost.
struct Faults {
    /// Pages that each asked the VM for when it began again: see [`again`].
    again: Vec<u64>,
    /// Requests that came again, of which each may ask anew.
    late: u64,
    /// How often an answer of the VM was stale before it was entered.
    lost: u64,
}

impl Seen {
    /// A fault that lost asks for its own page and no other: those ahead are what it may lose to the next time.
    fn narrow(self) -> Result<String> {
        let text = self.text;
        let Some(Faults { again, late, .. }) = self.faults else {
            return Ok(text);
        };
        let lost = again.len();
        let wide = again.into_iter().filter(|pages| *pages != 1).count();
        if wide as u64 > late {
            bail!("{text}; {lost} faults lost, {wide} of which asked for more than a page");
        }
        Ok(format!("{text}; {lost} faults lost"))
    }

    /// A fault holds the mmap_lock until its pages are entered, and fork needs it. (It may come between that and the access,
    /// which is another fault then.) A page or two may go for reasons of the VM's own.
    fn never_lost(self) -> Result<String> {
        let text = self.text;
        match self.faults {
            Some(Faults { lost, .. }) if lost > 2 => {
                bail!("{text}; {lost} faults lost, which fork can't make lose")
            }
            Some(Faults { lost, .. }) => Ok(format!("{text}; {lost} faults lost")),
            None => Ok(text),
        }
    }
}

/// Pages that the VM was asked for by faults of `map` which had lost: each asked for the address of the one before, which had
/// been answered. No other fault of [`at_once`], [`in_a_row`] and [`advice`] does.
fn again(faults: &[String], map: Range<u64>) -> Vec<u64> {
    let fields = |fault: &String| {
        let all = ["address", "pages", "error"].map(|name| field(fault, name));
        Some((all[0]?, all[1]?, all[2] == Some(0)))
    };
    let faults: Vec<_> = faults
        .iter()
        .filter_map(fields)
        .filter(|(address, ..)| map.contains(address))
        .collect();
    let pairs = faults.windows(2);
    pairs
        .filter(|pair| pair[0].0 == pair[1].0 && pair[0].2)
        .map(|pair| pair[1].1)
        .collect()
}

/// Throws pages away.
fn throw(pages: Range<usize>) -> impl Fn(&Target) + Sync {
    move |t| {
        // Fails only for wrong arguments.
        _ = t
            .map
            .advise(pages.start * PAGE, pages.len() * PAGE, libc::MADV_DONTNEED);
    }
}

/// Throws [`AHEAD`] away and some pages far behind it, one by one: for most of the time a fault that asks for [`AHEAD`] can begin,
/// as no page that it wants is on its way out.
fn throw_far_ones(t: &Target) {
    for page in (AHEAD..ALL - 1).step_by(ROW) {
        throw(page..page + 1)(t);
    }
}

/// A region of [`ALL`] cold pages but the last one.
fn target(c: &Ctx<'_>) -> Result<Target> {
    let map = Map::anon_huge_aligned(ALL * PAGE)?;
    // Memory without a page of its own is not copied by fork, which then invalidates nothing.
    map.set((ALL - 1) * PAGE, 1, 1);
    Target::new(c.env, c.kind, map)
}

/// [`against`] one thread, with a look at the faults of `pages` afterwards.
fn traced(
    c: &Ctx<'_>,
    step: Step,
    pages: Range<usize>,
    event: impl Fn(&Target) + Sync,
) -> Result<Seen> {
    let t = target(c)?;
    if c.kind.resolve() != Kind::Emm {
        let text = against(c, &t, 1, step, event)?;
        return Ok(Seen { text, faults: None });
    }
    let log = Log::of_event("emm_fault")?;
    let lost = Counter::new("emm_fault_lost")?;
    let before = duplicates();
    let text = against(c, &t, 1, step, event)?;
    let address = |page: usize| (t.map.addr() + page * PAGE) as u64;
    let faults = log.of("emm_fault")?;
    let faults = Some(Faults {
        again: again(&faults, address(pages.start)..address(pages.end)),
        late: duplicates() - before,
        lost: lost.count()?,
    });
    Ok(Seen { text, faults })
}

/// One operation after another by `step`, while each of `threads` threads does `event` as fast as it can.
fn against(
    c: &Ctx<'_>,
    t: &Target,
    threads: usize,
    step: Step,
    event: impl Fn(&Target) + Sync,
) -> Result<String> {
    let over = AtomicBool::new(false);
    let events = AtomicU64::new(0);
    let worst = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    event(t);
                    events.fetch_add(1, Relaxed);
                }
            });
        }
        let result = Beat::beside(|beat| {
            Watch::beside(STALL / 2, |watch| {
                work(beat, watch, |number| step(c, t, number))
            })
        });
        over.store(true, Relaxed);
        result
    });
    let Worst {
        operations,
        net,
        gross,
        spent,
        stacks,
    } = worst?;
    let text = format!(
        "{operations} operations against {} events, worst {:.1} ms, with what host and queue took {:.1} ms ({spent})",
        events.into_inner(),
        net.as_secs_f64() * 1e3,
        gross.as_secs_f64() * 1e3
    );
    if net > STALL || gross > AT_ALL {
        bail!("{text}; {stacks}");
    }
    Ok(text)
}

/// The longest times.
#[derive(Default)]
struct Worst {
    operations: usize,
    /// While the CPUs ran, and without what others had before it: sixteen threads leave two CPUs every 20 ms or so.
    net: Duration,
    gross: Duration,
    /// What the operation with the longest `net` did with its time.
    spent: Spent,
    /// What everybody did meanwhile.
    stacks: String,
}

/// One operation, given its number.
type Step = fn(&Ctx<'_>, &Target, usize) -> Result<()>;

/// WRITEs and READs of the first page. What they read may be gone already.
fn first_page(c: &Ctx<'_>, t: &Target, number: usize) -> Result<()> {
    if number % 2 == 0 {
        t.write_one(5, 100, c.seed(1))?;
    } else {
        t.read_one(5, 100, |_, _| Wrong::default())?;
    }
    Ok(())
}

/// A READ of cold pages up to twice [`ROW`], from two places in turn: the fault there asks for all of them. One that loses asks for
/// its page, and the next page's for the rest: the places are far enough from each other that this is not taken for the same.
fn at_once(_: &Ctx<'_>, t: &Target, number: usize) -> Result<()> {
    let first = number % 2 * (ROW / 2);
    t.map.advise(0, 2 * ROW * PAGE, libc::MADV_DONTNEED)?;
    t.read_one(first * PAGE, (2 * ROW - first) * PAGE, |_, _| {
        Wrong::default()
    })?;
    Ok(())
}

/// READs of one cold page after the other, [`ROW`] in a row.
fn in_a_row(_: &Ctx<'_>, t: &Target, number: usize) -> Result<()> {
    let page = number % ROW;
    if page == 0 {
        t.map.advise(0, 2 * ROW * PAGE, libc::MADV_DONTNEED)?;
    }
    t.read_one(page * PAGE, 100, |_, _| Wrong::default())?;
    Ok(())
}

/// A prefetch of all pages but the first ones, each time others, and but the last one, which is never away.
fn advice(c: &Ctx<'_>, t: &Target, number: usize) -> Result<()> {
    let first = number % ROW;
    t.map.advise(0, (ALL - 1) * PAGE, libc::MADV_DONTNEED)?;
    let range = ffi::ibv_sge {
        addr: (t.map.addr() + first * PAGE) as u64,
        length: ((ALL - 1 - first) * PAGE) as u32,
        lkey: t.mr.lkey(),
    };
    Advise::find()?.give(
        &c.env.pd,
        ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH,
        ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH,
        &[range],
    )?;
    Ok(())
}

/// Steps for a while: all must succeed.
fn work(beat: &Beat, watch: &Watch, step: impl Fn(usize) -> Result<()>) -> Result<Worst> {
    let begin = Instant::now();
    let mut worst = Worst::default();
    let account = Account::open()?;
    while begin.elapsed() < TIME {
        let before = account.now()?;
        watch.begin();
        let start = Instant::now();
        step(worst.operations)?;
        let end = Instant::now();
        let spent = account.now()?.since(before);
        let stacks = watch.end();
        let took = end - start;
        worst.operations += 1;
        worst.gross = worst.gross.max(took);
        let lost = if took > SHORT {
            beat.lost(start, end)
        } else {
            Duration::ZERO
        };
        // Of time that the host takes, some is spent in the queue as well.
        let net = took.saturating_sub(lost.max(spent.queued()));
        if net > worst.net {
            worst.net = net;
            worst.spent = spent;
            worst.stacks = stacks.unwrap_or_default();
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_lost() {
        let fault = |address: u64, pages: u64, error: i32| {
            format!("address={address:#x} pages={pages} write=0 huge=0 error={error}")
        };
        let faults = [
            fault(0x1000, 8, 0),
            fault(0x1000, 8, 0),
            fault(0x1000, 1, 0),
            fault(0x2000, 0, -11),
            fault(0x2000, 1, 0),
            fault(0x3000, 1, 0),
        ];
        assert_eq!(again(&faults, 0x1000..0x3000), [8, 1]);
        assert!(again(&faults, 0x2000..0x3000).is_empty());
        let seen = |again: &[u64], late, lost| Seen {
            text: String::new(),
            faults: Some(Faults {
                again: again.to_vec(),
                late,
                lost,
            }),
        };
        assert!(seen(&[1, 1], 0, 2).narrow().is_ok() && seen(&[8, 1], 1, 2).narrow().is_ok());
        assert!(seen(&[8, 1], 0, 2).narrow().is_err());
        assert!(seen(&[8; 9], 0, 2).never_lost().is_ok());
        assert!(seen(&[], 0, 3).never_lost().is_err());
    }
}
