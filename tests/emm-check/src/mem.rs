//! Mapped memory that may change under our feet, and the byte patterns it is checked with.
//!
//! A [`Map`] is only ever touched through copies with raw pointers, chunk by chunk, never through references: the device and
//! the VM change it at any time.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::ptr;

use anyhow::{Result, bail};

/// The page size these checks assume (x86-64, arm64 with 4 KiB pages).
pub const PAGE: usize = 4096;
const CHUNK: usize = 4096;

/// A small seeded generator (SplitMix64); also the hash behind the patterns.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; `n` is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A length in `1..=max`, small ones as likely as big ones (uniform in its logarithm).
    pub fn length(&mut self, max: usize) -> usize {
        let bits = (usize::BITS - max.leading_zeros()) as usize;
        let top = 1usize << self.below(bits);
        (top + self.below(top)).min(max)
    }
}

/// The bytes of pattern `seed` at positions `at..at + out.len()`.
pub fn pattern(seed: u64, at: usize, out: &mut [u8]) {
    let mut word = (at / 8) as u64;
    let mut skip = at % 8;
    let mut out = out;
    while !out.is_empty() {
        let x = (word ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes = (x ^ (x >> 29)).to_le_bytes();
        let n = (8 - skip).min(out.len());
        let (head, tail) = out.split_at_mut(n);
        head.copy_from_slice(&bytes[skip..skip + n]);
        out = tail;
        skip = 0;
        word += 1;
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Bytes that differ.
    pub count: usize,
    /// Position of the first one.
    pub first: usize,
}

impl Wrong {
    /// Whether nothing differs.
    pub fn none(&self) -> bool {
        self.count == 0
    }

    /// Adds what another comparison found.
    pub fn add(&mut self, other: Self) {
        if self.count == 0 {
            self.first = other.first;
        }
        self.count += other.count;
    }

    /// An error that names `what` unless nothing differs.
    pub fn ok(&self, what: &str) -> Result<()> {
        if !self.none() {
            bail!("{what}: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong bytes", self.count)?;
        if self.count > 0 {
            write!(f, ", first at offset {:#x}", self.first)?;
        }
        Ok(())
    }
}

/// A mapping of this process.
pub struct Map {
    addr: usize,
    len: usize,
}

impl Map {
    /// Private anonymous memory, readable and writable.
    pub fn anon(len: usize) -> io::Result<Self> {
        Self::with(0, len, libc::PROT_READ | libc::PROT_WRITE, 0, -1)
    }

    /// The same at a 2 MiB boundary, so that huge pages fit.
    pub fn anon_huge_aligned(len: usize) -> io::Result<Self> {
        const HUGE: usize = 2 << 20;
        let whole = Self::anon(len + HUGE)?;
        let start = whole.addr.next_multiple_of(HUGE);
        let end = whole.addr + whole.len;
        let base = whole.addr;
        std::mem::forget(whole);
        if start > base {
            unmap(base, start - base);
        }
        if end > start + len {
            unmap(start + len, end - start - len);
        }
        Ok(Self { addr: start, len })
    }

    /// A shared mapping of a file from `at` on, readable and writable.
    pub fn of_file(len: usize, fd: i32, at: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        Self::mmap(0, len, access, libc::MAP_SHARED, (fd, at))
    }

    /// `mmap` with everything chosen: `addr` 0 lets the kernel choose, else the mapping there is replaced. `fd` -1 is anonymous.
    pub fn with(addr: usize, len: usize, prot: i32, flags: i32, fd: i32) -> io::Result<Self> {
        Self::mmap(addr, len, prot, flags, (fd, 0))
    }

    fn mmap(
        addr: usize,
        len: usize,
        prot: i32,
        flags: i32,
        (fd, at): (i32, usize),
    ) -> io::Result<Self> {
        let mut flags = flags;
        if flags & libc::MAP_SHARED == 0 {
            flags |= libc::MAP_PRIVATE;
        }
        if fd < 0 {
            flags |= libc::MAP_ANONYMOUS;
        }
        if addr != 0 {
            flags |= libc::MAP_FIXED;
        }
        // SAFETY: a fixed address is one of a Map that the caller owns; no Rust object lives there.
        let p = unsafe { libc::mmap(addr as *mut _, len, prot, flags, fd, at as i64) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            addr: p as usize,
            len,
        })
    }

    /// Takes over memory that is mapped already: it is unmapped with this object.
    pub fn adopt(addr: usize, len: usize) -> Self {
        Self { addr, len }
    }

    /// The first address.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// The length in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the kernel makes no empty mapping"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    fn at(&self, off: usize, len: usize) -> *mut u8 {
        assert!(
            off <= self.len && len <= self.len - off,
            "access inside the map"
        );
        (self.addr + off) as *mut u8
    }

    /// Copies from the map.
    pub fn read(&self, off: usize, out: &mut [u8]) {
        let p = self.at(off, out.len());
        // SAFETY: the range is inside the map, and `out` is memory of its own.
        unsafe { ptr::copy_nonoverlapping(p, out.as_mut_ptr(), out.len()) };
    }

    /// Copies to the map.
    pub fn write(&self, off: usize, data: &[u8]) {
        let p = self.at(off, data.len());
        // SAFETY: the range is inside the map, and `data` is memory of its own.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), p, data.len()) };
    }

    /// Sets `len` bytes to `byte`.
    pub fn set(&self, off: usize, len: usize, byte: u8) {
        let p = self.at(off, len);
        // SAFETY: the range is inside the map.
        unsafe { ptr::write_bytes(p, byte, len) };
    }

    /// Writes pattern `seed`, whose position at `off` is `pos`.
    pub fn fill(&self, off: usize, len: usize, seed: u64, pos: usize) {
        let mut buf = [0; CHUNK];
        let mut done = 0;
        while done < len {
            let n = CHUNK.min(len - done);
            pattern(seed, pos + done, &mut buf[..n]);
            self.write(off + done, &buf[..n]);
            done += n;
        }
    }

    /// Compares with pattern `seed`, whose position at `off` is `pos`.
    pub fn check(&self, off: usize, len: usize, seed: u64, pos: usize) -> Wrong {
        self.compare(off, len, |at, out| pattern(seed, pos + at, out))
    }

    /// Compares with `byte`.
    pub fn check_byte(&self, off: usize, len: usize, byte: u8) -> Wrong {
        self.compare(off, len, |_, out| out.fill(byte))
    }

    /// Compares with what `expect` writes (given the position relative to `off`).
    pub fn compare(
        &self,
        off: usize,
        len: usize,
        mut expect: impl FnMut(usize, &mut [u8]),
    ) -> Wrong {
        let mut want = [0; CHUNK];
        let mut have = [0; CHUNK];
        let mut wrong = Wrong::default();
        let mut done = 0;
        while done < len {
            let n = CHUNK.min(len - done);
            expect(done, &mut want[..n]);
            self.read(off + done, &mut have[..n]);
            if want[..n] != have[..n] {
                for i in (0..n).filter(|&i| want[i] != have[i]) {
                    if wrong.count == 0 {
                        wrong.first = off + done + i;
                    }
                    wrong.count += 1;
                }
            }
            done += n;
        }
        wrong
    }

    /// The entry of each page in /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
    pub fn entries(&self) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; self.len / PAGE * 8];
        let at = (self.addr / PAGE * 8) as u64;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut bytes, at)?;
        let word = |bytes: &[u8]| {
            let high_first = bytes.iter().rev();
            high_first.fold(0, |all, byte| all << 8 | u64::from(*byte))
        };
        Ok(bytes.chunks_exact(8).map(word).collect())
    }

    /// `madvise` on a part.
    pub fn advise(&self, off: usize, len: usize, advice: i32) -> io::Result<()> {
        let p = self.at(off, len);
        // SAFETY: the range is inside the map, which nothing refers to by reference.
        check(unsafe { libc::madvise(p.cast(), len, advice) })
    }

    /// `mprotect` on a part.
    pub fn protect(&self, off: usize, len: usize, prot: i32) -> io::Result<()> {
        let p = self.at(off, len);
        // SAFETY: as in `advise`.
        check(unsafe { libc::mprotect(p.cast(), len, prot) })
    }

    /// Unmaps a part and leaves a hole; the address range stays this object's.
    pub fn punch(&self, off: usize, len: usize) -> io::Result<()> {
        let p = self.at(off, len);
        // SAFETY: as in `advise`; callers do not touch the hole.
        check(unsafe { libc::munmap(p.cast(), len) })
    }

    /// Maps new zeroed memory over a part.
    pub fn renew(&self, off: usize, len: usize) -> io::Result<()> {
        let p = self.at(off, len) as usize;
        let new = Self::with(p, len, libc::PROT_READ | libc::PROT_WRITE, 0, -1)?;
        std::mem::forget(new);
        Ok(())
    }

    /// Moves a part to address `to` (which is replaced there), leaving a hole.
    pub fn move_to(&self, off: usize, len: usize, to: usize) -> io::Result<()> {
        remap(self.at(off, len) as usize, len, to)
    }
}

