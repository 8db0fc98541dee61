//! A guest that runs: what it is asked, what it answers, and how that ends.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::channels::{Event, Sink, Writer, copy_to, follow_lines, lock};
use super::ending::{Answer, End, death, ended_for_memory, last_lines};
use super::exchange::Seat;
use super::report::{self, Collector};
use crate::exit::{SETUP, coded};
use crate::proc::Running;
use crate::signal;

/// How long a report may grow before the guest is ended.
const SETTLE: Duration = Duration::from_secs(3);
/// A report that is closed ends the guest after so long without a new line.
pub(super) const QUIET: Duration = Duration::from_millis(300);
/// How long output that the guest has written may take to arrive.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a guest that makes no progress may take to say the next thing that it waits for.
const LOOK: Duration = Duration::from_secs(10);
/// What the guest is asked to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// A script for /bin/sh.
    pub script: String,
    /// Whether the tool's own input is the command's.
    pub stdin: bool,
    /// Without output or kernel message for so long, the guest makes no progress.
    pub silence: Duration,
    /// Longest time in all, if there is one.
    pub limit: Option<Duration>,
}

/// A guest that is up. Dropping it ends it.
pub struct Guest {
    running: Running,
    ctl: UnixStream,
    input: Option<UnixStream>,
    /// The terminal's channel, for `shell`.
    pub(super) terminal: Option<UnixStream>,
    events: Receiver<Event>,
    out: Arc<Mutex<Sink>>,
    err: Arc<Mutex<Sink>>,
    pub(super) collector: Collector,
    log: PathBuf,
    /// What QEMU itself says.
    complaints: PathBuf,
    /// What [`ended_for_memory`] said when it was started.
    memory_ends: u64,
    jobs: u32,
    /// What rxe does with on-demand regions in this guest.
    pub backend: String,
    /// How it runs, in words: what accelerates it, and what its clock is.
    pub accel: String,
    pub(super) closed: bool,
    pub(super) last_console: Instant,
    slice: Vec<String>,
    /// If it is one of two hosts.
    pub(super) seat: Option<Seat>,
}

/// The host's ends of a guest's channels.
pub(super) struct Channels {
    pub console: UnixStream,
    pub ctl: UnixStream,
    pub out: UnixStream,
    pub err: UnixStream,
    pub input: UnixStream,
    /// For `shell`.
    pub terminal: Option<UnixStream>,
    /// For one of two hosts: where it asks what concerns both, and its seat.
    pub host: Option<(UnixStream, Seat)>,
}

/// Where a guest's words are kept.
pub(super) struct Logs {
    /// Its kernel's.
    pub log: PathBuf,
    /// The same, open.
    pub file: File,
    /// QEMU's own.
    pub complaints: PathBuf,
}

impl Guest {
    /// The guest of a QEMU that has just been started; nobody has heard of it yet. `memory_ends` is what [`ended_for_memory`] said
    /// before, `accel` says how it runs.
    pub(super) fn begun(
        running: Running,
        channels: Channels,
        logs: Logs,
        memory_ends: u64,
        accel: String,
    ) -> Result<Self> {
        let (send, events) = mpsc::channel();
        let reader = channels.ctl.try_clone();
        let reader = reader.context("cannot duplicate a socket")?;
        follow_lines(reader, None, send.clone(), Event::Ctl);
        follow_lines(
            channels.console,
            Some(logs.file),
            send.clone(),
            Event::Console,
        );
        let seat = match channels.host {
            Some((requests, seat)) => {
                let answers = requests.try_clone();
                seat.connect(answers.context("cannot duplicate a socket")?);
                follow_lines(requests, None, send, Event::Host);
                Some(seat)
            }
            None => None,
        };
        let (out, err) = (Sink::new(), Sink::new());
        copy_to(channels.out, Arc::clone(&out));
        copy_to(channels.err, Arc::clone(&err));
        Ok(Self {
            running,
            ctl: channels.ctl,
            input: Some(channels.input),
            terminal: channels.terminal,
            events,
            out,
            err,
            collector: Collector::default(),
            log: logs.log,
            complaints: logs.complaints,
            memory_ends,
            jobs: 0,
            backend: String::new(),
            accel,
            closed: false,
            last_console: Instant::now(),
            slice: Vec::new(),
            seat,
        })
    }

