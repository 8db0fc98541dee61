//! One check for each thing that is needed.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::build::mirror::Mirror;
use crate::build::{kernel, root};
use crate::context::Context;
use crate::enter;
use crate::exit::{self, coded};

use super::{KEYRING, sudo};

/// GiB on disk for the root, one kernel, its packages and the builds.
const DISK_FIRST: f64 = 6.0;
/// GiB for what changes later.
const DISK_LATER: f64 = 1.0;
/// MiB of memory for the guest, QEMU and the builds.
const MEMORY: u64 = 3 * 1024;
/// What QEMU takes beside a guest's memory, in MiB.
const QEMU_MIB: u64 = 512;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    There,
    /// It may do without.
    Doubtful,
    /// It is missing, and nothing works without.
    Missing,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do if it is missing.
    pub fix: Option<String>,
    /// The package that brings it.
    pub package: Option<&'static str>,
}

impl Finding {
    fn there(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            state: State::There,
            detail: detail.into(),
            fix: None,
            package: None,
        }
    }

    fn missing(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Missing,
            detail: detail.into(),
            fix: Some(fix.into()),
            package: None,
        }
    }

    fn package(name: &'static str, detail: impl Into<String>, package: &'static str) -> Self {
        let fix = format!("{}apt-get install {package}", sudo());
        Self {
            package: Some(package),
            ..Self::missing(name, detail, fix)
        }
    }

    /// The finding in one line.
    pub fn sentence(&self) -> String {
        match &self.fix {
            Some(fix) => format!("{}: {}\n    what to do: {fix}", self.name, self.detail),
            None => format!("{}: {}", self.name, self.detail),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.state {
            State::There => "ok",
            State::Doubtful => "note",
            State::Missing => "MISSING",
        };
        write!(f, "{word:<8} {:<14} {}", self.name, self.detail)?;
        if let Some(fix) = &self.fix {
            write!(f, "\n{:<8} {:<14} fix: {fix}", "", "")?;
        }
        Ok(())
    }
}

/// All checks.
pub fn all(context: &Context) -> Vec<Finding> {
    let mut all = vec![architecture(), privileges()];
    if !enter::is_root() {
        all.push(sub_ids());
    }
    all.extend([
        program("mmdebstrap", "mmdebstrap", "mmdebstrap"),
        program("tar", "tar", "tar"),
        keyring(),
        cargo(),
        disk(context),
        memory(),
        mirror(context),
        kvm(),
    ]);
    all
}

/// Only x86-64: the kernels and QEMU's target are that.
pub fn architecture() -> Finding {
    match std::env::consts::ARCH {
        "x86_64" => Finding::there("architecture", "x86-64"),
        other => Finding::missing(
            "architecture",
            format!("{other} is not supported"),
            "use an x86-64 host (a virtual machine will do; KVM is not needed)",
        ),
    }
}

fn privileges() -> Finding {
    if enter::is_root() {
        let works = succeeds(Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]));
        return if works {
            Finding::there("privileges", "root, mount namespaces work")
        } else {
            Finding::missing(
                "privileges",
                "root, but mount namespaces are not permitted (a container?)",
                "give the container CAP_SYS_ADMIN (docker: --privileged), or use a virtual machine",
            )
        };
    }
    let try_it = [
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "true",
    ];
    if succeeds(Command::new("unshare").args(try_it)) {
        return Finding::there("privileges", "ordinary user, user namespaces work");
    }
    let detail = "neither root nor user namespaces";
    for (path, wrong, fix) in [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == wrong) {
            return Finding::missing(
                "privileges",
                detail,
                format!("sudo sysctl {fix}, or run this tool as root"),
            );
        }
    }
    Finding::missing(
        "privileges",
        detail,
        "run this tool as root, or enable user namespaces",
    )
}

