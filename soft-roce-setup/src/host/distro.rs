//! The distribution of this host: what its package manager is called, and the packages in it.

use std::fs;
use std::path::Path;

use crate::enter;

/// Distributions by their package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distro {
    /// Debian, Ubuntu and what comes from them.
    Debian,
    /// Fedora, RHEL and their kin.
    Fedora,
    /// openSUSE and SLES.
    Suse,
    /// Arch and what comes from it.
    Arch,
    /// Another one, whose package manager we don't know.
    Other,
}

impl Distro {
    /// This host's.
    pub(super) fn here() -> Self {
        Self::at(Path::new("/"))
    }

    /// That of the file system at `root`, by os-release(5).
    fn at(root: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(root.join(file)).ok();
        let text = read("etc/os-release").or_else(|| read("usr/lib/os-release"));
        Self::of(&text.unwrap_or_default())
    }

    fn of(os_release: &str) -> Self {
        let value = |key: &str| {
            let line = os_release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim_matches(['"', '\'']).to_ascii_lowercase())
        };
        let ids = [value("ID"), value("ID_LIKE")];
        ids.iter()
            .flatten()
            .flat_map(|ids| ids.split_whitespace())
            .find_map(|id| match id {
                "debian" | "ubuntu" => Some(Self::Debian),
                "fedora" | "rhel" | "centos" => Some(Self::Fedora),
                "suse" | "opensuse" | "sles" => Some(Self::Suse),
                id if id.starts_with("opensuse-") => Some(Self::Suse),
                "arch" => Some(Self::Arch),
                _ => None,
            })
            .unwrap_or(Self::Other)
    }

    /// The command that installs what Debian calls `package`.
    pub(super) fn install(self, package: &str) -> String {
        let sudo = sudo();
        let name = self.name(package);
        let command = match self {
            Self::Debian => format!("{sudo}apt-get install {name}"),
            Self::Fedora => format!("{sudo}dnf install {name}"),
            Self::Suse => format!("{sudo}zypper install {name}"),
            Self::Arch => format!("{sudo}pacman -S {name}"),
            Self::Other => format!("install {name} with this distribution's package manager"),
        };
        command + self.remark(package)
    }

    /// What the distribution calls it.
    fn name(self, package: &str) -> &str {
        match (self, package) {
            (Self::Fedora, "uidmap") => "shadow-utils",
            (Self::Suse | Self::Arch, "uidmap") => "shadow",
            (Self::Fedora | Self::Suse, "debian-archive-keyring") => "debian-keyring",
            (Self::Arch, "cargo") => "rust",
            _ => package,
        }
    }

    /// What to do where a distribution may not have what only Debian's kin needs.
    fn remark(self, package: &str) -> &'static str {
        match (self, package) {
            (Self::Debian, _) => "",
            (_, "mmdebstrap" | "debian-archive-keyring") => {
                " (if there is none: run this tool in a Debian container or virtual machine)"
            }
            _ => "",
        }
    }
}

/// How a fix begins that needs root.
pub(super) fn sudo() -> &'static str {
    if enter::is_root() { "" } else { "sudo " }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_is_for_the_distribution_it_is_on() {
        for (text, distro, command) in [
            ("ID=debian\n", Distro::Debian, "apt-get install uidmap"),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Distro::Debian,
                "apt-get install uidmap",
            ),
            (
                "NAME=Fedora\nID=fedora\n",
                Distro::Fedora,
                "dnf install shadow-utils",
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Distro::Fedora,
                "dnf install shadow-utils",
            ),
            (
                "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n",
                Distro::Suse,
                "zypper install shadow",
            ),
            (
                "ID=manjaro\nID_LIKE=arch\n",
                Distro::Arch,
                "pacman -S shadow",
            ),
            ("ID=nixos\n", Distro::Other, "install uidmap with"),
            ("", Distro::Other, "install uidmap with"),
        ] {
            assert_eq!(Distro::of(text), distro, "{text}");
            let fix = distro.install("uidmap");
            assert!(fix.contains(command), "{fix}");
        }
        assert!(!Distro::Fedora.install("mmdebstrap").contains("apt-get"));
    }

    #[test]
    fn a_file_system_says_what_it_is_in_either_place() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Distro::at(root.path()), Distro::Other);
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        fs::write(root.path().join("usr/lib/os-release"), "ID=arch\n").unwrap();
        assert_eq!(Distro::at(root.path()), Distro::Arch);
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/os-release"), "ID=fedora\n").unwrap();
        assert_eq!(Distro::at(root.path()), Distro::Fedora);
    }
}
