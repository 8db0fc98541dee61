//! Ctrl-C and its like, and outputs that nobody reads any more: children end, the cache stays sound.
//!
//! A thread waits for SIGINT, SIGTERM and SIGHUP. At the first it marks the run as ending and asks
//! all registered children to end; a moment later, or at the second signal, it kills them. What the main
//! thread does meanwhile fails, since its child did, and unwinds. Every step of the cache writes beside
//! its final place and renames, so ending at any moment is safe. A closed output ends the tool in the same way, with the status
//! that a shell shows for a program that SIGPIPE has ended.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{INTERRUPTED, PIPE, coded};

/// The status that the tool is to end with; 0 while it is not to end.
static ENDING: AtomicU8 = AtomicU8::new(0);
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
                if !end(INTERRUPTED) {
                    signal_all(Signal::KILL);
                }
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

/// Nobody reads an output any more: the tool ends, quietly.
pub fn output_closed() {
    end(PIPE);
}

/// Lets the tool end with `status`. Returns false if it is ending already.
fn end(status: u8) -> bool {
    if ENDING
        .compare_exchange(0, status, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return false;
    }
    signal_all(Signal::TERM);
    thread::spawn(move || {
        thread::sleep(GRACE);
        signal_all(Signal::KILL);
        thread::sleep(PATIENCE);
        signal_all(Signal::KILL);
        #[expect(
            clippy::disallowed_methods,
            reason = "the main thread is stuck; what is left is the guard's"
        )]
        std::process::exit(i32::from(status));
    });
    true
}

/// The status that the tool is to end with, if something has asked it to end.
pub fn ending() -> Option<u8> {
    let status = ENDING.load(Ordering::SeqCst);
    (status != 0).then_some(status)
}

/// Whether something has asked the tool to end: a signal, or an output that nobody reads any more.
pub fn interrupted() -> bool {
    ending().is_some()
}

/// Fails if something has asked the tool to end. Long loops call it.
pub fn check() -> Result<()> {
    match ending() {
        None => Ok(()),
        Some(PIPE) => Err(coded(PIPE, "nobody reads the output any more")),
        Some(status) => Err(coded(status, "interrupted")),
    }
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
