//! The memory of a cell, and the steps that events are made of.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::side::{Allows, Side};
use super::traffic::Traffic;
use super::verb::Verb;
use crate::mem::{Map, PAGE, Rng};
use crate::system::nameless_file;

/// What a cell's region lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Private pages of 4 KiB
    Small,
    /// So much of them that a memory cgroup is too small
    Big,
    /// Transparent huge pages
    Huge,
    /// Huge pages of hugetlbfs
    Hugetlb,
    /// A memfd
    Memfd,
    /// A file on a disk
    File,
    /// The heap
    Heap,
}

/// The event can't happen on this machine.
#[derive(Debug)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

const HUGE: usize = 2 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Memory {
    /// Bytes of the wing and of the stage.
    fn sizes(self) -> (usize, usize) {
        match self {
            Self::Huge | Self::Hugetlb => (HUGE, 2 * HUGE),
            Self::Big => (32 * PAGE, 1024 * PAGE),
            _ => (32 * PAGE, 64 * PAGE),
        }
    }

    fn map(self, len: usize) -> Result<(Map, Option<File>)> {
        Ok(match self {
            Self::Small | Self::Big => {
                let map = Map::anon_huge_aligned(len)?;
                map.advise(0, len, libc::MADV_NOHUGEPAGE)?;
                (map, None)
            }
            Self::Huge => {
                let map = Map::anon_huge_aligned(len)?;
                map.advise(0, len, libc::MADV_HUGEPAGE)?;
                (map, None)
            }
            Self::Hugetlb => {
                let pool = "/proc/sys/vm/nr_hugepages";
                let want = len / HUGE + 1;
                std::fs::write(pool, want.to_string())
                    .with_context(|| format!("writing {want} to {pool}"))?;
                let map = Map::with(0, len, RW, libc::MAP_HUGETLB, -1).map_err(|e| {
                    Unfit(format!("no huge pages: memory is not in one piece ({e})"))
                })?;
                (map, None)
            }
            Self::Memfd => shared(memfd()?, len)?,
            Self::File => shared(nameless_file(crate::swap::disk_folder()?)?, len)?,
            Self::Heap => (heap(len)?, None),
        })
    }
}

fn shared(file: File, len: usize) -> Result<(Map, Option<File>)> {
    file.set_len(len as u64)?;
    let map = Map::with(0, len, RW, libc::MAP_SHARED, file.as_raw_fd())?;
    Ok((map, Some(file)))
}

fn memfd() -> Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"emm-matrix".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("memfd_create");
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Memory at the top of the heap, from the break on.
fn heap(len: usize) -> Result<Map> {
    let grow = |by: usize| {
        // SAFETY: the break only grows, by memory that nobody else gets.
        unsafe { libc::sbrk(by as isize) as usize }
    };
    let pad = grow(0).next_multiple_of(PAGE) - grow(0);
    grow(pad);
    let start = grow(len);
    if start == usize::MAX {
        return Err(io::Error::last_os_error()).context("sbrk");
    }
    Ok(Map::adopt(start, len))
}

/// A cell at work.
pub struct Scene<'a> {
    /// The operation.
    pub verb: Verb,
    /// What the event happens to.
    pub stage: Side<'a>,
    /// The file behind the region; the stage begins at [`Side::at`] of it.
    pub file: Option<File>,
    seed: u64,
}

impl<'a> Scene<'a> {
    /// Makes the memory, and its two sides, which `reach` makes ways to.
    pub fn set(
        reach: impl FnOnce(&Arc<Map>, [Range<usize>; 2]) -> Result<[Box<dyn Traffic + 'a>; 2]>,
        seed: u64,
        verb: Verb,
        memory: Memory,
        deadline: Instant,
    ) -> Result<(Self, Side<'a>)> {
        let (wing, stage) = memory.sizes();
        let (map, file) = memory.map(wing + stage)?;
        let map = Arc::new(map);
        let parts = [0..wing, wing..wing + stage];
        let [to_wing, to_stage] = reach(&map, parts.clone())?;
        let [wing, stage] = parts;
        let mut rng = Rng(seed ^ (verb as u64) << 40);
        let seed = rng.bits();
        let beside = Side::new(map.clone(), wing, to_wing, Rng(rng.bits()), deadline);
        let stage = Side::new(map, stage, to_stage, Rng(rng.bits()), deadline);
        let scene = Self {
            verb,
            stage,
            file,
            seed,
        };
        Ok((scene, beside))
    }

    /// Another seed for every `n`.
    pub fn seed(&self, n: u64) -> u64 {
        self.seed.wrapping_add(n.wrapping_mul(0x9e37_79b9))
    }

    /// All of the stage.
    pub fn all(&self) -> Range<usize> {
        0..self.stage.len()
    }

    /// The CPU fills the stage.
    pub fn fill(&mut self, n: u64) {
        self.stage.fill(self.all(), self.seed(n));
    }

    /// `n` operations at random places of the stage.
    pub fn traffic(&mut self, n: usize) -> Result<()> {
        self.traffic_in(self.all(), n)?;
        self.stage.verify_elsewhere()
    }

    /// `n` operations at random places of `range`.
    pub fn traffic_in(&mut self, range: Range<usize>, n: usize) -> Result<()> {
        (0..n).try_for_each(|_| self.stage.random(self.verb, range.clone()))
    }

    /// Operations in `range` that the memory does not allow are refused; the others succeed.
    pub fn obey(&mut self, allows: Allows, range: Range<usize>) -> Result<()> {
        self.stage.obey(self.verb, allows, range)
    }

    /// Some whole pages of the stage, at least `least`.
    pub fn pages(&mut self, least: usize) -> Range<usize> {
        let pages = self.stage.len() / PAGE;
        let n = least + self.stage.rng.below(pages / 2 - least);
        let first = self.stage.rng.below(pages - n);
        first * PAGE..(first + n) * PAGE
    }

    /// `madvise` on a part of the stage.
    pub fn advise(&self, range: &Range<usize>, advice: i32) -> io::Result<()> {
        let at = self.stage.at(range.start);
        self.stage.map().advise(at, range.len(), advice)
    }

    /// `mprotect` on a part of the stage.
    pub fn protect(&self, range: &Range<usize>, prot: i32) -> io::Result<()> {
        let at = self.stage.at(range.start);
        self.stage.map().protect(at, range.len(), prot)
    }

    /// The address of the stage's byte `off`.
    pub fn address(&self, off: usize) -> usize {
        self.stage.map().addr() + self.stage.at(off)
    }
}
