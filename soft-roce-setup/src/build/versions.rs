//! Which kernel: the newest complete set of packages of a supported series.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use deb_version::compare_versions;
use deb822_fast::Deb822;

/// Series that the modules are written for, the preferred first.
pub const SERIES: [&str; 2] = ["7.3", "7.2"];
/// The flavour of Debian's kernels that has rxe.
const FLAVOUR: &str = "+deb13-amd64";

/// A package of an archive's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, the Debian revision included.
    pub version: String,
}

/// A kernel of which all packages are in the archive, in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// `7.3`
    pub series: String,
    /// `uname -r`, for example `7.3.4+deb13-amd64`.
    pub release: String,
    /// Version of the packages, for example `7.3.4-1~bpo13+1`.
    pub package_version: String,
}

impl Kernel {
    /// The packages, in a form that `apt-get download` takes.
    pub fn packages(&self) -> Vec<String> {
        let version = &self.package_version;
        let mut names: Vec<String> = PARTS
            .iter()
            .map(|part| format!("linux-{part}-{}", self.release))
            .collect();
        names.push(format!("linux-source-{}", self.series));
        names
            .into_iter()
            .map(|name| format!("{name}={version}"))
            .collect()
    }
}

/// The packages of a kernel that carry its release in their names.
const PARTS: [&str; 3] = ["binary", "modules", "headers"];

