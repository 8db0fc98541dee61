//! A part of a registered region with a model of its bytes, and operations on it that are compared with the model.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::verb::{Leg, Verb};
use crate::ffi;
use crate::mem::{Map, PAGE, Rng, pattern};
use crate::pair::{Pair, Work};
use crate::private::Advise;
use crate::qp::{OpError, Piece};
use crate::target::{Env, GUARD};
use crate::verbs::{ALL_ACCESS, Mr};

/// The biggest operation.
pub const MOST: usize = 5 * PAGE;
/// What every region of the matrix allows.
pub const ACCESS: u32 = ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_GLOBAL;
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

/// What the memory behind a range allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allows {
    /// Only reading.
    Reading,
    /// Nothing.
    Nothing,
}

/// Why an operation did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// The device said no, with this completion.
    Refused(OpError),
    /// The verb said no, with this errno.
    Errno(io::Error),
    /// It succeeded, with wrong bytes.
    Wrong(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(e) => e.fmt(f),
            Self::Errno(e) => e.fmt(f),
            Self::Wrong(e) => write!(f, "success, but {e:#}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<OpError> for Failure {
    fn from(e: OpError) -> Self {
        Self::Refused(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Errno(e)
    }
}

/// The part, its traffic and its model.
pub struct Side<'a> {
    env: &'a Env,
    map: Arc<Map>,
    mr: Arc<Mr>,
    /// Where it begins in the region.
    from: usize,
    model: Vec<u8>,
    pair: Pair,
    spare: Vec<Pair>,
    buffer: Map,
    buffer_mr: Mr,
    advice: Advise,
    /// Its random choices.
    pub rng: Rng,
    /// Operations that were compared.
    pub ops: u64,
    deadline: Instant,
}

impl<'a> Side<'a> {
    /// `len` bytes at `from` of a region, which hold zeros.
    pub fn new(
        env: &'a Env,
        (map, mr): (Arc<Map>, Arc<Mr>),
        range: Range<usize>,
        rng: Rng,
        deadline: Instant,
    ) -> Result<Self> {
        let buffer = Map::anon(BUFFER)?;
        let access = ACCESS;
        let buffer_mr = Mr::new(&env.pd, buffer.addr(), BUFFER, access)
            .context("registering the pinned buffer")?;
        Ok(Self {
            env,
            map,
            mr,
            from: range.start,
            model: vec![0; range.len()],
            pair: Pair::new(&env.pd, env.mtu, None)?,
            spare: Vec::new(),
            buffer,
            buffer_mr,
            advice: Advise::find()?,
            rng,
            ops: 0,
            deadline,
        })
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.model.len()
    }

    /// The mapping; positions in it are [`Self::at`].
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Where the side's byte `off` is in the mapping.
    pub fn at(&self, off: usize) -> usize {
        self.from + off
    }

    /// What `range` must hold.
    pub fn model(&self, range: Range<usize>) -> &[u8] {
        &self.model[range]
    }

    /// From now on `range` must hold zeros.
    pub fn zero(&mut self, range: Range<usize>) {
        self.model[range].fill(0);
    }

    /// From now on `range` must hold what it holds, for bytes that only the VM knows. Returns them.
    pub fn accept(&mut self, range: Range<usize>) -> &[u8] {
        self.map
            .read(self.from + range.start, &mut self.model[range.clone()]);
        &self.model[range]
    }

    /// The CPU writes pattern `seed`.
    pub fn fill(&mut self, range: Range<usize>, seed: u64) {
        pattern(seed, range.start, &mut self.model[range.clone()]);
        self.map
            .write(self.from + range.start, &self.model[range.clone()]);
    }

    /// The CPU writes `bytes` at `off`.
    pub fn write(&mut self, off: usize, bytes: &[u8]) {
        self.model[off..off + bytes.len()].copy_from_slice(bytes);
        self.map.write(self.from + off, bytes);
    }

    /// Only the model hears of pattern `seed` in `range`.
    pub fn expect(&mut self, range: Range<usize>, seed: u64) {
        pattern(seed, range.start, &mut self.model[range]);
    }

    /// Compares all of it with the model by the CPU.
    pub fn verify(&self, what: &str) -> Result<()> {
        self.verify_range(0..self.len(), what)
    }

    /// Compares `range` with the model by the CPU.
    pub fn verify_range(&self, range: Range<usize>, what: &str) -> Result<()> {
        let start = range.start;
        let mut wrong = self.map.compare(self.from + start, range.len(), |at, out| {
            out.copy_from_slice(&self.model[start + at..start + at + out.len()]);
        });
        wrong.first = wrong.first.wrapping_sub(self.from);
        wrong.ok(what)
    }

    /// Makes `n` pairs of queue pairs for later. Making one maps its queues: with a hole in the region they could land in it.
    pub fn stock(&mut self, n: usize) -> Result<()> {
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

    /// After an operation that may have failed half-way: other queue pairs, and the bytes as they are.
    pub fn start_again(&mut self) {
        // Without another pair the next operation fails, which is seen there.
        self.renew().ok();
        self.accept(0..self.len());
    }

    /// One operation at a random place of `range`.
    pub fn random(&mut self, verb: Verb, range: Range<usize>) -> Result<()> {
        let legs = verb.legs();
        let leg = legs[self.rng.below(legs.len())];
        let (off, len) = self.place(verb, leg, range);
        self.must(verb, leg, off, len)
    }

    /// A random place of `range` for an operation: offset and length.
    fn place(&mut self, verb: Verb, leg: Leg, range: Range<usize>) -> (usize, usize) {
        let len = match verb.fixed_length() {
            Some(len) => len,
            None => self.rng.length(MOST.min(range.len())),
        };
        let step = verb.alignment(leg);
        let first = range.start.next_multiple_of(step);
        let room = range.end - len - first;
        (first + self.rng.below(room / step + 1) * step, len)
    }

    /// An operation that must succeed.
    pub fn must(&mut self, verb: Verb, leg: Leg, off: usize, len: usize) -> Result<()> {
        if Instant::now() > self.deadline {
            bail!("the cell's time is over");
        }
        self.ops += 1;
        self.act(verb, leg, off, len).with_context(|| {
            let name = verb.name();
            format!("{name} ({leg:?}) of {len} bytes at {off:#x}")
        })
    }

    /// One operation of each leg inside `range`: those that the memory allows succeed, the others are refused and change nothing.
    pub fn obey(&mut self, verb: Verb, allows: Allows, range: Range<usize>) -> Result<()> {
        for leg in verb.legs() {
            let (off, len) = self.place(verb, *leg, range.clone());
            let reading = allows == Allows::Reading && !verb.writes(*leg);
            if reading || !verb.touches_memory() {
                self.must(verb, *leg, off, len)?;
                continue;
            }
            let name = verb.name();
            // Only a success is entered in the model.
            match self.act(verb, *leg, off, len) {
                Err(Failure::Refused(OpError::Status(s))) if REFUSALS.contains(&s) => {
                    self.renew()?
                }
                Err(Failure::Errno(e)) if e.raw_os_error() == Some(libc::EFAULT) => {}
                // Of in-tree paging, which says what the VM says to it.
                Err(Failure::Errno(e))
                    if e.raw_os_error() == Some(libc::EPERM) && allows == Allows::Reading => {}
                Ok(()) => bail!(
                    "{name} ({leg:?}) of {len} bytes at {off:#x} succeeded where memory allows {allows:?}"
                ),
                Err(e) => bail!("{name} ({leg:?}) where memory allows {allows:?}: {e}"),
            }
        }
        Ok(())
    }

    /// One operation, whose outcome is compared with the model; bytes that it changes are entered there.
    fn act(&mut self, verb: Verb, leg: Leg, off: usize, len: usize) -> Result<(), Failure> {
        let seed = self.rng.bits();
        match (verb, leg) {
            (Verb::Write, Leg::Far) => {
                let slot = self.load(off, len, seed);
                let work = Work::Write(self.remote(off));
                self.pair.near.run(work, &[self.buffered(slot, len)])?;
                self.changed(off, slot, len);
            }
            (Verb::Read, Leg::Near) => {
                let slot = self.load(off, len, seed);
                let work = Work::Read(self.buffer_remote(slot));
                self.pair.near.run(work, &[self.local(off, len)])?;
                self.changed(off, slot, len);
            }
            (Verb::Send, Leg::Far) => {
                let slot = self.load(off, len, seed);
                self.pair.far.post_recv(1, &[self.local(off, len)])?;
                self.pair
                    .near
                    .run(Work::Send, &[self.buffered(slot, len)])?;
                self.pair.far.received.wait()?;
                self.changed(off, slot, len);
            }
            (Verb::Write, Leg::Near) => {
                let slot = self.guard(off, len);
                let work = Work::Write(self.buffer_remote(slot));
                self.pair.near.run(work, &[self.local(off, len)])?;
                self.arrived(off, slot, len)?;
            }
            (Verb::Read, Leg::Far) => {
                let slot = self.guard(off, len);
                let work = Work::Read(self.remote(off));
                self.pair.near.run(work, &[self.buffered(slot, len)])?;
                self.arrived(off, slot, len)?;
            }
            (Verb::Send, Leg::Near) => {
                let slot = self.guard(off, len);
                self.pair.far.post_recv(1, &[self.buffered(slot, len)])?;
                self.pair.near.run(Work::Send, &[self.local(off, len)])?;
                self.pair.far.received.wait()?;
                self.arrived(off, slot, len)?;
            }
            (Verb::CmpSwp | Verb::FetchAdd, _) => self.atomic(verb, leg, off, seed)?,
            (Verb::AtomicWrite, _) => {
                let work = Work::AtomicWrite(self.remote(off), seed);
                self.pair.near.run(work, &[])?;
                self.model[off..off + 8].copy_from_slice(&seed.to_ne_bytes());
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
        }
        Ok(())
    }

    fn atomic(&mut self, verb: Verb, leg: Leg, off: usize, seed: u64) -> Result<(), Failure> {
        const OTHER: usize = 64;
        // The other end: the returned value's place, or the target, in the buffer.
        let mut old = [0; 8];
        match leg {
            Leg::Far => old.copy_from_slice(&self.model[off..off + 8]),
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
                self.model[off..off + 8].copy_from_slice(&new.to_ne_bytes());
                (other, old)
            }
            Leg::Near => {
                self.model[off..off + 8].copy_from_slice(&old);
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
    fn changed(&mut self, off: usize, slot: usize, len: usize) {
        self.buffer.read(slot, &mut self.model[off..off + len]);
    }

    /// Sets a slot of the buffer and what is around it to a byte that tells strays.
    fn guard(&self, off: usize, len: usize) -> usize {
        let slot = Self::slot(off);
        self.buffer.set(slot - GUARD, len + 2 * GUARD, GUARD_BYTE);
        slot
    }

    /// Compares a slot with the region's bytes, and what is around it with the guard.
    fn arrived(&self, off: usize, slot: usize, len: usize) -> Result<(), Failure> {
        let data = self.buffer.compare(slot, len, |at, out| {
            out.copy_from_slice(&self.model[off + at..off + at + out.len()]);
        });
        data.ok("what arrived").map_err(Failure::Wrong)?;
        let mut stray = self.buffer.check_byte(slot - GUARD, GUARD, GUARD_BYTE);
        stray.add(self.buffer.check_byte(slot + len, GUARD, GUARD_BYTE));
        stray.ok("outside the target").map_err(Failure::Wrong)
    }

    fn local(&self, off: usize, len: usize) -> ffi::ibv_sge {
        ffi::ibv_sge {
            addr: (self.map.addr() + self.at(off)) as u64,
            length: len as u32,
            lkey: self.mr.lkey(),
        }
    }

    fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + self.at(off)) as u64,
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
