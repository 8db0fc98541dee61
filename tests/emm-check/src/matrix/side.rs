//! A part of the memory under test with a model of its bytes, and operations on it that are compared with the model.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::traffic::{Act, Failure, MOST, Traffic};
use super::verb::{Leg, Verb};
use crate::mem::{Map, Rng, pattern};

/// What the memory behind a range allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allows {
    /// Only reading.
    Reading,
    /// Nothing.
    Nothing,
}

/// The part, its traffic and its model.
pub struct Side<'a> {
    map: Arc<Map>,
    /// Where it begins in the map.
    from: usize,
    model: Vec<u8>,
    traffic: Box<dyn Traffic + 'a>,
    /// Its random choices.
    pub rng: Rng,
    /// Operations that were compared.
    pub ops: u64,
    deadline: Instant,
}

impl<'a> Side<'a> {
    /// `range` of a map, which holds zeros.
    pub fn new(
        map: Arc<Map>,
        range: Range<usize>,
        traffic: Box<dyn Traffic + 'a>,
        rng: Rng,
        deadline: Instant,
    ) -> Self {
        Self {
            map,
            from: range.start,
            model: vec![0; range.len()],
            traffic,
            rng,
            ops: 0,
            deadline,
        }
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

    /// Compares all of it with the model, from elsewhere than this process.
    pub fn verify_elsewhere(&mut self) -> Result<()> {
        self.traffic.verify(&self.model)
    }

    /// Makes what `n` refused operations will take: with a hole in the memory it could land in it.
    pub fn stock(&mut self, n: usize) -> Result<()> {
        self.traffic.stock(n)
    }

    /// After an operation that may have failed half-way: other queue pairs, and the bytes as they are.
    pub fn start_again(&mut self) {
        // Without another pair the next operation fails, which is seen there.
        self.traffic.renew().ok();
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
                Err(e) if self.traffic.refuses(&e) => self.traffic.renew()?,
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
        self.traffic.act(Act {
            verb,
            leg,
            off,
            len,
            seed: self.rng.bits(),
            model: &mut self.model,
        })
    }
}
