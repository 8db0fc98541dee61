//! What every measurement starts from: the device, and memory registered on it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use emm_check::mem::Map;
use emm_check::qp::{Piece, Qp};
use emm_check::verbs::{ALL_ACCESS, Device, Link, Mr, Pd};

use crate::who::Kind;

/// Path MTU of all queue pairs.
const MTU: u32 = 4096;
/// By the routable GID of Soft-RoCE; what has no answer is sent again after 268 ms.
const LINK: Link = Link {
    gid_index: 1,
    ack_timeout: 16,
    retries: 7,
};

/// The device.
pub struct Rig {
    pd: Arc<Pd>,
}

impl Rig {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let device = Device::open("rxe0", LINK)?;
        Ok(Self {
            pd: Pd::new(&device)?,
        })
    }

    /// The protection domain of everything.
    pub fn pd(&self) -> &Pd {
        &self.pd
    }

    /// A pair of connected queue pairs.
    pub fn qp(&self) -> Result<Qp> {
        Qp::new(&self.pd, MTU)
    }

    /// Registers a range of addresses as `kind`, which [`Kind::select`] has chosen; as implicit: everything.
    pub fn register(&self, kind: Kind, addr: usize, len: usize) -> io::Result<Mr> {
        let (addr, len) = match kind {
            Kind::Implicit => (0, usize::MAX),
            _ => (addr, len),
        };
        Mr::new(&self.pd, addr, len, ALL_ACCESS | kind.flags())
    }

    /// Registers all of `map` as `kind`.
    pub fn area(&self, kind: Kind, map: Map) -> Result<Area> {
        kind.select()?;
        let mr = self
            .register(kind, map.addr(), map.len())
            .with_context(|| format!("registering {} bytes", map.len()))?;
        Ok(Area { mr, map })
    }

    /// Pinned memory of `len` bytes with something in it: the other end of traffic to a region.
    pub fn source(&self, len: usize) -> Result<Area> {
        let map = small_pages(len)?;
        map.fill(0, len, 1, 0);
        self.area(Kind::Pinned, map)
    }
}

/// Registered memory. The registration ends before the mapping.
pub struct Area {
    mr: Mr,
    /// The memory.
    pub map: Map,
}

impl Area {
    /// The place at `off`, for the side that posts.
    pub fn local(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.lkey(),
        }
    }

    /// The place at `off`, for the other side.
    pub fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: (self.map.addr() + off) as u64,
            key: self.mr.rkey(),
        }
    }
}

/// Untouched memory that gets pages of 4 KiB.
pub fn small_pages(len: usize) -> Result<Map> {
    advised(len, libc::MADV_NOHUGEPAGE)
}

/// Untouched memory that gets transparent huge pages.
pub fn huge_pages(len: usize) -> Result<Map> {
    advised(len, libc::MADV_HUGEPAGE)
}

fn advised(len: usize, advice: i32) -> Result<Map> {
    let map = Map::anon_huge_aligned(len).with_context(|| format!("mapping {len} bytes"))?;
    map.advise(0, len, advice)
        .context("choosing the page size")?;
    Ok(map)
}

/// Touches each page of 4 KiB by the CPU.
pub fn touch(map: &Map) {
    for off in (0..map.len()).step_by(emm_check::mem::PAGE) {
        map.write(off, &[1]);
    }
}

/// What `work` gives, and how long it takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// In microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A length in words: `64 KiB`.
pub fn size(bytes: usize) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_in_words() {
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(1 << 40), "1 TiB");
        assert_eq!(size(5000), "5000 B");
        assert_eq!(size(3 << 20), "3 MiB");
    }
}
