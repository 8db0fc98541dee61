//! The guest around us: the backend switch of rxe, /proc numbers, swap, external commands.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
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

/// Whether something listens on TCP port `port`.
pub fn listens_on(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|f| {
        fs::read_to_string(f).is_ok_and(|t| {
            t.lines().any(|l| {
                let mut words = l.split_whitespace().skip(1);
                words.next().is_some_and(|a| a.ends_with(&wanted)) && words.nth(1) == Some("0A")
            })
        })
    })
}

/// That no connection gets TCP port `port` as its own. One that did could keep it from a server for a minute after its end.
pub fn reserved(port: u16) -> Result<()> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let ends: Vec<u16> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{FILE}: {text:?}"))?;
    match ends[..] {
        [first, last] if (first..=last).contains(&port) => bail!(
            "a connection may have the server's port {port}: net.ipv4.ip_local_port_range must begin above, not at {first}"
        ),
        _ => Ok(()),
    }
}

/// Mounts debugfs, if it is not there.
pub fn debugfs() -> Result<()> {
    const FOLDER: &str = "/sys/kernel/debug";
    if !Path::new(FOLDER).join("sched").exists() && !Path::new(FOLDER).join("ib_emm").exists() {
        run("mount", &["-t", "debugfs", "none", FOLDER])?;
    }
    Ok(())
}

/// What debugfs says of a region of ib_emm.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Translations in its table, in pages.
    pub resident: u64,
    /// Memory of its table.
    pub table_bytes: u64,
}

/// This process's region that starts at `start`.
pub fn region(start: usize) -> Result<Seen> {
    region_of(std::process::id(), start)
}

/// A process's region that starts at `start`.
pub fn region_of(pid: u32, start: usize) -> Result<Seen> {
    const FILE: &str = "/sys/kernel/debug/ib_emm/regions";
    debugfs()?;
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let mine = format!("{pid} {start:#x} ");
    let line = text
        .lines()
        .find(|l| l.starts_with(&mine))
        .with_context(|| format!("no region at {start:#x} in {FILE}"))?;
    let numbers: Vec<u64> = line
        .split(' ')
        .skip(3)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{FILE} says {line:?}"))?;
    let [resident, table_bytes, ..] = numbers[..] else {
        bail!("{FILE} says {line:?}");
    };
    Ok(Seen {
        resident,
        table_bytes,
    })
}

/// A memory cgroup (version 2), removed when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    const ROOT: &str = "/sys/fs/cgroup";

    /// Makes one of memory alone.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, "+memory")
    }

    /// Makes one of these controllers, as `cgroup.subtree_control` takes them.
    pub fn with(name: &str, controllers: &str) -> Result<Self> {
        let control = Path::new(Self::ROOT).join("cgroup.subtree_control");
        if !control.exists() {
            run("mount", &["-t", "cgroup2", "none", Self::ROOT])?;
        }
        fs::write(&control, controllers)
            .with_context(|| format!("writing {controllers} to {}", control.display()))?;
        let path = Path::new(Self::ROOT).join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// Writes one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Moves a process out, to the root.
    pub fn leave(pid: u32) -> Result<()> {
        let path = Path::new(Self::ROOT).join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| format!("writing to {}", path.display()))
    }

    /// Moves a process in.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Asks for `bytes` of its memory back; fails if less came.
    pub fn reclaim(&self, bytes: usize) -> Result<()> {
        self.write("memory.reclaim", &bytes.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It stays only if a process is still in it; then the guest's end takes it away.
        fs::remove_dir(&self.0).ok();
    }
}

/// The net device below an rxe device.
pub fn netdev_of(device: &str) -> Result<String> {
    let parent = format!("/sys/class/infiniband/{device}/parent");
    let name = fs::read_to_string(&parent).with_context(|| format!("reading {parent}"))?;
    Ok(name.trim().to_owned())
}

/// Makes an rxe device on a net device.
pub fn add_link(device: &str, netdev: &str) -> Result<()> {
    let words = ["link", "add", device, "type", "rxe", "netdev", netdev];
    run("rdma", &words).map(drop)
}

/// A file in `folder` that has lost its name: it goes with its descriptor.
pub fn nameless_file(folder: &str) -> Result<File> {
    let path = format!("{folder}/emm-check-{}", std::process::id());
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("creating {path}"))?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Whether the kernel, or a module, has something of that name.
pub fn has_symbol(name: &str) -> Result<bool> {
    const FILE: &str = "/proc/kallsyms";
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    Ok(text
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some(name)))
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
