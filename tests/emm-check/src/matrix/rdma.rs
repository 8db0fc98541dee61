//! Operations of an HCA, on a registered region.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};

use super::traffic::{Act, Failure, MOST, Traffic};
use super::verb::{Leg, Verb};
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::pair::{Pair, Work};
use crate::private::Advise;
use crate::qp::{OpError, Piece};
use crate::system::Kind;
use crate::target::{Env, GUARD};
use crate::verbs::{ALL_ACCESS, Mr};

/// What every region of the matrix allows.
const ACCESS: u32 = ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_GLOBAL;
const GUARD_BYTE: u8 = 0xA5;
const BUFFER: usize = MOST + 2 * PAGE;
/// What an operation that the memory does not allow may complete with. A receive that can't be served ends the sender's
/// request as a remote operation error; rxe flushes a local one, for pinned regions too.
const REFUSALS: [u32; 6] = [
    ffi::IBV_WC_REM_ACCESS_ERR,
    ffi::IBV_WC_REM_OP_ERR,
    ffi::IBV_WC_REM_INV_REQ_ERR,
    ffi::IBV_WC_LOC_PROT_ERR,
    ffi::IBV_WC_LOC_QP_OP_ERR,
    ffi::IBV_WC_WR_FLUSH_ERR,
];

/// Queue pairs on a part of a region, and a pinned buffer at their other end.
pub struct Rdma<'a> {
    env: &'a Env,
    map: Arc<Map>,
    mr: Arc<Mr>,
    /// Where the part begins in the region.
    from: usize,
    pair: Pair,
    spare: Vec<Pair>,
    buffer: Map,
    buffer_mr: Mr,
    advice: Advise,
}

/// Registers `map`, and returns ways to these parts of it.
pub fn reach<'a>(
    env: &'a Env,
    kind: Kind,
    map: &Arc<Map>,
    parts: [Range<usize>; 2],
) -> Result<[Box<dyn Traffic + 'a>; 2]> {
    let mr = Mr::new(&env.pd, map.addr(), map.len(), ACCESS | kind.flags())
        .with_context(|| format!("registering {} bytes ({})", map.len(), kind.label()))?;
    let mr = Arc::new(mr);
    let [wing, stage] = parts.map(|part| Rdma::new(env, map.clone(), mr.clone(), part.start));
    Ok([Box::new(wing?), Box::new(stage?)])
}

impl<'a> Rdma<'a> {
    /// From byte `from` of a region of its own on.
    pub fn alone(env: &'a Env, kind: Kind, map: &Arc<Map>, from: usize) -> Result<Self> {
        let mr = Mr::new(&env.pd, map.addr(), map.len(), ACCESS | kind.flags())
            .with_context(|| format!("registering {} bytes ({})", map.len(), kind.label()))?;
        Self::new(env, map.clone(), Arc::new(mr), from)
    }

    /// From byte `from` of a region on.
    fn new(env: &'a Env, map: Arc<Map>, mr: Arc<Mr>, from: usize) -> Result<Self> {
        let buffer = Map::anon(BUFFER)?;
        let access = ACCESS;
        let buffer_mr = Mr::new(&env.pd, buffer.addr(), BUFFER, access)
            .context("registering the pinned buffer")?;
        Ok(Self {
            env,
            map,
            mr,
            from,
            pair: Pair::new(&env.pd, env.mtu, None)?,
            spare: Vec::new(),
            buffer,
            buffer_mr,
            advice: Advise::find()?,
        })
    }

    fn atomic(
        &mut self,
        verb: Verb,
        leg: Leg,
        off: usize,
        seed: u64,
        model: &mut [u8],
    ) -> Result<(), Failure> {
        const OTHER: usize = 64;
        // The other end: the returned value's place, or the target, in the buffer.
        let mut old = [0; 8];
        match leg {
            Leg::Far => old.copy_from_slice(&model[off..off + 8]),
            Leg::Near => {
                old = seed.rotate_left(9).to_ne_bytes();
                self.buffer.write(OTHER, &old);
            }
        }
        let value = u64::from_ne_bytes(old);
        let target = match leg {
            Leg::Far => self.remote(off),
            Leg::Near => self.buffer_remote(OTHER),
        };
        let (work, new) = match verb {
            Verb::FetchAdd => (Work::FetchAdd(target, seed), value.wrapping_add(seed)),
            // Every second one does not match, and must not swap.
            _ if seed & 1 == 0 => (Work::CmpSwp(target, !value, seed), value),
            _ => (Work::CmpSwp(target, value, seed), seed),
        };
        let place = match leg {
            Leg::Far => self.buffered(OTHER, 8),
            Leg::Near => self.local(off, 8),
        };
        self.pair.near.run(work, &[place])?;
        let mut other = [0; 8];
        self.buffer.read(OTHER, &mut other);
        let (found, wanted) = match leg {
            Leg::Far => {
                model[off..off + 8].copy_from_slice(&new.to_ne_bytes());
                (other, old)
            }
            Leg::Near => {
                model[off..off + 8].copy_from_slice(&old);
                (other, new.to_ne_bytes())
            }
        };
        if found != wanted {
            let error = anyhow::anyhow!("{found:x?} instead of {wanted:x?} at the other end");
            return Err(Failure::Wrong(error));
        }
        Ok(())
    }

    /// A slot of the buffer for what is at `off`: another odd place for every offset.
    fn slot(off: usize) -> usize {
        GUARD + 1 + off.wrapping_mul(37) % (PAGE - GUARD)
    }

    /// Fills a slot of the buffer.
    fn load(&self, off: usize, len: usize, seed: u64) -> usize {
        let slot = Self::slot(off);
        self.buffer.fill(slot, len, seed, 0);
        slot
    }

