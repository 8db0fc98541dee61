//! A registered region beside a model of what it must hold. After an operation all of it is compared, so that a stray write
//! anywhere in it is found.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::ffi;
use crate::mem::{Map, PAGE, pattern};
use crate::qp::Piece;
use crate::verbs::{Mr, Pd};

/// The region, its memory, and the model.
pub struct Area {
    /// The registration; goes before the memory.
    pub mr: Mr,
    map: Map,
    model: Vec<u8>,
}

impl Area {
    /// Registers `size` untouched bytes.
    pub fn new(pd: &Arc<Pd>, size: usize, access: u32) -> Result<Self> {
        let map = Map::anon(size)?;
        let mr = Mr::new(pd, map.addr(), size, access)
            .with_context(|| format!("registering {size} bytes with access {access:#x}"))?;
        Ok(Self {
            mr,
            map,
            model: vec![0; size],
        })
    }

    /// Its pages stay small and its translations stay, so that they can be counted. To be called before they are touched.
    pub fn small_pages(self) -> Result<Self> {
        self.map.advise(0, self.size(), libc::MADV_NOHUGEPAGE)?;
        // No other mapping has this flag, so none beside it is merged with it. A stack, also without huge pages, would be: the
        // one that a child is started on, for one. When it goes the VM splits the mapping, and says that 2 MiB around the place
        // change, if the mapping spans them, whether or not there is a huge page (vma_adjust_trans_huge() in mm/huge_memory.c).
        self.map.advise(0, self.size(), libc::MADV_DONTDUMP)?;
        Ok(self)
    }

    /// Ends the registration; one that is refused comes back.
    pub fn deregister(self) -> Result<(), (Self, io::Error)> {
        let Self { mr, map, model } = self;
        mr.deregister()
            .map_err(|(mr, error)| (Self { mr, map, model }, error))
    }

    /// The address of its first byte.
    pub fn addr(&self) -> usize {
        self.map.addr()
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.model.len()
    }

    /// Its memory.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// A local element.
    pub fn sge(&self, off: usize, len: usize) -> ffi::ibv_sge {
        ffi::ibv_sge {
            addr: (self.map.addr() + off) as u64,
            length: len as u32,
            lkey: self.mr.lkey(),
        }
    }

    /// A remote piece.
    pub fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.rkey(),
        }
    }

    /// Writes pattern `seed` by the CPU.
    pub fn fill(&mut self, off: usize, len: usize, seed: u64) {
        pattern(seed, 0, &mut self.model[off..off + len]);
        self.map.write(off, &self.model[off..off + len]);
    }

    /// What it must hold.
    pub fn holds(&self, off: usize, len: usize) -> &[u8] {
        &self.model[off..off + len]
    }

    /// From now on it must hold `bytes` at `off`.
    pub fn expect(&mut self, off: usize, bytes: &[u8]) {
        self.model[off..off + bytes.len()].copy_from_slice(bytes);
    }

    /// Accepts what `len` bytes at `off` are, for those that only the device knows. Returns them.
    pub fn accept(&mut self, off: usize, len: usize) -> &[u8] {
        let bytes = &mut self.model[off..off + len];
        self.map.read(off, bytes);
        bytes
    }

    /// Takes all translations away and keeps the bytes: the next access faults.
    pub fn cool(&self) -> Result<()> {
        self.map.protect(0, self.size(), libc::PROT_READ)?;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        Ok(self.map.protect(0, self.size(), both)?)
    }

    /// Compares all of it with the model.
    pub fn check(&self, what: &str) -> Result<()> {
        self.map
            .compare(0, self.size(), |at, out| {
                out.copy_from_slice(&self.model[at..at + out.len()]);
            })
            .ok(what)
    }
}

/// Sizes around pages and packets.
pub const LENGTHS: [usize; 10] = [
    1,
    7,
    100,
    1023,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    5003,
    2 * PAGE,
    20_011,
];