/// An ordinary user needs ids for the other users of the root.
fn sub_ids() -> Finding {
    if find_program("newuidmap").is_none() {
        return Finding::package("sub-ids", "newuidmap is not installed", "uidmap");
    }
    let user = std::env::var("USER").unwrap_or_else(|_| "$USER".to_owned());
    let try_it = ["--user", "--map-root-user", "--map-auto", "true"];
    if succeeds(Command::new("unshare").args(try_it)) {
        return Finding::there(
            "sub-ids",
            "/etc/subuid and /etc/subgid have ranges for this user",
        );
    }
    Finding::missing(
        "sub-ids",
        "/etc/subuid or /etc/subgid has no range for this user",
        format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
    )
}

fn program(name: &'static str, file: &str, package: &'static str) -> Finding {
    match find_program(file) {
        Some(path) => Finding::there(name, path.display().to_string()),
        None => Finding::package(name, "not installed", package),
    }
}

fn keyring() -> Finding {
    let name = "Debian's keys";
    if !Path::new(KEYRING).exists() {
        return Finding::package(
            name,
            format!("{KEYRING} is not there"),
            "debian-archive-keyring",
        );
    }
    let has = |suite: &str| {
        ["gpg", "asc", "pgp"].iter().any(|kind| {
            ["/usr/share/keyrings", "/etc/apt/trusted.gpg.d"]
                .iter()
                .any(|dir| {
                    Path::new(&format!("{dir}/debian-archive-{suite}-automatic.{kind}")).exists()
                })
        })
    };
    if has("trixie") || has("bookworm") {
        return Finding::there(name, KEYRING);
    }
    Finding {
        state: State::Doubtful,
        ..Finding::missing(
            name,
            format!("{KEYRING} may be too old for trixie"),
            "install a newer debian-archive-keyring if the signatures are refused",
        )
    }
}

fn cargo() -> Finding {
    let cargo = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .filter(|path| path.exists());
    match cargo.or_else(|| find_program("cargo")) {
        Some(path) => Finding::there("cargo", path.display().to_string()),
        None => Finding::package("cargo", "not installed", "cargo"),
    }
}

fn disk(context: &Context) -> Finding {
    let name = "disk";
    let dir = context.cache.ground();
    let made = context.cache.is_fresh(root::PLACE, &root::key())
        && !kernel::all_remembered(context).is_empty();
    let need = if made { DISK_LATER } else { DISK_FIRST };
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return Finding::missing(
            name,
            format!("cannot look at {}", dir.display()),
            "choose another --cache",
        );
    };
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let free = (stat.f_bavail * stat.f_frsize) as f64 / f64::from(1 << 30);
    let detail = format!(
        "{free:.1} GiB free in {} ({need:.0} GiB needed)",
        dir.display()
    );
    if free >= need {
        return Finding::there(name, detail);
    }
    Finding::missing(
        name,
        detail,
        "make room, or choose a cache on another disk with --cache DIR",
    )
}

fn memory() -> Finding {
    let name = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = meminfo_mib(&text, "MemAvailable:") else {
        return Finding {
            state: State::Doubtful,
            ..Finding::there(name, "unknown")
        };
    };
    let detail = format!("{available} MiB available ({MEMORY} MiB needed)");
    if available >= MEMORY {
        return Finding::there(name, detail);
    }
    Finding::missing(
        name,
        detail,
        "end other programs, or use a host with more memory",
    )
}

/// Fails if a guest of `bytes` can't be had here. QEMU takes memory as the guest touches it, so a little
/// less than all is worth a try.
pub fn guest_memory(bytes: u64) -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match meminfo_mib(&text, "MemTotal:") {
        Some(total) if bytes >> 20 > total => Err(coded(
            exit::HOST,
            format!(
                "--mem: the guest would have {} MiB, and this host has {total} MiB in all\n  what to do: choose less with --mem",
                bytes >> 20
            ),
        )),
        _ => Ok(()),
    }
}

