//! Ctrl-C and its like: children end, the cache stays sound.
//!
//! A thread waits for SIGINT, SIGTERM and SIGHUP. At the first it marks the run as interrupted and asks
//! all registered children to end; a moment later, or at the second signal, it kills them. What the main
//! thread does meanwhile fails, since its child did, and unwinds. Every step of the cache writes beside
//! its final place and renames, so ending at any moment is safe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{INTERRUPTED, coded};

static INTERRUPTED_FLAG: AtomicBool = AtomicBool::new(false);
/// Each leads a process group of its own.
static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Time between asking children to end and killing them.
const GRACE: Duration = Duration::from_secs(2);
/// Time after which the tool leaves although its main thread is busy.
const PATIENCE: Duration = Duration::from_secs(8);

/// Starts the thread. To be called once, before the first child.
pub fn install() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot install the signal handler")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if INTERRUPTED_FLAG.swap(true, Ordering::SeqCst) {
                    signal_all(Signal::KILL);
                    continue;
                }
                signal_all(Signal::TERM);
                thread::spawn(|| {
                    thread::sleep(GRACE);
                    signal_all(Signal::KILL);
                    thread::sleep(PATIENCE);
                    signal_all(Signal::KILL);
                    std::process::exit(i32::from(INTERRUPTED));
                });
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

/// Whether a signal has asked the tool to end.
pub fn interrupted() -> bool {
    INTERRUPTED_FLAG.load(Ordering::SeqCst)
}

/// Fails if a signal has asked the tool to end. Long loops call it.
pub fn check() -> Result<()> {
    if interrupted() {
        return Err(coded(INTERRUPTED, "interrupted"));
    }
    Ok(())
}

/// Registers a child that leads a process group, so that a signal to the tool ends all of it.
pub(crate) fn register(pid: Pid) {
    children().push(pid);
    if interrupted() {
        // The signal came between the fork and this call.
        send(pid, Signal::KILL);
    }
}

/// Forgets a child. It must be called before the child is reaped, or its number may be another's.
pub(crate) fn forget(pid: Pid) {
    children().retain(|known| *known != pid);
}

/// Sends `signal` to a registered child; no effect on one that is not registered.
pub(crate) fn send_to(pid: Pid, signal: Signal) {
    if children().contains(&pid) {
        send(pid, signal);
    }
}

fn signal_all(signal: Signal) {
    children().iter().for_each(|pid| send(*pid, signal));
}

fn send(pid: Pid, signal: Signal) {
    // A child that has just ended is no error.
    let _ = rustix::process::kill_process_group(pid, signal);
}

fn children() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}
