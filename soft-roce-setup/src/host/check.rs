//! One check for each thing that is needed.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::context::Context;
use crate::enter;
use crate::proc::{Cmd, find_program};

use super::checkout::{FIX, checkout, missing_at};
use super::finding::{Finding, State};
use super::mirror::Mirror;
use super::net::proxies;
use super::place::Made;
use super::{limits, place};

/// Debian's keys on the host.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The same in the root.
pub const KEYRING_INSIDE: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// All checks.
pub fn all(context: &Context, made: Made) -> Vec<Finding> {
    let mut all = vec![architecture(), sources()];
    all.extend(util_linux(
        &said(&Cmd::new("unshare").arg("--version")),
        enter::is_root(),
    ));
    all.push(privileges());
    if !enter::is_root() {
        all.push(sub_ids());
    }
    all.extend([
        program("mmdebstrap", "mmdebstrap", "mmdebstrap"),
        program("tar", "tar", "tar"),
        keyring(),
        cargo(),
    ]);
    all.extend(place::all(context, made));
    all.extend([
        limits::memory(),
        limits::processors(),
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

/// The checkout that this tool was built in.
fn sources() -> Finding {
    let name = "sources";
    let place = checkout();
    match missing_at(&place) {
        None => Finding::there(name, place.display().to_string()),
        Some(what) => Finding::missing(name, format!("{} {what}", place.display()), FIX),
    }
}

fn privileges() -> Finding {
    if enter::is_root() {
        let works = Cmd::new("unshare")
            .args(["--mount", "--pid", "--fork", "true"])
            .succeeds();
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
    if Cmd::new("unshare").args(try_it).succeeds() {
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

/// Version of util-linux from which on `unshare` kills what it started when it is killed itself.
const KILLS_CHILD: (u32, u32) = (2, 32);
/// Version from which on it maps the sub-ids of an ordinary user.
const MAPS_SUB_IDS: (u32, u32) = (2, 38);

/// What is wrong with this `unshare`, by what it says of its version; nothing if that can't be told.
fn util_linux(said: &str, root: bool) -> Option<Finding> {
    let (major, minor) = version(said)?;
    let need = if root { KILLS_CHILD } else { MAPS_SUB_IDS };
    if (major, minor) >= need {
        return None;
    }
    let detail = format!(
        "unshare is of version {major}.{minor}; {} needs {}.{}",
        if root {
            "this tool"
        } else {
            "an ordinary user"
        },
        need.0,
        need.1
    );
    let fix = if root {
        "use a newer release of this distribution"
    } else {
        "run this tool as root (sudo -H), for whom the version is new enough, or use a newer release of this distribution"
    };
    Some(Finding::missing("util-linux", detail, fix))
}

/// Major and minor number in `unshare from util-linux 2.38.1`.
fn version(said: &str) -> Option<(u32, u32)> {
    let number = said.trim().split_once("util-linux ")?.1;
    let mut parts = number.split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// An ordinary user needs ids for the other users of the root.
fn sub_ids() -> Finding {
    if find_program("newuidmap").is_none() {
        return Finding::package("sub-ids", "newuidmap is not installed", "uidmap");
    }
    let user = std::env::var("USER").unwrap_or_else(|_| "$USER".to_owned());
    let try_it = ["--user", "--map-root-user", "--map-auto", "true"];
    if Cmd::new("unshare").args(try_it).succeeds() {
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

fn mirror(context: &Context) -> Finding {
    let name = "archive";
    let mirror = match Mirror::of(context) {
        Ok(mirror) => mirror,
        Err(error) => {
            return Finding::missing(name, format!("{error:#}"), "choose one with --mirror URL");
        }
    };
    if !proxies().is_empty() || mirror.directory().is_some() {
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

/// What a program writes to its standard output; nothing if it is not there.
fn said(cmd: &Cmd) -> String {
    let output = cmd.capture().map(|output| output.stdout);
    String::from_utf8_lossy(&output.unwrap_or_default()).into_owned()
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
    fn versions_of_util_linux() {
        let of = |text: &str| version(text);
        assert_eq!(of("unshare from util-linux 2.37.2\n"), Some((2, 37)));
        assert_eq!(of("unshare from util-linux 2.41-rc1\n"), Some((2, 41)));
        assert_eq!(of("unshare from util-linux 2.38.1"), Some((2, 38)));
        assert_eq!(of("BusyBox v1.36"), None);
        assert!(util_linux("unshare from util-linux 2.37.2", true).is_none());
        let old = util_linux("unshare from util-linux 2.37.2", false).unwrap();
        assert_eq!(old.state, State::Missing);
        assert!(old.detail.contains("2.38"), "{}", old.detail);
        assert!(util_linux("unshare from util-linux 2.31", true).is_some());
        assert!(util_linux("unshare from util-linux 2.38.1", false).is_none());
    }
}
