//! What is seen of a completion that does not come: where the driver's work items and our threads are, and what the driver
//! counts and ib_emm traces meanwhile. Printed once, to stderr: those who wait beside the first one wait for the same.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::counters::counters;
use crate::error::OpError;
use crate::stacks;
use crate::trace::Log;

/// Counters are read twice, so far apart: what still moves is alive.
const APART: Duration = Duration::from_secs(1);
/// The newest trace events that are shown.
const EVENTS: usize = 80;

/// The error, after what is to be seen of it.
pub fn seen() -> OpError {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        eprint!("{}", state());
    }
    OpError::Hang
}

fn state() -> String {
    let before = counters();
    let log = Log::new();
    std::thread::sleep(APART);
    let traced = log.and_then(|log| log.lines());
    let mut text = String::from(
        "a completion does not come; the driver's counters, and what they grew by in a second:\n",
    );
    for (name, value) in counters() {
        let grown = value.saturating_sub(before.get(&name).copied().unwrap_or(0));
        text.push_str(&format!("  {name} {value} +{grown}\n"));
    }
    match traced {
        Ok(lines) => {
            text.push_str(&format!("ib_emm traced {} events:\n", lines.len()));
            for line in &lines[lines.len().saturating_sub(EVENTS)..] {
                text.push_str(&format!("  {line}\n"));
            }
        }
        Err(error) => text.push_str(&format!("no trace: {error:#}\n")),
    }
    for stack in stacks::all() {
        text.push_str(&format!("{}:\n", stack.name));
        for frame in &stack.frames {
            text.push_str(&format!("  {frame}\n"));
        }
    }
    text
}
