//! One of two hosts, in a thread of its own: its QEMU ends with the thread that started it.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::super::boot::{Place, Spec};
use super::super::channels::Writer;
use super::super::ending::End;
use super::super::session::{Guest, Job};
use super::super::wire::Drain;
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::signal;

/// Time between two looks at what may have come.
const TURN: Duration = Duration::from_millis(20);

/// A command for one host, and where its output goes.
pub struct Order {
    /// What is run.
    pub job: Job,
    /// Its standard output.
    pub out: Writer,
    /// Its standard error.
    pub err: Writer,
}

/// What is known of a host that is up.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What rxe does with on-demand regions there.
    pub backend: String,
    /// Its kernel's log.
    pub log: PathBuf,
}

enum Told {
    Up(Known),
    Ended(Result<End>),
}

/// The thread. Dropping this ends the host; whoever does has told it that all is over, if it may be busy.
pub struct Side {
    orders: Option<Sender<Order>>,
    told: Receiver<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    /// Begins to boot the host.
    pub fn begin(
        context: &Context,
        artifacts: &Arc<Artifacts>,
        spec: Spec,
        place: Place,
    ) -> Result<Self> {
        let (orders, taken) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let (context, artifacts) = (context.clone(), Arc::clone(artifacts));
        let name = format!("host {}", place.seat.index + 1);
        let work = move || {
            let ground = Ground {
                context: &context,
                artifacts: &artifacts,
                spec: &spec,
                place,
            };
            work(ground, &taken, &tell);
        };
        let thread = thread::Builder::new().name(name).spawn(work);
        Ok(Self {
            orders: Some(orders),
            told,
            thread: Some(thread.context("cannot start a thread")?),
        })
    }

    /// Waits until it is up.
    pub fn up(&self) -> Result<Known> {
        match self.next()? {
            Told::Up(known) => Ok(known),
            Told::Ended(end) => {
                end.and_then(|_| bail!("a host ended before it was asked for anything"))
            }
        }
    }

    /// Gives it something to run.
    pub fn give(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // One that is gone has told why.
            let _ = orders.send(order);
        }
    }

    /// Waits until that has ended.
    pub fn ended(&self) -> Result<End> {
        match self.next()? {
            Told::Ended(end) => end,
            Told::Up(_) => bail!("a host came up twice"),
        }
    }

    fn next(&self) -> Result<Told> {
        loop {
            match self.told.recv_timeout(TURN) {
                Ok(told) => return Ok(told),
                Err(RecvTimeoutError::Timeout) => signal::check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    signal::check()?;
                    bail!("a host is gone");
                }
            }
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

/// A writer that several boots of a host write to, one after the other.
#[derive(Clone)]
struct Shared(Arc<Mutex<Writer>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

/// A host that is to be booted, perhaps again.
struct Ground<'a> {
    context: &'a Context,
    artifacts: &'a Artifacts,
    spec: &'a Spec,
    place: Place,
}

impl Ground<'_> {
    /// Boots it; the place keeps its end of the wire.
    fn boot(&self) -> Result<Guest> {
        let wire = self.wire()?;
        let place = Place {
            seat: self.place.seat.clone(),
            wire,
            shape: self.place.shape.clone(),
        };
        Guest::boot_at(self.context, self.artifacts, self.spec, Some(place))
    }

    fn wire(&self) -> Result<OwnedFd> {
        let again = self.place.wire.try_clone();
        again.context("cannot duplicate a socket")
    }

    /// Runs a command, from its beginning again at each boot, if the host is switched off and on meanwhile.
    fn run(&self, guest: &mut Guest, Order { job, out, err }: Order) -> Result<End> {
        let outputs = [out, err].map(|to| Shared(Arc::new(Mutex::new(to))));
        // Which boot of this command's it is.
        let mut boot = 0;
        loop {
            boot += 1;
            let job = Job {
                script: format!("export BOOT={boot}\n{}", job.script),
                ..job.clone()
            };
            let [out, err] = outputs.each_ref().map(|output| Box::new(output.clone()));
            let end = guest.run(&job, out, err)?;
            if end != End::SwitchedOff || !self.comes_back(guest)? {
                return Ok(end);
            }
        }
    }

    /// The host has been switched off: waits until it is to come back, and boots it then. Returns whether it does.
    fn comes_back(&self, guest: &mut Guest) -> Result<bool> {
        let drain = Drain::begin(self.wire()?)?;
        let seat = self.place.seat.clone();
        seat.is_dark();
        let back = loop {
            signal::check()?;
            if seat.is_over() {
                break false;
            }
            if let Some(back) = seat.comes_back() {
                break back;
            }
            thread::sleep(TURN);
        };
        if !back {
            seat.ended("been switched off".to_owned());
            return Ok(false);
        }
        *guest = self.boot().inspect_err(|_| seat.end_both())?;
        drop(drain);
        seat.is_lit();
        Ok(true)
    }
}

/// Nobody listens any more to what can't be told.
fn work(ground: Ground<'_>, orders: &Receiver<Order>, tell: &Sender<Told>) {
    let seat = ground.place.seat.clone();
    let mut guest = match ground.boot() {
        Ok(guest) => guest,
        Err(error) => {
            seat.end_both();
            let _ = tell.send(Told::Ended(Err(error)));
            return;
        }
    };
    let _ = tell.send(Told::Up(Known {
        backend: guest.backend.clone(),
        log: guest.log().to_owned(),
    }));
    for order in orders {
        let end = ground.run(&mut guest, order);
        if tell.send(Told::Ended(end)).is_err() {
            return;
        }
    }
}
