//! A guest that runs: its channels, what it is asked, and how that ends.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::accel::{self, Cpu};
use super::channels::{Event, Sink, Writer, copy_to, follow_lines, lock};
use super::ending::{Answer, End, death, ended_for_memory, last_lines};
use super::initramfs::{self, Settings};
use super::options::{Backend, Clock, Share, Size};
use super::prepare::{self, GuestKernel};
use super::qemu::{Channels, Machine};
use super::report::{self, Collector};
use super::scratch::{scratch_disk, scratch_file};
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::exit::{KERNEL, SETUP, TIMEOUT, coded};
use crate::host;
use crate::proc::Running;
use crate::signal;

/// How long a booting guest is waited for.
struct Patience {
    /// Without a sign of life.
    silence: Duration,
    /// Although it talks.
    whole: Duration,
}

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(60),
    whole: Duration::from_secs(240),
};
/// The same for the debug kernel, which is several times slower.
const PATIENCE_DEBUG: Patience = Patience {
    silence: Duration::from_secs(240),
    whole: Duration::from_secs(900),
};
/// How long a report may grow before the guest is ended.
const SETTLE: Duration = Duration::from_secs(3);
/// A report that is closed ends the guest after so long without a new line.
const QUIET: Duration = Duration::from_millis(300);
/// How long output that the guest has written may take to arrive.
const DRAIN: Duration = Duration::from_secs(10);
/// A task that sleeps uninterruptibly for so many seconds is reported.
const HUNG_TASK_SECONDS: u32 = 30;
/// The same on the debug kernel, which is several times slower.
const HUNG_TASK_SECONDS_DEBUG: u32 = 120;

/// Held while a kernel's first guest makes what all of them boot from.
static PREPARING: Mutex<()> = Mutex::new(());

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What rxe does with on-demand regions.
    pub backend: Backend,
    /// What drives its clock.
    pub clock: Clock,
    /// What its processor can do.
    pub cpu: Cpu,
    /// Number of its CPUs.
    pub smp: u32,
    /// Its memory.
    pub mem: Size,
    /// Directories of the host that it sees.
    pub shares: Vec<Share>,
    /// The size of its scratch disk, /dev/vda, if it has one.
    pub disk: Option<Size>,
    /// Arguments added to the kernel's command line.
    pub append: Option<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
}

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
    collector: Collector,
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
    closed: bool,
    last_console: Instant,
    slice: Vec<String>,
}

impl Guest {
    /// Boots a guest until it waits for a command.
    ///
    /// # Errors
    /// One that says what failed in the guest or on the host, with the log's place; [`KERNEL`] if the
    /// kernel reported a problem on the way, [`TIMEOUT`] if the guest did not come up.
    pub fn boot(context: &Context, artifacts: &Artifacts, spec: &Spec) -> Result<Self> {
        host::guest_memory(spec.mem.0)?;
        let (kernel, accel) = {
            let _one = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
            let kernel = prepare::kernel(context, artifacts)?;
            let accel = accel::choose(context, artifacts, &kernel, spec.clock)?;
            (kernel, accel)
        };
        let how = accel.describe(spec.clock);
        context.ui.note_once(&how);
        let (log, log_file) = open_log(context)?;
        let complaints = log.with_extension("qemu.log");
        let complaints_file = File::create(&complaints)
            .with_context(|| format!("cannot write {}", complaints.display()))?;

        let pair = || -> Result<(UnixStream, OwnedFd)> {
            let (host, guest) = UnixStream::pair().context("cannot make a socket")?;
            Ok((host, guest.into()))
        };
        let (console_host, console) = pair()?;
        let (ctl_host, ctl) = pair()?;
        let (out_host, out_guest) = pair()?;
        let (err_host, err_guest) = pair()?;
        let (input_host, input) = pair()?;
        let (terminal_host, terminal) = if spec.terminal {
            let (host, guest) = pair()?;
            (Some(host), Some(guest))
        } else {
            (None, None)
        };
        let machine = Machine {
            artifacts,
            accel: &accel,
            clock: spec.clock,
            cpu: spec.cpu,
            smp: spec.smp,
            mem: spec.mem,
            image: &kernel.image,
            initrd: scratch_file(&first_files(artifacts, &kernel, spec)?)?.into(),
            shares: &spec.shares,
            disk: spec
                .disk
                .map(|size| scratch_disk(context, size))
                .transpose()?,
            append: spec.append.as_deref(),
            channels: Channels {
                console,
                ctl,
                out: out_guest,
                err: err_guest,
                input,
            },
            terminal,
        };
        let memory_ends = ended_for_memory();
        let running = machine.start(Stdio::from(complaints_file))?;

        let (send, events) = mpsc::channel();
        let reader = ctl_host.try_clone().context("cannot duplicate a socket")?;
        follow_lines(reader, None, send.clone(), Event::Ctl);
        follow_lines(console_host, Some(log_file), send, Event::Console);
        let (out, err) = (Sink::new(), Sink::new());
        copy_to(out_host, Arc::clone(&out));
        copy_to(err_host, Arc::clone(&err));
        let mut guest = Self {
            running,
            ctl: ctl_host,
            input: Some(input_host),
            terminal: terminal_host,
            events,
            out,
            err,
            collector: Collector::default(),
            log,
            complaints,
            memory_ends,
            jobs: 0,
            backend: String::new(),
            accel: how.to_string(),
            closed: false,
            last_console: Instant::now(),
            slice: Vec::new(),
        };
        let patience = if artifacts.kernel.debug {
            PATIENCE_DEBUG
        } else {
            PATIENCE
        };
        guest.wait_until_up(&patience)?;
        Ok(guest)
    }