/// Moves a mapping between two addresses that the caller's Maps own.
pub fn remap(from: usize, len: usize, to: usize) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both ranges belong to Maps of the caller, which nothing refers to by reference.
    let p = unsafe { libc::mremap(from as *mut _, len, len, flags, to as *mut libc::c_void) };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn check(ret: i32) -> io::Result<()> {
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn unmap(addr: usize, len: usize) {
    // SAFETY: called with parts of a map that its owner gives up.
    unsafe { libc::munmap(addr as *mut _, len) };
}

impl Drop for Map {
    fn drop(&mut self) {
        unmap(self.addr, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_depends_on_position_only() {
        let mut whole = [0; 100];
        pattern(7, 0, &mut whole);
        for start in 0..20 {
            let mut part = [0; 60];
            pattern(7, start, &mut part);
            assert_eq!(part[..], whole[start..start + 60]);
        }
    }

    #[test]
    fn one_flipped_byte_is_found() {
        let map = Map::anon(3 * PAGE).unwrap();
        map.fill(11, 9000, 3, 500);
        assert!(map.check(11, 9000, 3, 500).none());
        let mut byte = [0];
        map.read(7777, &mut byte);
        map.write(7777, &[!byte[0]]);
        assert_eq!(
            map.check(11, 9000, 3, 500),
            Wrong {
                count: 1,
                first: 7777
            }
        );
    }

    #[test]
    fn lengths_stay_in_range() {
        let mut rng = Rng(1);
        for max in [1, 2, 3, 1000, 1 << 20] {
            assert!(
                (0..1000)
                    .map(|_| rng.length(max))
                    .all(|n| (1..=max).contains(&n))
            );
        }
    }
}