/// Guests of `bytes` and of `cpus` CPUs that fit in here at once; one at least.
pub fn room_for_guests(bytes: u64, cpus: u32) -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let own = std::thread::available_parallelism().map_or(1, usize::from);
    let served = own / cpus.max(1) as usize;
    let available = meminfo_mib(&text, "MemAvailable:").unwrap_or(0);
    let available = cgroup_mib(Path::new("/")).map_or(available, |mib| mib.min(available));
    let fit = available / ((bytes >> 20) + QEMU_MIB);
    served
        .min(usize::try_from(fit).unwrap_or(usize::MAX))
        .max(1)
}

/// What the memory cgroups that this process is in leave it, in the file system at `root`; None without a limit.
fn cgroup_mib(root: &Path) -> Option<u64> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = root.join("sys/fs/cgroup");
    let number = |dir: &Path, name: &str| -> Option<u64> {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse().ok()
    };
    // Without a limit the file says `max`; the root has none.
    let left = |dir: &Path| {
        let limit = number(dir, "memory.max")?;
        Some(limit.saturating_sub(number(dir, "memory.current")?) >> 20)
    };
    let dir = mount.join(own);
    let chain = dir.ancestors().take_while(|dir| dir.starts_with(&mount));
    chain.filter_map(left).min()
}

fn meminfo_mib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

fn mirror(context: &Context) -> Finding {
    let name = "archive";
    let mirror = match Mirror::resolve(context.mirror.as_deref()) {
        Ok(mirror) => mirror,
        Err(error) => {
            return Finding::missing(name, error.to_string(), "choose one with --mirror URL");
        }
    };
    if !super::proxies().is_empty() || mirror.directory().is_some() {
        return Finding::there(name, mirror.url);
    }
    match reach(&mirror.url) {
        Ok(()) => Finding::there(name, mirror.url),
        Err(error) => Finding::missing(
            name,
            format!("{} cannot be reached: {error}", mirror.url),
            "check the network, set http_proxy, or choose another archive with --mirror URL",
        ),
    }
}

fn reach(url: &str) -> std::io::Result<()> {
    let (host, port) = endpoint(url);
    let mut last = std::io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Host and port of an http or https address.
fn endpoint(url: &str) -> (&str, u16) {
    let (default, rest) = match url.split_once("://") {
        Some(("https", rest)) => (443, rest),
        Some((_, rest)) => (80, rest),
        None => (80, url),
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') => match port.parse() {
            Ok(port) => (name, port),
            Err(_) => (host, default),
        },
        _ => (host, default),
    }
}

fn kvm() -> Finding {
    let name = "acceleration";
    let usable = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let detail = if usable {
        "/dev/kvm can be opened; a probe boot decides whether it is used"
    } else {
        "no usable /dev/kvm: the guest is emulated (TCG), slower but complete"
    };
    let state = if usable {
        State::There
    } else {
        State::Doubtful
    };
    Finding {
        state,
        ..Finding::there(name, detail)
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("http://m.example/archive"), ("m.example", 80));
        assert_eq!(endpoint("https://m.example/archive"), ("m.example", 443));
        assert_eq!(
            endpoint("http://u:p@m.example:8080/archive"),
            ("m.example", 8080)
        );
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal: 16000000 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(meminfo_mib(text, "MemAvailable:"), Some(2048));
        assert_eq!(meminfo_mib("x", "MemAvailable:"), None);
    }

    #[test]
    fn the_narrowest_memory_cgroup_counts() {
        let root = std::env::temp_dir().join(format!("cgroup-test-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(cgroup_mib(&root), None);
        write("proc/self/cgroup", "0::/pod/us\n");
        write("sys/fs/cgroup/pod/us/memory.max", "max\n");
        write("sys/fs/cgroup/pod/us/memory.current", "1048576\n");
        assert_eq!(cgroup_mib(&root), None);
        write("sys/fs/cgroup/pod/memory.max", "8388608\n");
        write("sys/fs/cgroup/pod/memory.current", "3145728\n");
        assert_eq!(cgroup_mib(&root), Some(5));
        write("sys/fs/cgroup/pod/us/memory.max", "2097152\n");
        assert_eq!(cgroup_mib(&root), Some(1));
        fs::remove_dir_all(&root).unwrap();
    }
}