    /// Its kernel's log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it can take another job.
    pub fn alive(&self) -> bool {
        !self.closed
    }

    /// Runs a job, its output to `out` and `err`.
    ///
    /// # Errors
    /// An interruption, or a guest that was gone before.
    pub fn run(&mut self, job: &Job, out: Writer, err: Writer) -> Result<End> {
        for (sink, writer) in [(&self.out, out), (&self.err, err)] {
            let mut sink = lock(sink);
            sink.writer = writer;
            sink.bytes = 0;
            sink.last = Instant::now();
        }
        self.jobs += 1;
        self.slice.clear();
        if let Some(seat) = &self.seat {
            seat.runs(self.jobs);
        }
        let input = if job.stdin { "stdin" } else { "none" };
        let request = format!(
            "run {} {input} {}\n",
            self.jobs,
            BASE64_STANDARD.encode(&job.script)
        );
        if job.stdin {
            self.feed();
        }
        let end = self.finish(&request, job);
        if let Some(seat) = &self.seat {
            match &end {
                Ok(End::Exited(status)) => seat.ended(format!("left with status {status}")),
                // It may come back.
                Ok(End::SwitchedOff) => {}
                _ => seat.end_both(),
            }
        }
        // Whoever gave the writers may want back what is behind them.
        for sink in [&self.out, &self.err] {
            lock(sink).writer = Box::new(std::io::sink());
        }
        end
    }

    /// Lets the user work in it, until the shell ends. The terminal's bytes are the caller's business.
    pub(super) fn run_shell(
        &mut self,
        rows: u16,
        columns: u16,
        term: &str,
        preload: Option<&str>,
    ) -> Result<End> {
        let preload = preload.unwrap_or("");
        self.jobs += 1;
        let job = Job {
            script: String::new(),
            stdin: false,
            silence: Duration::MAX,
            limit: None,
        };
        self.finish(&format!("shell {rows} {columns} {term} {preload}\n"), &job)
    }

    fn finish(&mut self, request: &str, job: &Job) -> Result<End> {
        if self.ctl.write_all(request.as_bytes()).is_err() {
            return Ok(End::Gone(self.death()));
        }
        let begin = Instant::now();
        let mut last = begin;
        let ends = format!("emm-guest: run {} ends", self.jobs);
        let mut status = None;
        loop {
            let answer = self.step()?;
            if self.is_over() {
                self.end();
                return Ok(End::WithTheOther);
            }
            if self.seat.as_ref().is_some_and(Seat::is_cut) {
                self.end();
                return Ok(End::SwitchedOff);
            }
            if let Some(what) = answer.as_deref().and_then(|a| a.strip_prefix("lost ")) {
                return Err(coded(
                    SETUP,
                    format!("the guest lost {what}{}", self.tail()),
                ));
            }
            if let Some(answer) = answer.as_deref().and_then(Answer::parse) {
                status = Some((answer, Instant::now()));
            }
            if self.collector.found() {
                return Ok(End::Report(self.take_report()));
            }
            let mut failed = None;
            for sink in [&self.out, &self.err] {
                let mut sink = lock(sink);
                last = last.max(sink.last);
                failed = failed.or(sink.failed.take());
            }
            if let Some(error) = failed {
                self.end();
                if error.kind() == ErrorKind::BrokenPipe {
                    return Ok(End::OutputClosed);
                }
                let why = format!("the command's output cannot be written: {error}");
                return Err(coded(SETUP, why));
            }
            last = last.max(self.last_console);
            if let Some(seat) = &self.seat {
                last = seat.heard(last);
            }
            if let Some((answer, when)) = &status {
                let arrived = lock(&self.out).bytes >= answer.out
                    && lock(&self.err).bytes >= answer.err
                    && self
                        .slice
                        .iter()
                        .any(|line| report::message(line).starts_with(&ends));
                if arrived || when.elapsed() > DRAIN {
                    return Ok(End::Exited(answer.status));
                }
                if self.closed {
                    return Ok(End::Exited(answer.status));
                }
                continue;
            }
            if self.closed {
                // A signal ends the guest as well, and may do so while this thread waits.
                signal::check()?;
                return Ok(End::Gone(self.death()));
            }
            let silent = last.elapsed() > job.silence;
            let over = job.limit.is_some_and(|limit| begin.elapsed() > limit);
            if silent || over {
                let waited = if silent { job.silence } else { begin.elapsed() };
                let tasks = self.look();
                self.end();
                return Ok(End::Timeout(waited, tasks));
            }
        }
    }

