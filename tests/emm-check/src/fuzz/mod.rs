//! `fuzz`: arguments of registration, advice, re-registration, binding and deregistration, random and at edges, through
//! libibverbs and by uverbs' bare system calls, beside traffic whose every byte is compared.

mod act;
mod plan;
mod raw;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::kmsg::Journal;
use crate::mem::Map;
use crate::system::Kind;
use crate::target::{Env, Target};
use act::{Actor, Said};
use plan::Plan;

/// The region of the traffic beside.
const SIZE: usize = 256 << 10;
/// One step takes no longer, on any kernel; a prefetch of all there is included.
const HUNG: Duration = Duration::from_secs(60);
/// How often the time of a step is looked at.
const BEAT: Duration = Duration::from_millis(200);
/// Steps between two looks at the kernel's log, which keeps only so much.
const LOOK: u64 = 100;

/// Plans and does steps for so many seconds.
pub fn fuzz(env: &Env, seconds: u64) -> Result<()> {
    Kind::Emm.select(false)?;
    let outcome = run(env, Duration::from_secs(seconds));
    env.report.case("emm", "fuzz", "arguments", true, outcome);
    let outcome = Target::new(env, Kind::Emm, Map::anon(SIZE)?)
        .and_then(|target| target.round(1, SIZE - 1, env.seed))
        .map(|()| "0 wrong bytes".to_owned());
    env.report
        .case("emm", "fuzz", "the device afterwards", true, outcome);
    Ok(())
}

/// What is being done now, and since when.
type Now = Mutex<Option<(String, Instant)>>;

fn run(env: &Env, time: Duration) -> Result<String> {
    let mut journal = Journal::open(&env.device).context("opening the kernel's log")?;
    let target = Target::new(env, Kind::Emm, Map::anon(SIZE)?)?;
    let (stop, now) = (AtomicBool::new(false), Now::default());
    let said = thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&target, env.seed, &stop));
        let (running, over) = mpsc::channel();
        let (now, seed) = (&now, env.seed);
        scope.spawn(move || watch(now, seed, &over));
        let said = steps(env, time, &mut journal, now);
        drop(running);
        stop.store(true, Relaxed);
        let rounds = traffic
            .join()
            .map_err(|_| anyhow!("the traffic's thread panicked"))?
            .context("the traffic beside");
        let said = said?;
        let rounds = rounds?;
        if rounds == 0 {
            bail!("the traffic beside made no round");
        }
        anyhow::Ok(format!("{said}; {rounds} rounds beside, 0 wrong bytes"))
    })?;
    let quiet = journal.quiet()?;
    Ok(format!("{said}; {quiet}"))
}

/// Writes and reads all of its region until told to stop. Returns how often.
fn traffic(target: &Target, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut round = 0;
    while !stop.load(Relaxed) {
        target.map.advise(0, SIZE, libc::MADV_DONTNEED)?;
        target
            .round(7, SIZE - 7, seed.wrapping_add(round))
            .with_context(|| format!("round {round}"))?;
        round += 1;
    }
    Ok(round)
}

/// A step that never ends can't be ended either: says what it was, and leaves.
fn watch(now: &Now, seed: u64, over: &Receiver<()>) {
    // It is over when the other end is dropped.
    while over.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
        let hung = match &*lock(now) {
            Some((what, since)) if since.elapsed() > HUNG => Some(what.clone()),
            _ => None,
        };
        if let Some(what) = hung {
            println!(
                "FAIL  emm    fuzz: seed {seed}, {what}: hung for {} s",
                HUNG.as_secs()
            );
            std::process::exit(1);
        }
    }
}

fn lock(now: &Now) -> std::sync::MutexGuard<'_, Option<(String, Instant)>> {
    now.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn steps(env: &Env, time: Duration, journal: &mut Journal, now: &Now) -> Result<String> {
    let mut plan = Plan::new(env.seed);
    let mut actor = Actor::new(env)?;
    let mut counts: BTreeMap<Said, u64> = BTreeMap::new();
    let start = Instant::now();
    let mut step = 0;
    while start.elapsed() < time {
        let action = plan.next();
        let what = format!("step {step}, {action:?}");
        *lock(now) = Some((what, Instant::now()));
        let said = actor
            .act(&action)
            .with_context(|| format!("seed {}, step {step}, {action:?}", env.seed))?;
        if let Said::Errno(errno) = said {
            if !(1..4096).contains(&errno) {
                bail!("seed {}, step {step}, {action:?}: errno {errno}", env.seed);
            }
        }
        *counts.entry(said).or_default() += 1;
        step += 1;
        if step % LOOK == 0 {
            journal
                .quiet()
                .with_context(|| format!("seed {}, before step {step}", env.seed))?;
        }
    }
    drop(actor);
    *lock(now) = None;
    let count = |wanted: fn(&Said) -> bool| -> u64 {
        counts.iter().filter(|c| wanted(c.0)).map(|c| c.1).sum()
    };
    let (done, errnos, statuses) = (
        count(|s| *s == Said::Done),
        count(|s| matches!(s, Said::Errno(_))),
        count(|s| matches!(s, Said::Status(_))),
    );
    // Nothing but refusals, or none at all, would mean that nothing was tried.
    if done == 0 || errnos == 0 {
        bail!("{done} done, {errnos} refused: these arguments try nothing");
    }
    Ok(format!(
        "{step} steps: {done} done, {errnos} refused with an errno, {statuses} completed with an error"
    ))
}
