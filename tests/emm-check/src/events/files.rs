//! Memory that belongs to a file: memfd, tmpfs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::mapping::{REMOTE, expect};
use crate::mem::{Map, PAGE, pattern};
use crate::qp::Op;
use crate::system::nameless_file;
use crate::target::Target;

const SIZE: usize = 1 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The cases.
pub fn files(c: &Ctx<'_>) -> Result<()> {
    c.case(
        "memfd: read(2) sees what RDMA wrote, and back",
        through(c, memfd(SIZE)?),
    );
    c.case("file of tmpfs: the same", through(c, tmpfs()?));
    c.case("memfd: hole punched", punched(c));
    c.case("memfd: truncated and grown", truncated(c));
    c.case("private mapping: the file keeps its bytes", private(c));
    Ok(())
}

/// A file in memory of `len` bytes.
pub(super) fn memfd(len: usize) -> Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"emm-check".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("memfd_create");
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file)
}

/// A file without a name on tmpfs.
fn tmpfs() -> Result<File> {
    let file = nameless_file("/tmp")?;
    file.set_len(SIZE as u64)?;
    Ok(file)
}

fn shared(c: &Ctx<'_>, file: &File) -> Result<Target> {
    let map = Map::with(0, SIZE, RW, libc::MAP_SHARED, file.as_raw_fd())?;
    Target::new(c.env, c.kind, map)
}

/// That the file holds pattern `seed` from `off` on.
fn holds(file: &File, off: usize, len: usize, seed: u64) -> Result<()> {
    let (mut found, mut wanted) = (vec![0; len], vec![0; len]);
    file.read_exact_at(&mut found, off as u64)?;
    pattern(seed, off, &mut wanted);
    let wrong = found.iter().zip(&wanted).filter(|(a, b)| a != b).count();
    if wrong > 0 {
        bail!("{wrong} wrong bytes in the file");
    }
    Ok(())
}

fn through(c: &Ctx<'_>, file: File) -> Result<String> {
    let t = shared(c, &file)?;
    t.write(1, SIZE - 1, c.seed(1))?;
    holds(&file, 1, SIZE - 1, c.seed(1))?;
    let mut bytes = vec![0; 70_001];
    pattern(c.seed(2), 5000, &mut bytes);
    file.write_all_at(&bytes, 5000)?;
    t.read(5000, bytes.len(), c.seed(2))?;
    t.read(1, 4999, c.seed(1))?;
    Ok(format!("{SIZE} bytes, 0 wrong"))
}

fn punched(c: &Ctx<'_>) -> Result<String> {
    let file = memfd(SIZE)?;
    let t = shared(c, &file)?;
    t.write(0, SIZE, c.seed(1))?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (off, len) = (16 * PAGE, 32 * PAGE);
    // SAFETY: takes numbers only.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, off as i64, len as i64) } != 0 {
        return Err(io::Error::last_os_error()).context("fallocate");
    }
    t.read_cmp(off, len, |_, out| out.fill(0))?;
    t.read(1, off - 1, c.seed(1))?;
    t.read(off + len, SIZE - off - len, c.seed(1))?;
    t.write(off + 7, len - 7, c.seed(2))?;
    holds(&file, off + 7, len - 7, c.seed(2))?;
    Ok("the hole reads as zero and can be written; the rest keeps its bytes".into())
}

fn truncated(c: &Ctx<'_>) -> Result<String> {
    let file = memfd(SIZE)?;
    let mut t = shared(c, &file)?;
    t.spare_qps(1)?;
    t.write(0, SIZE, c.seed(1))?;
    let half = SIZE / 2;
    file.set_len(half as u64)?;
    let beyond = t.remote(half + PAGE + 3);
    let result = t.qp().run(Op::Write, t.bounce_piece(64), 100, beyond);
    let said = expect(result, &REMOTE, "WRITE beyond the end of the file")?;
    t.new_qp()?;
    t.read(1, half - 1, c.seed(1))?;
    file.set_len(SIZE as u64)?;
    t.read_cmp(half, half, |_, out| out.fill(0))?;
    t.write(half + 9, half - 9, c.seed(2))?;
    holds(&file, half + 9, half - 9, c.seed(2))?;
    Ok(format!(
        "beyond the end: {said}; grown again, it reads as zero and can be written"
    ))
}

fn private(c: &Ctx<'_>) -> Result<String> {
    let file = memfd(SIZE)?;
    let mut bytes = vec![0; SIZE];
    pattern(c.seed(1), 0, &mut bytes);
    file.write_all_at(&bytes, 0)?;
    let map = Map::with(0, SIZE, RW, 0, file.as_raw_fd())?;
    let t = Target::new(c.env, c.kind, map)?;
    t.read(1, SIZE - 1, c.seed(1))?;
    t.write(4097, 50_000, c.seed(2))?;
    t.read(1, 4096, c.seed(1))?;
    t.read(4097, 50_000, c.seed(2))?;
    t.cpu_check(4097, 50_000, c.seed(2))?;
    holds(&file, 0, SIZE, c.seed(1))?;
    Ok("the writes stay in the mapping".into())
}
