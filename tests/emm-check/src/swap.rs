//! Block devices of the guest: what pages go out to, and a file system with writeback.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::system::run;

const ZRAM: &str = "/dev/zram0";
const DISK: &str = "/dev/vda";
/// Bytes of a zram device for swap.
const ZRAM_SIZE: &str = "536870912";

/// What swap lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Compressed memory. A page that comes in leaves nothing behind, so a lost mark of a write does not show.
    Zram,
    /// The scratch disk (`--disk`). A page that comes in clean may go again without being written.
    Disk,
}

impl Swap {
    /// Whether the guest has such a device, or can make one.
    pub fn is_there(self) -> bool {
        self == Self::Zram || Path::new(DISK).exists()
    }
}

/// The device that is swapped to, if there is one.
fn active() -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let first = swaps.lines().nth(1)?.split_whitespace().next()?;
    Some(first.to_owned())
}

/// Makes sure that there is swap: what is configured already, else a zram device of 512 MiB. Returns what it is.
pub fn ensure_swap() -> Result<String> {
    match active() {
        Some(device) => Ok(device),
        None => use_swap(Swap::Zram),
    }
}

/// Swaps to this and nothing else. Returns the device.
pub fn use_swap(swap: Swap) -> Result<String> {
    let device = match swap {
        Swap::Zram => ZRAM,
        Swap::Disk => DISK,
    };
    while let Some(other) = active() {
        if other == device {
            return Ok(other);
        }
        let path = CString::new(other.as_str())?;
        // SAFETY: a C string.
        if unsafe { libc::swapoff(path.as_ptr()) } != 0 {
            bail!("swapoff of {other}: {}", io::Error::last_os_error());
        }
    }
    match swap {
        Swap::Zram => make_zram()?,
        Swap::Disk if !Path::new(DISK).exists() => {
            bail!("there is no scratch disk {DISK} (--disk adds one)")
        }
        Swap::Disk => {}
    }
    run("mkswap", &["-f", device])?;
    let path = CString::new(device)?;
    // SAFETY: a C string. The swapon program is not in every root.
    if unsafe { libc::swapon(path.as_ptr(), 0) } != 0 {
        bail!("swapon of {device}: {}", io::Error::last_os_error());
    }
    active().context("swapon succeeded but /proc/swaps is empty")
}

/// A zram device that nothing uses, of the size for swap.
fn make_zram() -> Result<()> {
    if !Path::new("/sys/block/zram0").exists() {
        run("modprobe", &["zram"])?;
    }
    let size = "/sys/block/zram0/disksize";
    if fs::read_to_string(size)?.trim() == "0" {
        fs::write(size, ZRAM_SIZE).context("setting the size of zram0")?;
    }
    Ok(())
}

/// A folder on a file system that writes back to a block device: ext2 on a zram device of its own, made at the first call.
pub fn disk_folder() -> Result<&'static str> {
    const FOLDER: &str = "/tmp/emm-disk";
    let mounts = fs::read_to_string("/proc/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(FOLDER))
    {
        return Ok(FOLDER);
    }
    make_zram()?;
    let number =
        fs::read_to_string("/sys/class/zram-control/hot_add").context("another zram device")?;
    let number = number.trim();
    fs::write(format!("/sys/block/zram{number}/disksize"), "67108864").context("its size")?;
    let device = format!("/dev/zram{number}");
    run("busybox", &["mke2fs", "-b", "4096", &device])?;
    fs::create_dir_all(FOLDER).with_context(|| format!("creating {FOLDER}"))?;
    run("mount", &["-t", "ext4", &device, FOLDER])?;
    Ok(FOLDER)
}
