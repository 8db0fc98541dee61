//! What a run was made on and with: this machine, the commit, the packages.

use std::fs;
use std::path::Path;

use super::report::Host;
use soft_roce_setup::proc::Cmd;

/// Packages whose versions matter.
const PACKAGES: [&str; 8] = [
    "qemu-system-x86",
    "libibverbs1",
    "perftest",
    "ucx-utils",
    "openmpi-bin",
    "gcc-14",
    "rustc",
    "libc6",
];

/// This machine. What can't be found out is empty.
pub fn host() -> Host {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let kib = field("/proc/meminfo", "MemTotal");
    let kib = kib
        .split(' ')
        .next()
        .and_then(|kib| kib.parse::<u64>().ok());
    Host {
        cpu: field("/proc/cpuinfo", "model name"),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: kib.unwrap_or(0) * 1024,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        accel: Vec::new(),
    }
}

/// The commit of the working tree at `repository`, with `+` if something in it was changed; empty where there is none.
pub fn commit(repository: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Cmd::new("git").dir(repository).args(args).capture();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let changed = git(&["status", "--porcelain"]).is_some_and(|list| !list.is_empty());
    hash + if changed { "+" } else { "" }
}

/// The versions of the packages in the guest's root.
pub fn versions(root: &Path) -> Vec<(String, String)> {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap_or_default();
    packages(&status)
}

fn packages(status: &str) -> Vec<(String, String)> {
    let version = |package: &&str| {
        let paragraph = status.split("\n\n").find(|paragraph| {
            let mut lines = paragraph.trim_start().lines();
            lines.next().and_then(|l| l.strip_prefix("Package: ")) == Some(*package)
        })?;
        let line = paragraph
            .lines()
            .find_map(|l| l.strip_prefix("Version: "))?;
        Some(((*package).to_owned(), line.to_owned()))
    };
    PACKAGES.iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let status =
            "Package: perftest-data\nVersion: 1\n\nPackage: perftest\nStatus: ok\nVersion: 24.10\n";
        assert_eq!(packages(status), [("perftest".into(), "24.10".into())]);
        assert!(packages("").is_empty());
    }

    #[test]
    fn this_machine_is_known() {
        let host = host();
        assert!(host.cpus > 0 && host.memory_bytes > 0 && !host.kernel.is_empty());
    }
}
