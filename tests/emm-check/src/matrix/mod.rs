//! `matrix`: each operation against each thing that the VM may do to registered memory.
//!
//! A cell has one region. On its *wing* an operation runs without pause in a thread of its own, with a model of every byte. Its
//! *stage* is what the event happens to: the operation runs there before, between and after the event's steps, and each step
//! says what must come of it: these bytes, or a completion with an error. Neither may ever see a byte that is not in its model.

mod events;
mod process;
mod rdma;
mod scene;
mod side;
mod traffic;
mod verb;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::mem::Map;
use crate::report::Report;
use crate::system::Kind;
use crate::target::Env;
pub use events::Event;
pub use process::{Fate, child};
pub use rdma::Rdma;
use scene::Scene;
pub use scene::Unfit;
pub use traffic::{Act, Failure, Traffic};
pub use verb::{ATTACHED, Leg, Verb};

/// Longest time of one cell; what waits for the VM or the device has shorter limits of its own.
const LIMIT: Duration = Duration::from_secs(120);

/// What the cells share, without a device: some take it away.
pub struct Stand<'a> {
    /// Opens the device.
    pub open: &'a dyn Fn() -> Result<Env>,
    /// Its name.
    pub device: &'a str,
    /// Options for processes.
    pub args: &'a [String],
    /// Where facts go.
    pub report: &'a Report,
}

/// The events that happen to memory and not to its process.
pub fn events_of_memory() -> impl Iterator<Item = Event> {
    events::ALL.into_iter().filter(|e| e.fate().is_none())
}

/// Runs the cells of the named operations and events, or all.
pub fn run(stand: &Stand<'_>, kind: Kind, verbs: &[Verb], events: &[Event]) -> Result<()> {
    let verbs = if verbs.is_empty() {
        &verb::ALL[..]
    } else {
        verbs
    };
    let events = if events.is_empty() {
        &events::ALL[..]
    } else {
        events
    };
    let (of_processes, of_memory): (Vec<Event>, Vec<Event>) =
        events.iter().partition(|e| e.fate().is_some());
    let env = (stand.open)()?;
    for event in of_memory {
        for verb in verbs {
            one(stand, kind, *verb, event, || cell(&env, kind, *verb, event));
        }
    }
    // The device must be nobody's when it goes.
    drop(env);
    for event in of_processes {
        let Some(fate) = event.fate() else { continue };
        for verb in verbs {
            one(stand, kind, *verb, event, || {
                process::cell(stand.args, stand.device, kind, *verb, fate)
            });
        }
    }
    Ok(())
}

/// Plays a cell and reports it.
fn one(
    stand: &Stand<'_>,
    kind: Kind,
    verb: Verb,
    event: Event,
    play: impl FnOnce() -> Result<String>,
) {
    let name = format!("{} x {}", verb.name(), event.name());
    let skip = |why: &str| stand.report.skip(&name, why, false);
    if let Some(why) = no_cell(kind, verb, event) {
        return skip(why);
    }
    match play() {
        Err(e) if e.is::<Unfit>() => skip(&format!("{e:#}")),
        outcome => {
            let required = stand.report.requires(kind);
            let label = kind.label();
            stand.report.case(label, "matrix", &name, required, outcome);
        }
    }
}

/// Why there is no such cell.
fn no_cell(kind: Kind, verb: Verb, event: Event) -> Option<&'static str> {
    if ATTACHED.contains(&verb) {
        return Some("`emm-check xpmem-matrix` attaches memory");
    }
    if kind != Kind::Pinned {
        return None;
    }
    if verb == Verb::Prefetch {
        return Some("a pinned region has nothing to prefetch");
    }
    (!event.holds_for_pinned()).then_some("a pinned region keeps the pages it got")
}

fn cell(env: &Env, kind: Kind, verb: Verb, event: Event) -> Result<String> {
    let reach = |map: &Arc<Map>, parts| rdma::reach(env, kind, map, parts);
    played(reach, env.seed, verb, event)
}

/// Plays an event on memory that `reach` makes ways to.
pub fn played<'a>(
    reach: impl FnOnce(&Arc<Map>, [Range<usize>; 2]) -> Result<[Box<dyn Traffic + 'a>; 2]>,
    seed: u64,
    verb: Verb,
    event: Event,
) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    let (mut scene, mut wing) = Scene::set(reach, seed, verb, event.memory(), deadline)?;
    let stop = AtomicBool::new(false);
    let (said, background) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<u64> {
            while !stop.load(Relaxed) {
                wing.random(verb, 0..wing.len())?;
            }
            wing.verify("the wing")?;
            Ok(wing.ops)
        });
        let said = event.play(&mut scene);
        stop.store(true, Relaxed);
        let background = traffic
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the thread panicked")));
        (said, background)
    });
    let said = said?;
    let background = background.context("traffic beside the event")?;
    Ok(format!(
        "{said}; {} operations there, {background} beside, 0 wrong bytes",
        scene.stage.ops
    ))
}
