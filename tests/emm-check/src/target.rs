//! The work horse of all checks: a registered region under test, a pinned bounce buffer beside it, and a queue pair.
//! Data goes through the bounce buffer at odd addresses, between guard bytes.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::mem::{Map, PAGE, Wrong};
use crate::qp::{Op, OpError, Piece, Qp};
use crate::report::Report;
use crate::system::Kind;
use crate::verbs::{ALL_ACCESS, Mr, Pd};

/// Bytes around every target that must stay as they are.
pub const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xA5;
/// The biggest single operation.
pub const MAX_OP: usize = 1 << 20;

/// What all checks share.
pub struct Env {
    /// Name of the device.
    pub device: String,
    /// Protection domain of everything.
    pub pd: Arc<Pd>,
    /// Path MTU in bytes.
    pub mtu: u32,
    /// Seed of all random choices.
    pub seed: u64,
    /// Where facts go.
    pub report: Report,
    /// Options to hand on to child processes.
    pub child_args: Vec<String>,
}

/// Pinned memory that traffic starts from and ends in.
pub struct Bounce {
    map: Map,
    mr: Mr,
}

impl Bounce {
    /// A bounce buffer.
    pub fn new(pd: &Arc<Pd>) -> Result<Self> {
        let map = Map::anon(MAX_OP + 2 * PAGE)?;
        let mr = Mr::new(pd, map.addr(), map.len(), ALL_ACCESS)
            .context("registering the bounce buffer")?;
        Ok(Self { map, mr })
    }

    fn piece(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.lkey(),
        }
    }

    fn set_guards(&self, off: usize, len: usize) {
        self.map.set(off - GUARD, len + 2 * GUARD, GUARD_BYTE);
    }

    fn check_guards(&self, off: usize, len: usize) -> Wrong {
        let mut wrong = self.map.check_byte(off - GUARD, GUARD, GUARD_BYTE);
        wrong.add(self.map.check_byte(off + len, GUARD, GUARD_BYTE));
        wrong
    }
}

/// A region under test.
pub struct Target {
    /// Its memory.
    pub map: Arc<Map>,
    /// Its registration.
    pub mr: Arc<Mr>,
    bounce: Bounce,
    qp: Qp,
    spare: Vec<Qp>,
    pd: Arc<Pd>,
    mtu: u32,
}

impl Target {
    /// Registers all of `map` as `kind` for every access.
    pub fn new(env: &Env, kind: Kind, map: Map) -> Result<Self> {
        let mr = Mr::new(&env.pd, map.addr(), map.len(), ALL_ACCESS | kind.flags())
            .with_context(|| format!("registering {} bytes ({})", map.len(), kind.label()))?;
        Self::sharing(env, Arc::new(map), Arc::new(mr))
    }

    /// Another queue pair and bounce buffer on the same region.
    pub fn sharing(env: &Env, map: Arc<Map>, mr: Arc<Mr>) -> Result<Self> {
        Ok(Self {
            map,
            mr,
            bounce: Bounce::new(&env.pd)?,
            qp: Qp::new(&env.pd, env.mtu)?,
            spare: Vec::new(),
            pd: env.pd.clone(),
            mtu: env.mtu,
        })
    }

