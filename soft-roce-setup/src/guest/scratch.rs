//! Files without a name that QEMU inherits: they are gone when it is.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::fs::MemfdFlags;

use super::options::Size;
use crate::context::Context;

/// A file in memory, without a name.
pub fn scratch_file(bytes: &[u8]) -> Result<File> {
    let fd = rustix::fs::memfd_create("soft-roce-setup", MemfdFlags::CLOEXEC)
        .context("cannot make a file in memory")?;
    let mut file = File::from(fd);
    file.write_all(bytes)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .context("cannot fill a file in memory")?;
    Ok(file)
}

/// A sparse file on the cache's disk that is gone when the guest is.
pub fn scratch_disk(context: &Context, size: Size) -> Result<OwnedFd> {
    let dir = context.cache.path("tmp");
    let make = || -> std::io::Result<File> {
        let file = tempfile::tempfile_in(&dir)?;
        file.set_len(size.0)?;
        Ok(file)
    };
    let file = make()
        .with_context(|| format!("cannot make a scratch disk of {size} in {}", dir.display()))?;
    Ok(file.into())
}
