//! Memory and processors: the host's, and what the cgroups that this process is in leave of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::finding::{Finding, State};
use crate::exit::{self, coded};

/// MiB of memory for the guest, QEMU and the builds.
const MEMORY: u64 = 3 * 1024;
/// What QEMU takes beside a guest's memory, in MiB.
const QEMU_MIB: u64 = 512;
/// Processors below which a cgroup is told of: the guest has as many.
const CPUS: f64 = 2.0;

/// Whether there is memory enough.
pub(super) fn memory() -> Finding {
    let name = "memory";
    let Some(host) = meminfo("MemAvailable:") else {
        return Finding {
            state: State::Doubtful,
            ..Finding::there(name, "unknown")
        };
    };
    let group = Groups::of(Path::new("/")).memory_left();
    let limited = group.filter(|mib| *mib < host);
    let available = limited.unwrap_or(host);
    let (by, fix) = match limited {
        Some(_) => (
            ", by the limit of a memory cgroup",
            "give the container or the session more memory",
        ),
        None => ("", "end other programs, or use a host with more memory"),
    };
    let detail = format!("{available} MiB available{by} ({MEMORY} MiB needed)");
    if available >= MEMORY {
        return Finding::there(name, detail);
    }
    Finding::missing(name, detail, fix)
}

/// How many processors there are to use.
pub(super) fn processors() -> Finding {
    let name = "processors";
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    match Groups::of(Path::new("/")).cpus() {
        Some(cpus) if cpus < CPUS => Finding {
            state: State::Doubtful,
            ..Finding::missing(
                name,
                format!(
                    "{cpus:.1} by the limit of a CPU cgroup: builds and emulated guests are slow"
                ),
                "give the container or the session two CPUs",
            )
        },
        _ => Finding::there(name, count.to_string()),
    }
}

/// Fails if `guests` guests of `bytes` in all can't be had here. QEMU takes memory as the guest touches it, so a little
/// less than all is worth a try.
pub fn guest_memory(bytes: u64, guests: u32) -> Result<()> {
    let mib = bytes >> 20;
    let who = match guests {
        1 => "the guest".to_owned(),
        _ => format!("{guests} guests together"),
    };
    let fail = |what: String| {
        let message = format!(
            "--mem: {who} would have {mib} MiB, and {what}\n  what to do: choose less with --mem"
        );
        Err(coded(exit::HOST, message))
    };
    match (
        meminfo("MemTotal:"),
        Groups::of(Path::new("/")).memory_max(),
    ) {
        (Some(total), _) if mib > total => fail(format!("this host has {total} MiB in all")),
        (_, Some(max)) if mib > max => fail(format!("this process's memory cgroup has {max} MiB")),
        _ => Ok(()),
    }
}

/// Guests of `bytes` and of `cpus` CPUs that fit in here at once; one at least.
pub fn room_for_guests(bytes: u64, cpus: u32) -> usize {
    // This counts what a cgroup allows of them.
    let own = std::thread::available_parallelism().map_or(1, usize::from);
    let served = own / cpus.max(1) as usize;
    let available = meminfo("MemAvailable:").unwrap_or(0);
    let left = Groups::of(Path::new("/")).memory_left();
    let available = left.map_or(available, |mib| mib.min(available));
    let fit = available / ((bytes >> 20) + QEMU_MIB);
    served
        .min(usize::try_from(fit).unwrap_or(usize::MAX))
        .max(1)
}

