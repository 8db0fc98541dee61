//! What the user sees: results on standard output; on standard error a live line for each step on a terminal, and plain lines
//! elsewhere.
//!
//! Everything is written here, as `println!` panics when nobody reads any more: an output that is closed ends the tool quietly
//! ([`signal::output_closed`]), as SIGPIPE ends others, but with its destructors. One that can't be written (a full disk) is an error
//! at the tool's end ([`flush`]).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::signal;

/// Why standard output could not be written, when it first was not.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line of what the user asked for, to standard output.
pub fn say(line: impl Display) {
    print(format_args!("{line}\n"));
}

/// Prints text to standard output, as it is.
pub fn print(text: impl Display) {
    let mut out = std::io::stdout().lock();
    kept(write!(out, "{text}"));
}

/// Writes out what standard output still holds.
///
/// # Errors
/// It could not be written, now or before.
pub fn flush() -> Result<()> {
    kept(std::io::stdout().flush());
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed
        .map_or(Ok(()), Err)
        .context("cannot write to standard output")
}

fn kept(written: std::io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => signal::output_closed(),
        Err(error) => {
            let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    }
}

/// Prints a line to standard error.
pub fn tell(line: impl Display) {
    match writeln!(std::io::stderr(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => signal::output_closed(),
        // There is no other place to say so.
        Ok(()) | Err(_) => {}
    }
}

/// How to talk to the user.
#[derive(Debug, Clone)]
pub struct Ui {
    terminal: bool,
    verbose: bool,
    quiet: bool,
    // Steps can run side by side.
    bars: MultiProgress,
    /// What is said once in a run.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Ui {
    /// Live lines if standard error is a terminal; every line of every command with `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            verbose,
            quiet: false,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            told: Arc::default(),
        }
    }

    /// Says nothing: for unit tests, whose output is read as libtest's.
    pub fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::new(false)
        }
    }

    /// Tells one fact, on a line of its own.
    pub fn note(&self, text: impl AsRef<str>) {
        self.bars
            .suspend(|| tell(format_args!("soft-roce-setup: {}", text.as_ref())));
    }

    /// Prints a line of what the user asked for, to standard output.
    pub fn print(&self, line: impl AsRef<str>) {
        if !self.quiet {
            self.bars.suspend(|| say(line.as_ref()));
        }
    }

    /// Tells a fact that holds for the whole run, the first time only.
    pub fn note_once(&self, text: impl AsRef<str>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(text.as_ref().to_owned()) {
            self.note(text);
        }
    }

    /// Begins a step. Its line ends with [`Step::done`]; dropped before, it is shown as failed.
    pub fn step(&self, title: impl Into<String>) -> Step {
        let title = title.into();
        let bar = (self.terminal && !self.verbose).then(|| {
            let bar = self.bars.add(ProgressBar::no_length());
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            tell(format_args!("soft-roce-setup: {title} …"));
        }
        Step {
            title,
            start: Instant::now(),
            bar,
            bars: self.bars.clone(),
            verbose: self.verbose,
            ended: false,
        }
    }
}

/// A step that is being done.
#[derive(Debug)]
pub struct Step {
    title: String,
    start: Instant,
    bar: Option<ProgressBar>,
    bars: MultiProgress,
    verbose: bool,
    ended: bool,
}

impl Step {
    /// Shows a line that a command wrote.
    pub fn line(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.trim().to_owned());
        } else if self.verbose {
            tell(format_args!("  {line}"));
        }
    }

    /// Time since the step began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends the step: it worked.
    pub fn done(mut self) {
        self.end("done");
    }

    fn end(&mut self, verdict: &str) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let (title, seconds) = (&self.title, self.elapsed().as_secs_f64());
        self.bars.suspend(|| {
            tell(format_args!(
                "soft-roce-setup: {title}: {verdict} ({seconds:.1} s)"
            ))
        });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("failed");
    }
}
