//! The matrix on attached memory: this process owns it, and another one has attached it.
//!
//! All events of `emm-check matrix` that happen to memory, and its model of every byte. What the attacher does is compared when it is
//! done; all that it sees is compared by a number for each page.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::xpmem::abi;
use anyhow::{Context as _, Result, anyhow};

use super::own::Own;
use super::peer::{Peer, Refusal};
use super::wire::Order;
use crate::matrix::{
    ATTACHED, Act, Event, Failure, Leg, Rdma, Traffic, Unfit, Verb, events_of_memory, played,
};
use crate::mem::{Map, Rng, pattern};
use crate::report::Report;
use crate::system::Kind;
use crate::target::Env;

/// Runs the cells of the named operations and events, or all. `open` opens the HCA, which one operation needs.
pub fn matrix(
    report: &Report,
    seed: u64,
    open: &dyn Fn() -> Result<Env>,
    verbs: &[Verb],
    events: &[Event],
) -> Result<()> {
    let verbs: Vec<Verb> = ATTACHED
        .into_iter()
        .filter(|verb| verbs.is_empty() || verbs.contains(verb))
        .collect();
    let events: Vec<Event> = events_of_memory()
        .filter(|event| events.is_empty() || events.contains(event))
        .collect();
    let env = match verbs.contains(&Verb::BesideMr) {
        true => Some(open()?),
        false => None,
    };
    // Two, since two threads have to do with them at once.
    let peers = [
        Mutex::new(Peer::start("attacher of the wing")?),
        Mutex::new(Peer::start("attacher of the stage")?),
    ];
    for event in events {
        for verb in &verbs {
            let name = format!("{} x {}", verb.name(), event.name());
            if (*verb, event) == (Verb::Copy, Event::FreeReclaim) {
                report.skip(&name, "what is copied may have been dropped", false);
                continue;
            }
            let mr = env.as_ref().filter(|_| *verb == Verb::BesideMr);
            let reach = |map: &Arc<Map>, parts| reach(&peers, mr, map, parts);
            match played(reach, seed, *verb, event) {
                Err(e) if e.is::<Unfit>() => report.skip(&name, &format!("{e:#}"), false),
                outcome => _ = report.case("", "xpmem", &name, true, outcome),
            }
        }
    }
    Ok(())
}

/// A segment of all of `map`, each part of it attached by a process.
fn reach<'a>(
    peers: &'a [Mutex<Peer>; 2],
    env: Option<&'a Env>,
    map: &Arc<Map>,
    parts: [Range<usize>; 2],
) -> Result<[Box<dyn Traffic + 'a>; 2]> {
    let segment = Arc::new(Own::share(map.addr(), map.len(), 0o600)?);
    let [wing, stage] = parts;
    let [of_wing, of_stage] = peers;
    let attach = |peer: &'a Mutex<Peer>, part: Range<usize>| -> Result<Attached<'a>> {
        let mr = env.map(|env| Rdma::alone(env, Kind::Emm, map, part.start));
        Attached::new(peer, segment.clone(), part, mr.transpose()?)
    };
    Ok([
        Box::new(attach(of_wing, wing)?),
        Box::new(attach(of_stage, stage)?),
    ])
}

/// A part of a segment that another process has attached.
struct Attached<'a> {
    peer: &'a Mutex<Peer>,
    /// Ends with the last of the two parts.
    _segment: Arc<Own>,
    permit: u64,
    /// Where the attacher has it.
    at: u64,
    mr: Option<Rdma<'a>>,
}

