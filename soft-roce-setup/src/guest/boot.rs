//! A guest from its first files to the moment in which it waits for a command.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::accel::{self, Cpu};
use super::ending::{End, ended_for_memory};
use super::exchange::Seat;
use super::initramfs::{self, Settings};
use super::options::{Backend, Clock, Share, Size};
use super::prepare;
use super::qemu::{self, Machine};
use super::scratch::{scratch_disk, scratch_file};
use super::session::{Channels, Guest, Logs, QUIET};
use super::wire::Shape;
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::exit::{KERNEL, SETUP, TIMEOUT, coded};
use crate::host;
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
    /// NUMA nodes that its CPUs and its memory are shared out to.
    pub nodes: u32,
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

/// What makes a guest one of two hosts.
#[derive(Debug)]
pub(super) struct Place {
    /// Which it is, and what both have in common.
    pub seat: Seat,
    /// Its end of the wire.
    pub wire: OwnedFd,
    /// What it does to packets that it sends.
    pub shape: Shape,
}

/// Why a guest does not come up that could have: the other host has ended both.
#[derive(Debug)]
pub(super) struct EndedWithTheOther;

impl std::fmt::Display for EndedWithTheOther {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest was ended before it was up, as the other host was")
    }
}

impl std::error::Error for EndedWithTheOther {}

impl Guest {
    /// Boots a guest until it waits for a command.
    ///
    /// # Errors
    /// One that says what failed in the guest or on the host, with the log's place; [`KERNEL`] if the
    /// kernel reported a problem on the way, [`TIMEOUT`] if the guest did not come up.
    pub fn boot(context: &Context, artifacts: &Artifacts, spec: &Spec) -> Result<Self> {
        Self::boot_at(context, artifacts, spec, None)
    }

    /// The same of one of two hosts, if it has a place.
    pub(super) fn boot_at(
        context: &Context,
        artifacts: &Artifacts,
        spec: &Spec,
        place: Option<Place>,
    ) -> Result<Self> {
        host::guest_memory(spec.mem.0, 1)?;
        let (kernel, accel) = {
            let _one = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
            let kernel = prepare::kernel(context, artifacts)?;
            let accel = accel::choose(context, artifacts, &kernel, spec.clock)?;
            (kernel, accel)
        };
        let how = accel.describe(spec.clock);
        context.ui.note_once(&how);
        let name = match &place {
            Some(place) => format!("host{}", place.seat.index + 1),
            None => "guest".to_owned(),
        };
        let (log, log_file) = open_log(context, &name)?;
        let complaints = log.with_extension("qemu.log");
        let complaints_file = File::create(&complaints)
            .with_context(|| format!("cannot write {}", complaints.display()))?;

        let pair = || -> Result<(UnixStream, OwnedFd)> {
            let (host, guest) = UnixStream::pair().context("cannot make a socket")?;
            Ok((host, guest.into()))
        };
        let (console, console_guest) = pair()?;
        let (ctl, ctl_guest) = pair()?;
        let (out, out_guest) = pair()?;
        let (err, err_guest) = pair()?;
        let (input, input_guest) = pair()?;
        let (terminal, terminal_guest) = spec.terminal.then(pair).transpose()?.unzip();
        let settings = settings(artifacts, spec, place.as_ref());
        let (host, host_guest) = match place {
            Some(place) => {
                let (requests, requests_guest) = pair()?;
                let guest = qemu::Host {
                    index: place.seat.index,
                    wire: place.wire,
                    requests: requests_guest,
                };
                (Some((requests, place.seat)), Some(guest))
            }
            None => (None, None),
        };
        let ours = Channels {
            host,
            console,
            ctl,
            out,
            err,
            input,
            terminal,
        };
        let machine = Machine {
            artifacts,
            accel: &accel,
            clock: spec.clock,
            cpu: spec.cpu,
            smp: spec.smp,
            nodes: spec.nodes,
            mem: spec.mem,
            image: &kernel.image,
            initrd: scratch_file(&initramfs::build(&kernel, &settings)?)?.into(),
            shares: &spec.shares,
            disk: spec
                .disk
                .map(|size| scratch_disk(context, size))
                .transpose()?,
            append: spec.append.as_deref(),
            channels: qemu::Channels {
                console: console_guest,
                ctl: ctl_guest,
                out: out_guest,
                err: err_guest,
                input: input_guest,
            },
            terminal: terminal_guest,
            host: host_guest,
        };
        let memory_ends = ended_for_memory();
        let running = machine.start(Stdio::from(complaints_file))?;
        let logs = Logs {
            log,
            file: log_file,
            complaints,
        };
        let mut guest = Self::begun(running, ours, logs, memory_ends, how.to_string())?;
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
            if self.is_over() {
                self.end();
                return Err(EndedWithTheOther.into());
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
}

/// What the guest's init is told.
fn settings(artifacts: &Artifacts, spec: &Spec, place: Option<&Place>) -> Settings {
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
    if let Some(place) = place {
        settings.set("host", (place.seat.index + 1).to_string());
        settings.set("mtu", place.shape.mtu.to_string());
        settings.set("netem", place.shape.netem());
    }
    settings
}

/// The first log of a guest of this name that no other one uses.
fn open_log(context: &Context, name: &str) -> Result<(PathBuf, File)> {
    for number in 1.. {
        let name = match number {
            1 => name.to_owned(),
            _ => format!("{name}-{number}"),
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
