//! Memory that belongs to a file.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};

use crate::matrix::scene::Scene;
use crate::matrix::side::Allows;
use crate::mem::PAGE;

fn file<'a>(s: &'a Scene<'_>) -> Result<&'a File> {
    s.file.as_ref().context("the scene has a file")
}

/// That the file holds the stage's bytes.
fn same_in_file(s: &Scene<'_>, what: &str) -> Result<()> {
    let mut found = vec![0; s.stage.len()];
    file(s)?.read_exact_at(&mut found, s.stage.at(0) as u64)?;
    let wanted = s.stage.model(s.all());
    let wrong = found.iter().zip(wanted).filter(|(a, b)| a != b).count();
    if wrong > 0 {
        bail!("{what}: {wrong} wrong bytes in the file");
    }
    Ok(())
}

/// Behind the end of the file there is no memory; when it grows again, it is zero.
pub fn truncate(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for _ in 0..3 {
        s.traffic(6)?;
        let half = s.stage.len() / 2..s.stage.len();
        s.stage.stock(2)?;
        let end = s.stage.at(half.start) as u64;
        file(s)?.set_len(end)?;
        let refused = s.obey(Allows::Nothing, half.clone());
        file(s)?.set_len(end + half.len() as u64)?;
        refused.context("behind the end of the file")?;
        s.stage.zero(half.clone());
        s.traffic_in(half, 4)?;
        same_in_file(s, "grown again")?;
        s.stage.verify("the stage")?;
    }
    Ok("3 times truncated and grown".into())
}

pub fn punch_hole(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for _ in 0..4 {
        s.traffic(6)?;
        let range = s.pages(4);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let at = s.stage.at(range.start) as i64;
        // SAFETY: takes numbers only.
        let ret = unsafe { libc::fallocate(file(s)?.as_raw_fd(), mode, at, range.len() as i64) };
        if ret != 0 {
            bail!("fallocate: {}", std::io::Error::last_os_error());
        }
        s.stage.zero(range.clone());
        s.traffic_in(range, 4)?;
        s.stage.verify("the stage")?;
        same_in_file(s, "after the hole")?;
    }
    Ok("4 holes read as zero and take new bytes".into())
}

/// Pages are written back, become clean and read-only, are dropped, and come from the disk again.
pub fn writeback(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    for _ in 0..4 {
        s.traffic(8)?;
        file(s)?.sync_all().context("fsync")?;
        // Clean now: what the device writes must make them dirty again.
        s.traffic(8)?;
        file(s)?.sync_all().context("fsync")?;
        for _ in 0..3 {
            s.advise(&s.all(), libc::MADV_PAGEOUT)?;
        }
        let (from, len) = (s.stage.at(0) as i64, s.stage.len() as i64);
        // SAFETY: takes numbers only.
        unsafe { libc::posix_fadvise(file(s)?.as_raw_fd(), from, len, libc::POSIX_FADV_DONTNEED) };
        s.stage.verify("from the disk")?;
        same_in_file(s, "from the disk")?;
    }
    let pages = s.stage.len() / PAGE;
    Ok(format!("{pages} pages written back 8 times"))
}