    fn wait_until_up(&mut self, patience: &Patience) -> Result<()> {
        let begin = Instant::now();
        loop {
            let answer = self.step()?;
            if let Some(line) = answer {
                if let Some(backend) = line.strip_prefix("ready ") {
                    backend.clone_into(&mut self.backend);
                    return Ok(());
                }
                if let Some(message) = line.strip_prefix("fail ") {
                    self.settle(QUIET);
                    let said = self.tail();
                    self.end();
                    return Err(coded(
                        SETUP,
                        format!("the guest could not be set up: {message}{said}"),
                    ));
                }
            }
            if self.collector.found() {
                let report = self.take_report();
                return Err(coded(KERNEL, self.describe(&End::Report(report))));
            }
            if self.closed {
                signal::check()?;
                let how = self.death();
                return Err(coded(
                    SETUP,
                    format!("the guest ended before it was up: {how}{}", self.tail()),
                ));
            }
            let waited = begin.elapsed();
            if self.last_console.elapsed() > patience.silence || waited > patience.whole {
                self.end();
                return Err(coded(
                    TIMEOUT,
                    format!(
                        "the guest did not come up in {} s{}",
                        waited.as_secs(),
                        self.tail()
                    ),
                ));
            }
        }
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
                self.end();
                return Ok(End::Timeout(waited));
            }
        }
    }

    /// Takes the next event, or waits a moment. Returns the guest's answer if it gave one.
    fn step(&mut self) -> Result<Option<String>> {
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
    fn take_report(&mut self) -> Vec<String> {
        self.settle(SETTLE);
        self.end();
        self.collector.lines().to_vec()
    }

    /// Takes the console's lines for `limit`, or until they stop after a report's end.
    fn settle(&mut self, limit: Duration) {
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
    fn death(&mut self) -> String {
        let status = self.running.wait_at_most(DRAIN).ok().flatten();
        self.end();
        let out_of_memory = ended_for_memory() > self.memory_ends;
        death(status, out_of_memory, &self.complaints)
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

    fn tail(&self) -> String {
        last_lines(&self.log)
    }
}

fn first_files(artifacts: &Artifacts, kernel: &GuestKernel, spec: &Spec) -> Result<Vec<u8>> {
    let mut settings = Settings::default();
    settings.set("series", &artifacts.kernel.series);
    settings.set("want_backend", spec.backend.as_str());
    let hung = if artifacts.kernel.debug {
        HUNG_TASK_SECONDS_DEBUG
    } else {
        HUNG_TASK_SECONDS
    };
    settings.set("hung_task", hung.to_string());
    let mut tags = Vec::new();
    for (at, share) in spec.shares.iter().enumerate() {
        let tag = format!("share{at}");
        settings.set(format!("share_{tag}"), share.guest.to_string_lossy());
        let mode = if share.read_only { "ro" } else { "rw" };
        settings.set(format!("mode_{tag}"), mode);
        tags.push(tag);
    }
    settings.set("shares", tags.join(" "));
    initramfs::build(kernel, &settings)
}

/// The first log that no other guest uses.
fn open_log(context: &Context) -> Result<(PathBuf, File)> {
    for number in 1.. {
        let name = match number {
            1 => "guest".to_owned(),
            _ => format!("guest-{number}"),
        };
        let log = context.cache.log(&name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            file.set_len(0)
                .with_context(|| format!("cannot empty the log {}", log.display()))?;
            return Ok((log, file));
        }
    }
    unreachable!("some number is free")
}
