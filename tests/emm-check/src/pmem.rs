//! Persistent memory, as `memmap=512M!1G` makes it of a part of the guest's own, with a file system whose files are mapped
//! directly (DAX).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::system::run;

const DEVICE: &str = "/dev/pmem0";

/// A file system on persistent memory, mounted until it is dropped.
pub struct Pmem(PathBuf);

impl Pmem {
    /// Whether there is such memory.
    pub fn is_there() -> bool {
        let modules = ["nd_e820", "nd_pmem"];
        modules.iter().all(|name| run("modprobe", &[name]).is_ok()) && Path::new(DEVICE).exists()
    }

    /// A new one.
    pub fn new() -> Result<Self> {
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", DEVICE])?;
        let folder = PathBuf::from(format!("/tmp/emm-check-pmem-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let name = folder.to_string_lossy().into_owned();
        run("mount", &["-t", "ext4", "-o", "dax", DEVICE, &name])?;
        Ok(Self(folder))
    }

    /// A new file of `len` bytes, all of which have blocks.
    pub fn file(&self, len: usize) -> Result<File> {
        let path = self.0.join("file");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("making {}", path.display()))?;
        fs::remove_file(&path)?;
        file.write_all_at(&vec![0; len], 0)?;
        Ok(file)
    }
}

impl Drop for Pmem {
    fn drop(&mut self) {
        let name = self.0.to_string_lossy().into_owned();
        if let Err(error) = run("umount", &[&name]) {
            eprintln!("{error:#}");
        }
        let _ = fs::remove_dir(&self.0);
    }
}
