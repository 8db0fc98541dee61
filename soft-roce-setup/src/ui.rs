//! What the user sees on standard error: a live line for each step on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How to talk to the user.
#[derive(Debug, Clone)]
pub struct Ui {
    terminal: bool,
    verbose: bool,
    // Steps can run side by side.
    bars: MultiProgress,
}

impl Ui {
    /// Live lines if standard error is a terminal; every line of every command with `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            verbose,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
        }
    }

    /// Tells one fact, on a line of its own.
    pub fn note(&self, text: impl AsRef<str>) {
        self.bars
            .suspend(|| eprintln!("soft-roce-setup: {}", text.as_ref()));
    }

    /// Prints a line of what the user asked for, to standard output.
    pub fn print(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| println!("{}", line.as_ref()));
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
            eprintln!("soft-roce-setup: {title} …");
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
            eprintln!("  {line}");
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
        self.bars
            .suspend(|| eprintln!("soft-roce-setup: {title}: {verdict} ({seconds:.1} s)"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("failed");
    }
}