    /// Makes `n` queue pairs for later. Making one maps its queues: with a hole in the region they could land in it.
    pub fn spare_qps(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            self.spare.push(Qp::new(&self.pd, self.mtu)?);
        }
        Ok(())
    }

    /// Another queue pair; one that saw an error can't go on.
    pub fn new_qp(&mut self) -> Result<()> {
        self.qp = match self.spare.pop() {
            Some(qp) => qp,
            None => Qp::new(&self.pd, self.mtu)?,
        };
        Ok(())
    }

    /// The remote piece at `off`.
    pub fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.rkey(),
        }
    }

    /// The local piece at `off`.
    pub fn local(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.lkey(),
        }
    }

    /// The queue pair.
    pub fn qp(&self) -> &Qp {
        &self.qp
    }

    /// The bounce buffer's piece at `off`, for operations of one's own.
    pub fn bounce_piece(&self, off: usize) -> Piece {
        self.bounce.piece(off)
    }

    /// The bounce buffer's memory.
    pub fn bounce_map(&self) -> &Map {
        &self.bounce.map
    }

    /// Sets the bytes around a piece of the bounce buffer that has to stay by itself.
    pub fn set_guards(&self, slot: usize, len: usize) {
        self.bounce.set_guards(slot, len);
    }

    /// Which of these bytes did not stay.
    pub fn check_guards(&self, slot: usize, len: usize) -> Wrong {
        self.bounce.check_guards(slot, len)
    }

    /// Where a piece starts in the bounce buffer: another odd place for every offset.
    fn slot(off: usize) -> usize {
        GUARD + 1 + off.wrapping_mul(37) % (PAGE - GUARD)
    }

    /// One RDMA WRITE of pattern `seed` (position = offset in the region) to `off`.
    pub fn write_one(&self, off: usize, len: usize, seed: u64) -> Result<(), OpError> {
        self.write_by(self.mr.rkey(), off, len, seed)
    }

    /// The same by the key of another registration of these bytes.
    pub fn write_by(&self, key: u32, off: usize, len: usize, seed: u64) -> Result<(), OpError> {
        let slot = Self::slot(off);
        self.bounce.map.fill(slot, len, seed, off);
        let to = Piece {
            key,
            ..self.remote(off)
        };
        self.qp
            .run(Op::Write, self.bounce.piece(slot), len as u32, to)
    }

    /// One RDMA READ from `off` into the bounce buffer; returns what `compare` (bounce offset) and the guards found.
    pub fn read_one(
        &self,
        off: usize,
        len: usize,
        compare: impl FnOnce(&Map, usize) -> Wrong,
    ) -> Result<(Wrong, Wrong), OpError> {
        let slot = Self::slot(off);
        self.bounce.set_guards(slot, len);
        self.qp.run(
            Op::Read,
            self.bounce.piece(slot),
            len as u32,
            self.remote(off),
        )?;
        Ok((
            compare(&self.bounce.map, slot),
            self.bounce.check_guards(slot, len),
        ))
    }

    /// RDMA WRITE of pattern `seed` to all of a range.
    pub fn write(&self, off: usize, len: usize, seed: u64) -> Result<()> {
        for (at, n) in chunks(off, len) {
            self.write_one(at, n, seed)
                .with_context(|| format!("RDMA WRITE of {n} bytes at {at:#x}"))?;
        }
        Ok(())
    }

    /// RDMA READ of all of a range, compared with pattern `seed`.
    pub fn read(&self, off: usize, len: usize, seed: u64) -> Result<()> {
        self.read_cmp(off, len, |at, out| crate::mem::pattern(seed, at, out))
    }

    /// RDMA READ of all of a range, compared with what `expect` (given the offset in the region) says.
    pub fn read_cmp(
        &self,
        off: usize,
        len: usize,
        mut expect: impl FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        let mut wrong = Wrong::default();
        for (at, n) in chunks(off, len) {
            let (data, stray) = self
                .read_one(at, n, |map, slot| {
                    let mut w = map.compare(slot, n, |i, out| expect(at + i, out));
                    w.first = w.first.wrapping_sub(slot).wrapping_add(at);
                    w
                })
                .with_context(|| format!("RDMA READ of {n} bytes at {at:#x}"))?;
            wrong.add(data);
            if !stray.none() {
                bail!("RDMA READ of {n} bytes at {at:#x} wrote outside its target: {stray}");
            }
        }
        wrong.ok("RDMA READ")
    }

    /// Fills a range by the CPU with pattern `seed`.
    pub fn cpu_fill(&self, off: usize, len: usize, seed: u64) {
        self.map.fill(off, len, seed, off);
    }

    /// Compares a range by the CPU with pattern `seed`.
    pub fn cpu_check(&self, off: usize, len: usize, seed: u64) -> Result<()> {
        self.map.check(off, len, seed, off).ok("CPU view")
    }

    /// Writes by RDMA and checks by CPU and by RDMA.
    pub fn round(&self, off: usize, len: usize, seed: u64) -> Result<()> {
        self.write(off, len, seed)?;
        self.cpu_check(off, len, seed)?;
        self.read(off, len, seed)
    }
}

/// Cuts a range into pieces of uneven size, at most [`MAX_OP`], the same ones each time.
pub fn chunks(off: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    const SIZES: [usize; 6] = [4095, 65_537, 1_000_003, 33, 262_144 + 7, 8191];
    let end = off + len;
    let mut at = off;
    let mut i = 0;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let n = SIZES[i % SIZES.len()].min(end - at);
        let this = (at, n);
        at += n;
        i += 1;
        Some(this)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_partition_the_range() {
        let mut at = 5;
        for (start, n) in chunks(5, 3 << 20) {
            assert_eq!(start, at);
            assert!(n > 0 && n <= MAX_OP);
            at += n;
        }
        assert_eq!(at, 5 + (3 << 20));
    }
}