/// MiB of a line of /proc/meminfo.
fn meminfo(name: &str) -> Option<u64> {
    meminfo_mib(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

fn meminfo_mib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// What a version of cgroups calls its files.
struct Names {
    max: &'static str,
    current: &'static str,
    /// Of memory.stat: pages of files, which go when memory is needed.
    files: [&'static str; 2],
}

const V1: Names = Names {
    max: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};
const V2: Names = Names {
    max: "memory.max",
    current: "memory.current",
    files: ["inactive_file", "active_file"],
};
/// From here on a number of version 1 stands for no limit.
const NO_LIMIT: u64 = 1 << 60;

/// The cgroups that this process is in, with all above them, from the narrowest on.
struct Groups {
    v2: Vec<PathBuf>,
    memory: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
}

impl Groups {
    /// Those in the file system at `root`.
    fn of(root: &Path) -> Self {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mount = root.join("sys/fs/cgroup");
        // NUMBER:CONTROLLERS:PATH
        let chain = |controller: &str, mount: &Path| {
            let own = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let names = parts.next()?;
                let path = parts.next()?.strip_prefix('/')?;
                names
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            });
            let Some(own) = own else { return Vec::new() };
            // A container may see its own group as the root, and still be told the host's name of it.
            let dir = mount.join(own);
            let dir = if dir.is_dir() { dir } else { mount.to_owned() };
            let all = dir.ancestors().take_while(|dir| dir.starts_with(mount));
            all.map(Path::to_owned).collect()
        };
        Self {
            v2: chain("", &mount),
            memory: chain("memory", &mount.join("memory")),
            cpu: chain("cpu", &mount.join("cpu")),
        }
    }

    /// The memory limit, in MiB; None without one.
    fn memory_max(&self) -> Option<u64> {
        let limits = self
            .memory_groups()
            .filter_map(|(dir, names)| limit(dir, names));
        limits.min().map(|bytes| bytes >> 20)
    }

    /// What the limits leave, in MiB; None without a limit.
    fn memory_left(&self) -> Option<u64> {
        let left = self.memory_groups().filter_map(|(dir, names)| {
            let used = number(&dir.join(names.current))?;
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            let files: u64 = stat
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(name, _)| names.files.contains(name))
                .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
                .sum();
            Some(limit(dir, names)?.saturating_sub(used.saturating_sub(files)))
        });
        left.min().map(|bytes| bytes >> 20)
    }

    fn memory_groups(&self) -> impl Iterator<Item = (&Path, &'static Names)> {
        let v2 = self.v2.iter().map(|dir| (dir.as_path(), &V2));
        v2.chain(self.memory.iter().map(|dir| (dir.as_path(), &V1)))
    }

    /// Processors that the limits leave; None without a limit.
    fn cpus(&self) -> Option<f64> {
        let v2 = self.v2.iter().filter_map(|dir| {
            let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            share(quota, period)
        });
        let v1 = self.cpu.iter().filter_map(|dir| {
            let read = |name| fs::read_to_string(dir.join(name)).ok();
            share(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
        });
        v2.chain(v1).reduce(f64::min)
    }
}

/// A limit; without one the file says `max`, or a number beyond all memory. The root of version 2 has none.
fn limit(dir: &Path, names: &Names) -> Option<u64> {
    number(&dir.join(names.max)).filter(|bytes| *bytes < NO_LIMIT)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Quota by period; without a limit the quota is `max` or -1.
fn share(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    Some(f64::from(number(quota)?) / f64::from(number(period).filter(|period| *period > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn write(root: &TempDir, path: &str, text: &str) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_line_of_meminfo() {
        let text = "MemTotal: 16000000 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(meminfo_mib(text, "MemAvailable:"), Some(2048));
        assert_eq!(meminfo_mib("x", "MemAvailable:"), None);
    }

    #[test]
    fn the_narrowest_memory_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let left = || Groups::of(root.path()).memory_left();
        assert_eq!(left(), None);
        write(&root, "proc/self/cgroup", "0::/pod/us\n");
        write(&root, "sys/fs/cgroup/pod/us/memory.max", "max\n");
        write(&root, "sys/fs/cgroup/pod/us/memory.current", "1048576\n");
        assert_eq!(left(), None);
        write(&root, "sys/fs/cgroup/pod/memory.max", "8388608\n");
        write(&root, "sys/fs/cgroup/pod/memory.current", "3145728\n");
        assert_eq!(left(), Some(5));
        write(&root, "sys/fs/cgroup/pod/us/memory.max", "2097152\n");
        assert_eq!(left(), Some(1));
        assert_eq!(Groups::of(root.path()).memory_max(), Some(2));
    }

    #[test]
    fn pages_of_files_are_no_use_of_memory() {
        let root = tempfile::tempdir().unwrap();
        write(&root, "proc/self/cgroup", "0::/us\n");
        write(&root, "sys/fs/cgroup/us/memory.max", "8388608\n");
        write(&root, "sys/fs/cgroup/us/memory.current", "8388608\n");
        write(
            &root,
            "sys/fs/cgroup/us/memory.stat",
            "anon 1\ninactive_file 3145728\nactive_file 1048576\n",
        );
        assert_eq!(Groups::of(root.path()).memory_left(), Some(4));
    }

    #[test]
    fn cgroups_of_version_1_count_too() {
        let root = tempfile::tempdir().unwrap();
        write(
            &root,
            "proc/self/cgroup",
            "4:cpu,cpuacct:/d/x\n3:memory:/d/x\n0::/\n",
        );
        // As a container sees it: its own group is the root.
        write(
            &root,
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write(
            &root,
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
            "2097152\n",
        );
        write(&root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        write(&root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        let groups = || Groups::of(root.path());
        assert_eq!((groups().memory_left(), groups().cpus()), (None, None));
        write(
            &root,
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "4194304\n",
        );
        write(&root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        assert_eq!(groups().memory_left(), Some(2));
        assert_eq!(groups().cpus(), Some(0.5));
    }

    #[test]
    fn a_share_of_the_processors() {
        let root = tempfile::tempdir().unwrap();
        write(&root, "proc/self/cgroup", "0::/pod/us\n");
        write(&root, "sys/fs/cgroup/pod/us/cpu.max", "max 100000\n");
        assert_eq!(Groups::of(root.path()).cpus(), None);
        write(&root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
        assert_eq!(Groups::of(root.path()).cpus(), Some(1.5));
    }
}