    /// Whether the other host has ended both, or nobody wants them any more.
    pub(super) fn is_over(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::is_over)
    }

    /// Takes the next event, or waits a moment. Returns the guest's answer if it gave one.
    pub(super) fn step(&mut self) -> Result<Option<String>> {
        signal::check()?;
        match self.events.recv_timeout(Duration::from_millis(20)) {
            Ok(event) => Ok(self.take(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                Ok(None)
            }
        }
    }

    fn take(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Ctl(line) => return Some(line),
            Event::Host(line) => {
                if let Some(seat) = &self.seat {
                    seat.asked(&line);
                }
            }
            Event::Console(line) => {
                self.last_console = Instant::now();
                self.collector.line(&line);
                self.slice.push(line);
            }
            Event::Closed => self.closed = true,
        }
        None
    }

    /// Waits until the report is whole, ends the guest, and returns the report.
    pub(super) fn take_report(&mut self) -> Vec<String> {
        self.settle(SETTLE);
        self.end();
        self.collector.lines().to_vec()
    }

    /// Takes the console's lines for `limit`, or until they stop after a report's end.
    pub(super) fn settle(&mut self, limit: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < limit && !self.closed && !signal::interrupted() {
            if self.collector.closed() && self.last_console.elapsed() > QUIET {
                break;
            }
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(20)) {
                self.take(event);
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }

    /// How QEMU ended that nobody asked to.
    pub(super) fn death(&mut self) -> String {
        let status = self.running.wait_at_most(DRAIN).ok().flatten();
        self.end();
        let out_of_memory = ended_for_memory() > self.memory_ends;
        death(status, out_of_memory, &self.complaints)
    }

    /// Asks who waits for what, while a job runs. A guest that hangs as a whole says nothing.
    fn look(&mut self) -> Vec<String> {
        let mut tasks = Vec::new();
        let mut last = Instant::now();
        if self.ctl.write_all(b"look\n").is_err() {
            return tasks;
        }
        while last.elapsed() < LOOK && !self.closed && !signal::interrupted() {
            let Ok(event) = self.events.recv_timeout(Duration::from_millis(20)) else {
                continue;
            };
            last = Instant::now();
            match self.take(event) {
                Some(line) if line == "looked" => break,
                Some(line) => tasks.extend(line.strip_prefix("task ").map(str::to_owned)),
                None => {}
            }
        }
        tasks
    }

    /// Ends the guest.
    pub fn end(&mut self) {
        self.running.kill();
        self.closed = true;
    }

    /// Copies the tool's input to the guest, until that ends or the guest does.
    fn feed(&mut self) {
        if let Some(mut to) = self.input.take() {
            thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin().lock(), &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    }

    /// Tells the user how a job ended that did not end well.
    pub fn describe(&self, end: &End) -> String {
        end.describe(&self.log)
    }

    pub(super) fn tail(&self) -> String {
        last_lines(&self.log)
    }
}