    /// The bytes of a slot are now those of the region.
    fn changed(&self, slot: usize, model: &mut [u8]) {
        self.buffer.read(slot, model);
    }

    /// Sets a slot of the buffer and what is around it to a byte that tells strays.
    fn guard(&self, off: usize, len: usize) -> usize {
        let slot = Self::slot(off);
        self.buffer.set(slot - GUARD, len + 2 * GUARD, GUARD_BYTE);
        slot
    }

    /// Compares a slot with the region's bytes, and what is around it with the guard.
    fn arrived(&self, slot: usize, model: &[u8]) -> Result<(), Failure> {
        let len = model.len();
        let data = self.buffer.compare(slot, len, |at, out| {
            out.copy_from_slice(&model[at..at + out.len()]);
        });
        data.ok("what arrived").map_err(Failure::Wrong)?;
        let mut stray = self.buffer.check_byte(slot - GUARD, GUARD, GUARD_BYTE);
        stray.add(self.buffer.check_byte(slot + len, GUARD, GUARD_BYTE));
        stray.ok("outside the target").map_err(Failure::Wrong)
    }

    fn local(&self, off: usize, len: usize) -> ffi::ibv_sge {
        ffi::ibv_sge {
            addr: (self.map.addr() + self.from + off) as u64,
            length: len as u32,
            lkey: self.mr.lkey(),
        }
    }

    fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + self.from + off) as u64,
            key: self.mr.rkey(),
        }
    }

    fn buffered(&self, slot: usize, len: usize) -> ffi::ibv_sge {
        ffi::ibv_sge {
            addr: (self.buffer.addr() + slot) as u64,
            length: len as u32,
            lkey: self.buffer_mr.lkey(),
        }
    }

    fn buffer_remote(&self, slot: usize) -> Piece {
        Piece {
            addr: (self.buffer.addr() + slot) as u64,
            key: self.buffer_mr.rkey(),
        }
    }
}

impl Traffic for Rdma<'_> {
    fn act(&mut self, act: Act<'_>) -> Result<(), Failure> {
        let Act {
            verb,
            leg,
            off,
            len,
            seed,
            model,
        } = act;
        match (verb, leg) {
            (Verb::Write, Leg::Far) => {
                let slot = self.load(off, len, seed);
                let work = Work::Write(self.remote(off));
                self.pair.near.run(work, &[self.buffered(slot, len)])?;
                self.changed(slot, &mut model[off..off + len]);
            }
            (Verb::Read, Leg::Near) => {
                let slot = self.load(off, len, seed);
                let work = Work::Read(self.buffer_remote(slot));
                self.pair.near.run(work, &[self.local(off, len)])?;
                self.changed(slot, &mut model[off..off + len]);
            }
            (Verb::Send, Leg::Far) => {
                let slot = self.load(off, len, seed);
                self.pair.far.post_recv(1, &[self.local(off, len)])?;
                self.pair
                    .near
                    .run(Work::Send, &[self.buffered(slot, len)])?;
                self.pair.far.received.wait()?;
                self.changed(slot, &mut model[off..off + len]);
            }
            (Verb::Write, Leg::Near) => {
                let slot = self.guard(off, len);
                let work = Work::Write(self.buffer_remote(slot));
                self.pair.near.run(work, &[self.local(off, len)])?;
                self.arrived(slot, &model[off..off + len])?;
            }
            (Verb::Read, Leg::Far) => {
                let slot = self.guard(off, len);
                let work = Work::Read(self.remote(off));
                self.pair.near.run(work, &[self.buffered(slot, len)])?;
                self.arrived(slot, &model[off..off + len])?;
            }
            (Verb::Send, Leg::Near) => {
                let slot = self.guard(off, len);
                self.pair.far.post_recv(1, &[self.buffered(slot, len)])?;
                self.pair.near.run(Work::Send, &[self.local(off, len)])?;
                self.pair.far.received.wait()?;
                self.arrived(slot, &model[off..off + len])?;
            }
            (Verb::CmpSwp | Verb::FetchAdd, _) => self.atomic(verb, leg, off, seed, model)?,
            (Verb::AtomicWrite, _) => {
                let work = Work::AtomicWrite(self.remote(off), seed);
                self.pair.near.run(work, &[])?;
                model[off..off + 8].copy_from_slice(&seed.to_ne_bytes());
            }
            (Verb::Flush, _) => {
                let level = [ffi::IBV_FLUSH_RANGE, ffi::IBV_FLUSH_MR][(seed & 1) as usize];
                let work = Work::Flush(self.remote(off), len, ffi::IBV_FLUSH_GLOBAL, level);
                self.pair.near.run(work, &[])?;
            }
            (Verb::Prefetch, _) => {
                let which = match leg {
                    Leg::Near => ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH,
                    Leg::Far => ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
                };
                let flags = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
                let list = [self.local(off, len)];
                self.advice.give(&self.env.pd, which, flags, &list)?;
            }
            _ => {
                let name = verb.name();
                return Err(Failure::Wrong(anyhow!("an HCA has no operation {name}")));
            }
        }
        Ok(())
    }

    fn refuses(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Refused(OpError::Status(status)) => REFUSALS.contains(status),
            Failure::Errno(error) => error.raw_os_error() == Some(libc::EFAULT),
            _ => false,
        }
    }

    fn stock(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            self.spare
                .push(Pair::new(&self.env.pd, self.env.mtu, None)?);
        }
        Ok(())
    }

    /// Another pair; one that saw an error can't go on.
    fn renew(&mut self) -> Result<()> {
        self.pair = match self.spare.pop() {
            Some(pair) => pair,
            None => Pair::new(&self.env.pd, self.env.mtu, None)?,
        };
        Ok(())
    }
}
