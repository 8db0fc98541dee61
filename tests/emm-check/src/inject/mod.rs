//! `inject`: each allocation that registering, changing, prefetching, binding, faulting and deregistering make fails once. Each
//! failure has to end in an errno or in a completion with error, and nothing may be lost by it.

mod fault;

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::pair::Pair;
use crate::private::{Advise, Change, Rereg};
use crate::qp::{Op, OpError};
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr, Pd};
use crate::verbs_cases::window::{Bounds, Window};
use fault::Faults;

/// Not a multiple of anything: parts, pages and messages end in the middle.
const SIZE: usize = 40 * PAGE + 77;
const ACCESS: u32 = ALL_ACCESS | ffi::IBV_ACCESS_ON_DEMAND;
/// No operation allocates as often; one that seems to never gets done.
const MOST: u32 = 5000;
/// Which allocations fail while there is traffic: all, every second one, and so on.
const EVERY: [u32; 6] = [1, 2, 3, 5, 7, 11];
const MESSAGE: usize = 3 * PAGE + 5;

struct Ctx<'a> {
    env: &'a Env,
    faults: Faults,
    /// Shows that the device works on; pinned, so that it keeps nothing of ib_emm alive.
    probe: Target,
}

/// Runs all operations.
pub fn inject(env: &Env) -> Result<()> {
    Kind::Emm.select(false)?;
    let faults = match Faults::new("ib_emm") {
        Ok(faults) => faults,
        Err(why) => {
            env.report.skip("inject", &format!("{why:#}"), false);
            return Ok(());
        }
    };
    let probe = Target::new(env, Kind::Pinned, Map::anon(4 * PAGE)?)?;
    let c = Ctx { env, faults, probe };
    let before = regions()?;
    type Operation = fn(&Ctx<'_>) -> Result<String>;
    let operations: [(&str, Operation); 8] = [
        ("registration", |c| register(c, false)),
        ("registration of all memory", |c| register(c, true)),
        ("registration under another access", rereg),
        ("prefetch", prefetch),
        ("binding a window", bind),
        ("deregistration", deregister),
        ("first touch by traffic", traffic),
        ("one failure in a first touch", once),
    ];
    for (name, work) in operations {
        let outcome = work(&c).and_then(|said| {
            works(&c).context("the device afterwards")?;
            Ok(said)
        });
        env.report.case("emm", "inject", name, true, outcome);
    }
    let after = regions()?;
    let outcome = if before == after {
        Ok(format!("{after} regions, as before"))
    } else {
        Err(anyhow::anyhow!("{before} regions before, {after} now"))
    };
    env.report
        .case("emm", "inject", "what is left", true, outcome);
    Ok(())
}

/// This process's regions of ib_emm.
fn regions() -> Result<usize> {
    const FILE: &str = "/sys/kernel/debug/ib_emm/regions";
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let mine = format!("{} ", std::process::id());
    Ok(text.lines().filter(|line| line.starts_with(&mine)).count())
}

/// A fresh region, written and read.
fn works(c: &Ctx<'_>) -> Result<()> {
    let target = Target::new(c.env, Kind::Emm, Map::anon(SIZE)?)?;
    target.round(3, SIZE - 3, c.env.seed)
}

/// A small message over what is there.
fn lives(c: &Ctx<'_>, n: u32) -> Result<()> {
    c.probe
        .round(5, 3000, u64::from(n))
        .with_context(|| format!("after failure {n}"))
}

/// What one attempt came to.
struct Attempt {
    /// Whether an allocation was made to fail.
    injected: bool,
    /// What the operation said then.
    said: Result<(), OpError>,
}

/// Fails the first, the second and so on of all allocations, then of ib_emm's own, until there are no more.
fn each(c: &Ctx<'_>, mut attempt: impl FnMut(u32) -> Result<Attempt>) -> Result<String> {
    let mut texts = Vec::new();
    for (whose, only) in [("in the call", false), ("below ib_emm", true)] {
        c.faults.below_module(only)?;
        let (mut failed, mut n) = (0, 1);
        loop {
            let Attempt { injected, said } = attempt(n)?;
            match said {
                Err(OpError::Hang) => bail!("hung when allocation {n} {whose} failed"),
                Err(e) if !injected => bail!("{e}, without a failed allocation"),
                Err(_) => failed += 1,
                Ok(()) => {}
            }
            lives(c, n)?;
            if !injected {
                break;
            }
            n += 1;
            if n > MOST {
                bail!("more than {MOST} allocations {whose}");
            }
        }
        texts.push(format!("{} allocations {whose}, {failed} ended it", n - 1));
    }
    c.faults.below_module(false)?;
    Ok(texts.join("; "))
}

/// An errno, as posting has it.
fn errno(error: &std::io::Error) -> OpError {
    OpError::Post(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The only regions of this process at the time, so that the address space's hub is made and goes each time.
fn register(c: &Ctx<'_>, all: bool) -> Result<String> {
    let map = Map::anon(SIZE)?;
    let (addr, len) = if all {
        (0, usize::MAX)
    } else {
        (map.addr(), map.len())
    };
    each(c, |n| {
        let (mr, injected) = c.faults.nth(n, || Mr::new(&c.env.pd, addr, len, ACCESS))?;
        let said = mr.map(drop).map_err(|e| errno(&e));
        Ok(Attempt { injected, said })
    })
}

fn rereg(c: &Ctx<'_>) -> Result<String> {
    let rereg = Rereg::find()?;
    let target = Target::new(c.env, Kind::Emm, Map::anon(SIZE)?)?;
    let other = Pd::new(c.env.pd.device())?;
    let said = each(c, |n| {
        let read_only = ffi::IBV_ACCESS_REMOTE_READ | ffi::IBV_ACCESS_ON_DEMAND;
        let change = Change {
            pd: Some(&other),
            access: Some(read_only),
            ..Change::default()
        };
        let (result, injected) = c.faults.nth(n, || rereg.change(&target.mr, change))?;
        let back = Change {
            pd: Some(&c.env.pd),
            access: Some(ACCESS),
            ..Change::default()
        };
        rereg
            .change(&target.mr, back)
            .with_context(|| format!("back after failure {n}"))?;
        let said = result.map_err(|e| errno(&e));
        Ok(Attempt { injected, said })
    })?;
    target.round(1, SIZE - 1, c.env.seed)?;
    Ok(said)
}

fn prefetch(c: &Ctx<'_>) -> Result<String> {
    let advise = Advise::find()?;
    let target = Target::new(c.env, Kind::Emm, Map::anon(SIZE)?)?;
    let list = [ffi::ibv_sge {
        addr: target.map.addr() as u64,
        length: SIZE as u32,
        lkey: target.mr.lkey(),
    }];
    each(c, |n| {
        target.map.advise(0, SIZE, libc::MADV_DONTNEED)?;
        let (result, injected) = c.faults.nth(n, || {
            advise.give(
                &c.env.pd,
                ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
                ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH,
                &list,
            )
        })?;
        target.read_cmp(0, SIZE, |_, out| out.fill(0))?;
        let said = result.map_err(|e| errno(&e));
        Ok(Attempt { injected, said })
    })
}

fn bind(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon(SIZE)?;
    let access = ACCESS | ffi::IBV_ACCESS_MW_BIND;
    let mr = Arc::new(Mr::new(&c.env.pd, map.addr(), map.len(), access)?);
    let mut pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    each(c, |n| {
        let bounds = Bounds {
            mr: &mr,
            addr: map.addr() + 100,
            len: SIZE - 200,
            access: ffi::IBV_ACCESS_REMOTE_WRITE,
        };
        let (result, injected) = c.faults.nth(n, || {
            let mut window = match Window::new(&c.env.pd, ffi::IBV_MW_TYPE_2) {
                Ok(window) => window,
                // How it failed, libibverbs has in errno only.
                Err(_) => return Err(OpError::Post(libc::ENOMEM)),
            };
            window.bind(&pair.far, bounds)
        })?;
        if result.is_err() {
            pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
        }
        Ok(Attempt {
            injected,
            said: result,
        })
    })
}

/// One that fails is repeated, and then has to succeed.
fn deregister(c: &Ctx<'_>) -> Result<String> {
    let map = Map::anon(SIZE)?;
    each(c, |n| {
        let mr = Mr::new(&c.env.pd, map.addr(), map.len(), ACCESS)?;
        let (result, injected) = c.faults.nth(n, || mr.deregister())?;
        let said = match result {
            Ok(()) => Ok(()),
            Err((mr, e)) => {
                let said = Err(errno(&e));
                if let Err((_, e)) = mr.deregister() {
                    bail!("a second deregistration after failure {n}: {e}");
                }
                said
            }
        };
        Ok(Attempt { injected, said })
    })
}

/// Faults of the driver's threads.
fn traffic(c: &Ctx<'_>) -> Result<String> {
    let mut target = Target::new(c.env, Kind::Emm, Map::anon(SIZE)?)?;
    let mut counts = Vec::new();
    for every in EVERY {
        let (mut failed, mut done) = (0, 0);
        for op in [Op::Write, Op::Read, Op::Send] {
            // Without memory, or half of it, most messages wait for as long as a fault is tried again.
            let messages = if every <= 2 { 1 } else { usize::MAX };
            for off in (0..SIZE - MESSAGE).step_by(5 * PAGE + 1).take(messages) {
                target.map.advise(0, SIZE, libc::MADV_DONTNEED)?;
                let result = c.faults.every(every, || one(&target, op, off))?;
                match result {
                    Ok(()) => done += 1,
                    Err(OpError::Status(_)) => failed += 1,
                    Err(e) => bail!("every {every}: {op:?} at {off:#x}: {e}"),
                }
                if result.is_err() {
                    target.new_qp()?;
                }
            }
        }
        if every == 1 && (failed == 0 || done > 0) {
            bail!("with no memory at all, {done} messages to untouched memory arrived");
        }
        target
            .round(1, SIZE - 1, u64::from(every))
            .with_context(|| format!("after every {every} failed"))?;
        counts.push(format!("1 of {every}: {failed} failed, {done} arrived"));
    }
    Ok(counts.join("; "))
}

/// A fault that finds no memory once is tried again: nobody hears of it.
fn once(c: &Ctx<'_>) -> Result<String> {
    /// Allocations of one fault, and some more.
    const ALLOCATIONS: u32 = 12;
    let target = Target::new(c.env, Kind::Emm, Map::anon(SIZE)?)?;
    let mut failed = 0;
    for nth in 1..=ALLOCATIONS {
        for op in [Op::Write, Op::Read, Op::Send] {
            target.map.advise(0, SIZE, libc::MADV_DONTNEED)?;
            let (said, injected) = c.faults.once(nth, || one(&target, op, 5))?;
            if let Err(e) = said {
                bail!("one of the first {nth} allocations failed, and so did {op:?}: {e}");
            }
            failed += u32::from(injected);
        }
    }
    if failed == 0 {
        bail!("no allocation was made to fail");
    }
    target.round(1, SIZE - 1, c.env.seed)?;
    Ok(format!("{failed} allocations failed, each message arrived"))
}

fn one(target: &Target, op: Op, off: usize) -> Result<(), OpError> {
    let bounce = target.bounce_piece(100);
    if matches!(op, Op::Send) {
        target.qp().post_recv(target.local(off), MESSAGE as u32)?;
    }
    target
        .qp()
        .run(op, bounce, MESSAGE as u32, target.remote(off))
}