/// The packages of an index in the format of Debian's `Packages` files whose names begin with `linux-`.
///
/// # Errors
/// It is not of that format.
pub fn parse_index(text: &str) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for stanza in Deb822::iter_paragraphs_from_reader(text.as_bytes()) {
        let stanza = stanza.context("this is no index of packages")?;
        let name = stanza.get("Package").unwrap_or_default();
        let version = stanza.get("Version").unwrap_or_default();
        if name.starts_with("linux-") && !version.is_empty() {
            found.push(Package {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    Ok(found)
}

/// All complete kernels of the supported series: the preferred series first, in it the newest.
pub fn complete_kernels(packages: &[Package]) -> Vec<Kernel> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    let has = |name: &str, version: &str| {
        versions
            .get(name)
            .is_some_and(|versions| versions.contains(version))
    };
    let mut found = Vec::new();
    for package in packages {
        let Some(release) = package.name.strip_prefix("linux-binary-") else {
            continue;
        };
        let Some(upstream) = release.strip_suffix(FLAVOUR) else {
            continue;
        };
        let Some(series) = SERIES
            .into_iter()
            .find(|series| is_of_series(upstream, series))
        else {
            continue;
        };
        let complete = PARTS
            .iter()
            .all(|part| has(&format!("linux-{part}-{release}"), &package.version))
            && has(&format!("linux-source-{series}"), &package.version);
        let kernel = Kernel {
            series: series.to_owned(),
            release: release.to_owned(),
            package_version: package.version.clone(),
        };
        if complete && !found.contains(&kernel) {
            found.push(kernel);
        }
    }
    found.sort_by(|a, b| {
        let rank = |kernel: &Kernel| SERIES.iter().position(|series| *series == kernel.series);
        rank(a)
            .cmp(&rank(b))
            .then_with(|| compare_versions(&b.release, &a.release))
            .then_with(|| compare_versions(&b.package_version, &a.package_version))
    });
    found
}

/// The kernel that was asked for: a series, a release or its upstream version; the preferred one if
/// nothing was asked for.
pub fn choose(kernels: &[Kernel], wanted: Option<&str>) -> Result<Kernel> {
    let found = match wanted {
        None => kernels.first(),
        Some(wanted) => kernels.iter().find(|kernel| {
            kernel.series == wanted
                || kernel.release == wanted
                || kernel.package_version == wanted
                || kernel.release.strip_suffix(FLAVOUR) == Some(wanted)
        }),
    };
    if let Some(kernel) = found {
        return Ok(kernel.clone());
    }
    let list = kernels
        .iter()
        .map(|kernel| kernel.release.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    match wanted {
        _ if kernels.is_empty() => bail!(
            "the archive's trixie-backports has no complete kernel of the series {}\n  \
             what to do: use a complete mirror of Debian (--mirror URL)",
            SERIES.join(" and ")
        ),
        Some(wanted) => bail!(
            "--kernel {wanted}: no such kernel\n  what to do: take a series ({}) or one of the versions the archive has: {list}",
            SERIES.join(", ")
        ),
        None => bail!("no kernel among {list}"),
    }
}

/// Whether `wanted` (what `--kernel` says) could name a kernel at all; saves asking the archive.
pub fn is_plausible(wanted: &str) -> bool {
    SERIES
        .iter()
        .any(|series| wanted == *series || is_of_series(wanted, series))
}

fn is_of_series(version: &str, series: &str) -> bool {
    version
        .strip_prefix(series)
        .is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(release: &str, version: &str, parts: &[&str]) -> Vec<Package> {
        parts
            .iter()
            .map(|part| Package {
                name: format!("linux-{part}-{release}"),
                version: version.to_owned(),
            })
            .collect()
    }

    fn source(series: &str, version: &str) -> Package {
        Package {
            name: format!("linux-source-{series}"),
            version: version.to_owned(),
        }
    }

    fn archive() -> Vec<Package> {
        let mut all = set("7.2.12+deb13-amd64", "7.2.12-1~bpo13+1", &PARTS);
        all.extend(set("7.2.9+deb13-amd64", "7.2.9-1~bpo13+1", &PARTS));
        all.extend(set("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", &PARTS));
        all.extend(set("7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1", &PARTS));
        all.extend(set(
            "7.3.5+deb13-amd64",
            "7.3.5-1~bpo13+1",
            &["binary", "modules"],
        ));
        all.push(source("7.2", "7.2.12-1~bpo13+1"));
        all.push(source("7.2", "7.2.9-1~bpo13+1"));
        all.push(source("7.3", "7.3.4-1~bpo13+1"));
        all
    }

    #[test]
    fn incomplete_kernels_and_other_flavours_are_passed_over() {
        let releases: Vec<_> = complete_kernels(&archive())
            .into_iter()
            .map(|kernel| kernel.release)
            .collect();
        assert_eq!(
            releases,
            [
                "7.3.4+deb13-amd64",
                "7.2.12+deb13-amd64",
                "7.2.9+deb13-amd64"
            ]
        );
    }

    /// A backport is older than what it is a backport of: `~` sorts before the end.
    #[test]
    fn the_newest_is_the_newest_for_debian() {
        let release = "7.3.10+deb13-amd64";
        let mut all = archive();
        for version in ["7.3.10-1", "7.3.10-1~bpo13+2", "7.3.10-1~rc1"] {
            all.extend(set(release, version, &PARTS));
            all.push(source("7.3", version));
        }
        let versions: Vec<_> = complete_kernels(&all)
            .into_iter()
            .map(|kernel| kernel.package_version)
            .filter(|version| version.starts_with("7.3"))
            .collect();
        assert_eq!(
            versions,
            [
                "7.3.10-1",
                "7.3.10-1~rc1",
                "7.3.10-1~bpo13+2",
                "7.3.4-1~bpo13+1"
            ]
        );
    }

    #[test]
    fn choices() {
        let kernels = complete_kernels(&archive());
        let release = |wanted| choose(&kernels, wanted).unwrap().release;
        assert_eq!(release(None), "7.3.4+deb13-amd64");
        assert_eq!(release(Some("7.2")), "7.2.12+deb13-amd64");
        assert_eq!(release(Some("7.2.9")), "7.2.9+deb13-amd64");
        assert_eq!(release(Some("7.2.9+deb13-amd64")), "7.2.9+deb13-amd64");
        let error = choose(&kernels, Some("6.12")).unwrap_err().to_string();
        assert!(
            error.contains("6.12") && error.contains("7.2.12+deb13-amd64"),
            "{error}"
        );
        assert!(
            choose(&[], None)
                .unwrap_err()
                .to_string()
                .contains("--mirror")
        );
    }

    #[test]
    fn a_source_of_another_version_does_not_complete_a_kernel() {
        let mut all = set("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", &PARTS);
        all.push(source("7.3", "7.3.5-1~bpo13+1"));
        assert_eq!(complete_kernels(&all), []);
    }

    #[test]
    fn index() {
        let text = "Package: linux-source-7.3\nSource: linux\nVersion: 7.3.4-1\n\n\
            Package: bash\nVersion: 5\n\nPackage: linux-binary-x\nVersion: 1\n";
        let packages = parse_index(text).unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0], source("7.3", "7.3.4-1"));
        assert!(parse_index("<html>\n").is_err());
    }

    #[test]
    fn plausible() {
        assert!(
            is_plausible("7.3") && is_plausible("7.2.12") && is_plausible("7.2.12+deb13-amd64")
        );
        assert!(!is_plausible("7.20") && !is_plausible("6.12") && !is_plausible(""));
    }
}
