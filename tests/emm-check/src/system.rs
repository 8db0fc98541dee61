//! The guest around us: the backend switch of rxe, /proc numbers, swap, external commands.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Written at run time, it decides what new on-demand regions of rxe are.
pub const BACKEND: &str = "/sys/module/rdma_rxe/parameters/mr_backend";

/// The kinds of region that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Pages pinned at registration.
    Pinned,
    /// On demand, in-tree implementation.
    Odp,
    /// On demand, EMM notifier.
    Emm,
    /// On demand, whatever the module is switched to.
    Ondemand,
}

impl Kind {
    /// The name used in lines; `Ondemand` is resolved to what is active.
    pub fn label(self) -> &'static str {
        match self.resolve() {
            Self::Pinned => "pinned",
            Self::Emm => "emm",
            Self::Odp | Self::Ondemand => "odp",
        }
    }

    /// `Ondemand` replaced by the active backend; a module without the switch is the stock one.
    pub fn resolve(self) -> Self {
        match self {
            Self::Ondemand if backend().as_deref() == Some("emm") => Self::Emm,
            Self::Ondemand => Self::Odp,
            other => other,
        }
    }

    /// Switches the module to this kind. Says why when it can't.
    pub fn select(self, allow_stock: bool) -> Result<()> {
        let want = match self {
            Self::Pinned | Self::Ondemand => return Ok(()),
            Self::Odp => "odp",
            Self::Emm => "emm",
        };
        match backend() {
            None if want == "odp" && allow_stock => Ok(()),
            None => {
                bail!("{BACKEND} is missing: the stock rdma_rxe is loaded, not the patched one")
            }
            Some(now) if now == want => Ok(()),
            Some(_) => {
                fs::write(BACKEND, want).with_context(|| format!("writing {want} to {BACKEND}"))
            }
        }
    }

    /// The access flags that make a region of this kind.
    pub fn flags(self) -> u32 {
        if self == Self::Pinned {
            0
        } else {
            crate::ffi::IBV_ACCESS_ON_DEMAND
        }
    }
}

/// The active backend, or None with the stock module.
pub fn backend() -> Option<String> {
    fs::read_to_string(BACKEND)
        .ok()
        .map(|s| s.trim().to_owned())
}

/// The running kernel's release.
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A `VmXxx:` value of a process in KiB; 0 when it is gone or the kernel has no such line.
pub fn vm_kib(pid: &str, field: &str) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return 0;
    };
    status
        .lines()
        .find_map(|l| {
            l.strip_prefix(field)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// A counter of /proc/vmstat.
pub fn vmstat(name: &str) -> u64 {
    let Ok(text) = fs::read_to_string("/proc/vmstat") else {
        return 0;
    };
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

/// A field of the smaps entries that overlap `addr..addr + len`, summed, in KiB.
pub fn smaps_kib(addr: usize, len: usize, field: &str) -> u64 {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    let mut inside = false;
    let mut sum = 0;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|r| r.split_once('-'));
        let range = range.and_then(|(a, b)| {
            Some((
                usize::from_str_radix(a, 16).ok()?,
                usize::from_str_radix(b, 16).ok()?,
            ))
        });
        if let Some((start, end)) = range {
            inside = start < addr + len && addr < end;
        } else if inside {
            if let Some(v) = line.strip_prefix(field).and_then(|l| l.strip_prefix(':')) {
                sum += v
                    .split_whitespace()
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
    }
    sum
}

/// Runs a command; its output is in the error when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !out.status.success() {
        bail!(
            "{program} {}: {}: {}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Makes sure that there is swap: what is configured already, else a zram device of 512 MiB. Returns what it is.
pub fn ensure_swap() -> Result<String> {
    let active = || -> Option<String> {
        let swaps = fs::read_to_string("/proc/swaps").ok()?;
        swaps
            .lines()
            .nth(1)?
            .split_whitespace()
            .next()
            .map(str::to_owned)
    };
    if let Some(name) = active() {
        return Ok(name);
    }
    if !Path::new("/sys/block/zram0").exists() {
        run("modprobe", &["zram"])?;
    }
    fs::write("/sys/block/zram0/disksize", "536870912").context("setting the size of zram0")?;
    run("mkswap", &["/dev/zram0"])?;
    // SAFETY: the path is a NUL-terminated string. The swapon program is not in every root.
    if unsafe { libc::swapon(c"/dev/zram0".as_ptr(), 0) } != 0 {
        bail!("swapon of /dev/zram0: {}", std::io::Error::last_os_error());
    }
    active().context("swapon succeeded but /proc/swaps is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_seen() {
        assert!(vm_kib("self", "VmRSS") > 100);
        assert_eq!(vm_kib("self", "VmNoSuch"), 0);
        let map = crate::mem::Map::anon(64 << 12).unwrap();
        map.set(0, map.len(), 1);
        assert!(smaps_kib(map.addr(), map.len(), "Rss") >= 256);
    }
}