fn lock(peer: &Mutex<Peer>) -> MutexGuard<'_, Peer> {
    peer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Attached<'a> {
    fn new(
        peer: &'a Mutex<Peer>,
        segment: Arc<Own>,
        part: Range<usize>,
        mr: Option<Rdma<'a>>,
    ) -> Result<Self> {
        let mut process = lock(peer);
        let permit = process
            .get(segment.id(), abi::RDWR)?
            .context("getting a permit")?;
        let at = process.attach(permit, part.start as u64, part.len() as u64, 0)?;
        let at = at.context("attaching")?;
        drop(process);
        Ok(Self {
            peer,
            _segment: segment,
            permit,
            at,
            mr,
        })
    }

    /// Gives the attacher an order.
    fn ask(&self, order: Order, words: &[u64]) -> Result<(u64, Vec<u8>), Failure> {
        let answer = lock(self.peer).ask(order, words).map_err(Failure::Wrong)?;
        answer.map_err(|refusal| match refusal {
            Refusal::Errno(errno) => Failure::Errno(std::io::Error::from_raw_os_error(errno)),
            Refusal::Signal(number, _) => Failure::Signal(number),
        })
    }

    /// The attacher reads what must be `wanted`.
    fn read(&self, order: Order, off: usize, wanted: &[u8]) -> Result<(), Failure> {
        let (_, found) = self.ask(order, &[self.at + off as u64, wanted.len() as u64])?;
        let wrong = found.iter().zip(wanted).filter(|(a, b)| a != b).count();
        if found.len() != wanted.len() || wrong > 0 {
            let error = anyhow!("{wrong} of {} bytes are wrong there", wanted.len());
            return Err(Failure::Wrong(error));
        }
        Ok(())
    }

    /// The attacher writes pattern `seed`.
    fn write(&self, order: Order, off: usize, seed: u64, model: &mut [u8]) -> Result<(), Failure> {
        let words = [self.at + off as u64, model.len() as u64, seed, off as u64];
        self.ask(order, &words)?;
        pattern(seed, off, model);
        Ok(())
    }

    fn atomic(&self, off: usize, seed: u64, model: &mut [u8]) -> Result<(), Failure> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(model);
        let old = u64::from_ne_bytes(bytes);
        let at = self.at + off as u64;
        let (order, words, new) = match seed % 3 {
            0 => (Order::Add, [at, seed, 0], old.wrapping_add(seed)),
            1 => (Order::Swap, [at, old, seed], seed),
            // It does not match, and must not swap.
            _ => (Order::Swap, [at, !old, seed], old),
        };
        let (found, _) = self.ask(order, &words)?;
        model.copy_from_slice(&new.to_ne_bytes());
        if found != old {
            let error = anyhow!("{found:#x} instead of {old:#x} at {off:#x}");
            return Err(Failure::Wrong(error));
        }
        Ok(())
    }

    /// From another place of the part, which the two don't share.
    fn copy(&self, off: usize, len: usize, seed: u64, model: &mut [u8]) -> Result<(), Failure> {
        let from = Rng(seed).below(model.len() - len + 1);
        let from = match from {
            from if from + len <= off || off + len <= from => from,
            _ if off >= len => off - len,
            _ => off + len,
        };
        let [to, from_there] = [off, from].map(|off| self.at + off as u64);
        self.ask(Order::Copy, &[to, from_there, len as u64])?;
        model.copy_within(from..from + len, off);
        Ok(())
    }
}

impl Traffic for Attached<'_> {
    fn act(&mut self, act: Act<'_>) -> Result<(), Failure> {
        let Act {
            verb,
            leg,
            off,
            len,
            seed,
            model,
        } = act;
        let part = off..off + len;
        match (verb, leg) {
            (Verb::Load, _) => self.read(Order::Load, off, &model[part]),
            (Verb::Store, _) => self.write(Order::Store, off, seed, &mut model[part]),
            (Verb::Atomic, _) => self.atomic(off, seed, &mut model[part]),
            (Verb::Copy, _) => self.copy(off, len, seed, model),
            (Verb::Syscall, Leg::Near) => self.read(Order::KernelReads, off, &model[part]),
            (Verb::Syscall, Leg::Far) => {
                self.write(Order::KernelWrites, off, seed, &mut model[part])
            }
            (Verb::BesideMr, leg) => {
                // What the one writes, the other reads.
                if leg == Leg::Near {
                    self.write(Order::Store, off, seed, &mut model[part.clone()])?;
                }
                let verb = match leg {
                    Leg::Near => Verb::Read,
                    Leg::Far => Verb::Write,
                };
                let mr = self
                    .mr
                    .as_mut()
                    .ok_or_else(|| Failure::Wrong(anyhow!("no MR")))?;
                let leg_of_mr = Leg::Far;
                mr.act(Act {
                    verb,
                    leg: leg_of_mr,
                    off,
                    len,
                    seed,
                    model: &mut *model,
                })?;
                self.read(Order::Load, off, &model[part])
            }
            _ => {
                let name = verb.name();
                Err(Failure::Wrong(anyhow!(
                    "{name} is not done to attached memory"
                )))
            }
        }
    }

    fn refuses(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Signal(number) => *number == libc::SIGBUS,
            Failure::Errno(error) => error.raw_os_error() == Some(libc::EFAULT),
            other => self.mr.as_ref().is_some_and(|mr| mr.refuses(other)),
        }
    }

    fn stock(&mut self, n: usize) -> Result<()> {
        self.mr.as_mut().map_or(Ok(()), |mr| mr.stock(n))
    }

    fn renew(&mut self) -> Result<()> {
        self.mr.as_mut().map_or(Ok(()), Traffic::renew)
    }

    fn verify(&mut self, model: &[u8]) -> Result<()> {
        lock(self.peer).same(self.at, model)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let mut peer = lock(self.peer);
        // A failure would be one of the next cell's, which says so.
        for (request, id) in [(abi::DETACH, self.at), (abi::RELEASE, self.permit)] {
            peer.end(request, id).ok();
        }
    }
}
