//! Which kernel: the newest complete set of packages of a series that is known, or of the newest series that there is.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use deb_version::compare_versions;
use deb822_fast::Deb822;

/// Series that are known: the tests run on them. The preferred one comes first. Newer ones are tried where none of these is
/// complete, and on request; what is older lacks what the modules are made of.
pub const SERIES: [&str; 2] = ["7.3", "7.2"];
/// What `--kernel` takes for the newest kernel that there is, of whatever series.
pub const NEWEST: &str = "newest";
/// What stands behind a series, a version or [`NEWEST`] that is to be of the flavour with PREEMPT_RT.
pub const RT: &str = "-rt";
/// The variable by which a test has the tool know other series: names, separated by commas, or nothing.
pub const KNOWN: &str = "SOFT_ROCE_SETUP_KNOWN_SERIES";

/// How the releases of the flavours end that have rxe, the longer one first.
const FLAVOURS: [(&str, bool); 2] = [("-rt-amd64", true), ("-amd64", false)];

/// The series that are known, the preferred first.
pub fn known() -> Vec<String> {
    match std::env::var(KNOWN) {
        Ok(names) => named(&names),
        Err(_) => SERIES.map(str::to_owned).to_vec(),
    }
}

fn named(names: &str) -> Vec<String> {
    let names = names.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

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

    /// Newer ones first.
    fn newer_first(&self, other: &Self) -> Ordering {
        number(&other.series)
            .cmp(&number(&self.series))
            .then_with(|| compare_versions(&other.release, &self.release))
            .then_with(|| compare_versions(&other.package_version, &self.package_version))
    }
}

/// The packages of a kernel that carry its release in their names.
const PARTS: [&str; 3] = ["binary", "modules", "headers"];

/// Upstream's version in a release, and whether it is of the flavour with PREEMPT_RT: `7.3.4+deb13-rt-amd64`.
fn parts(release: &str) -> Option<(&str, bool)> {
    let cut = |(end, rt)| Some((release.strip_suffix(end)?, rt));
    let (version, rt) = FLAVOURS.into_iter().find_map(cut)?;
    let (upstream, revision) = version.split_once('+').unwrap_or((version, ""));
    // Flavours without rxe have a word more: `7.3.4+deb13-cloud-amd64`.
    (!revision.contains('-')).then_some((upstream, rt))
}

/// Whether a release is of the flavour with PREEMPT_RT.
pub fn is_rt(release: &str) -> bool {
    parts(release).is_some_and(|(_, rt)| rt)
}

/// The series of upstream's version: `7.3` of `7.3.4`, and of `7.3-rc1` and `7.3~rc1`.
fn series(upstream: &str) -> Option<String> {
    let version = upstream.split(['-', '~', '+']).next()?;
    let mut numbers = version.split('.');
    let series = format!("{}.{}", numbers.next()?, numbers.next()?);
    number(&series).map(|_| series)
}

/// A series as numbers that can be compared.
fn number(series: &str) -> Option<(u32, u32)> {
    let of = |text: &str| {
        let digits = text.bytes().all(|c| c.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let (major, minor) = series.split_once('.')?;
    Some((of(major)?, of(minor)?))
}

/// Whether the modules can be built for a series: it is as new as the oldest that is known.
fn is_new_enough(series: &str) -> bool {
    let oldest = SERIES.into_iter().filter_map(number).min();
    number(series) >= oldest
}

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

/// All complete kernels that are new enough, the newest first.
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
        let Some(series) = parts(release).and_then(|(upstream, _)| series(upstream)) else {
            continue;
        };
        let complete = is_new_enough(&series)
            && PARTS
                .iter()
                .all(|part| has(&format!("linux-{part}-{release}"), &package.version))
            && has(&format!("linux-source-{series}"), &package.version);
        let kernel = Kernel {
            series,
            release: release.to_owned(),
            package_version: package.version.clone(),
        };
        if complete && !found.contains(&kernel) {
            found.push(kernel);
        }
    }
    found.sort_by(Kernel::newer_first);
    found
}

/// What was asked for without the mark of the flavour, and whether that is the one with PREEMPT_RT.
fn flavour(wanted: &str) -> (&str, bool) {
    match wanted.strip_suffix(RT) {
        Some(wanted) => (wanted, true),
        None => (wanted, false),
    }
}

/// Whether `wanted` names no version: it is resolved to another kernel when a newer one comes.
pub fn moves(wanted: &str) -> bool {
    let (wanted, _) = flavour(wanted);
    wanted.is_empty() || wanted == NEWEST || number(wanted).is_some()
}

/// Whether whoever asked for `wanted`, which [`moves`], gets kernels of this series and flavour.
pub fn is_for(wanted: &str, of: &str, release: &str) -> bool {
    let (wanted, rt) = flavour(wanted);
    rt == is_rt(release) && (wanted == of || wanted.is_empty() || wanted == NEWEST)
}

/// The kernel that was asked for among those of the archive, the newest of which comes first: a series, a release, its upstream
/// version, or the newest. If nothing was asked for: the newest of the first of the series `known` that has one, or else the newest.
pub fn choose(kernels: &[Kernel], wanted: Option<&str>, known: &[String]) -> Result<Kernel> {
    let (what, rt) = flavour(wanted.unwrap_or_default());
    let newest = |fits: &dyn Fn(&Kernel) -> bool| {
        let mut of_flavour = kernels.iter().filter(|kernel| is_rt(&kernel.release) == rt);
        of_flavour.find(|kernel| fits(kernel))
    };
    let found = match what {
        "" => known
            .iter()
            .find_map(|series| newest(&|kernel| kernel.series == *series))
            .or_else(|| newest(&|_| true)),
        NEWEST => newest(&|_| true),
        _ => kernels
            .iter()
            .find(|kernel| Some(kernel.release.as_str()) == wanted)
            .or_else(|| newest(&|kernel| is_named(kernel, what))),
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
            "the archive has no complete kernel of the series {} or a newer one\n  \
             what to do: use a complete mirror of Debian (--mirror URL)",
            SERIES.join(" and ")
        ),
        Some(wanted) => bail!(
            "--kernel {wanted}: no such kernel\n  what to do: take a series ({}), `{NEWEST}`, or one of the versions the archive has: {list}",
            SERIES.join(", ")
        ),
        None => bail!("no kernel among {list}"),
    }
}

/// Whether `what` is its series or one of its versions.
fn is_named(kernel: &Kernel, what: &str) -> bool {
    let Some((upstream, _)) = parts(&kernel.release) else {
        return false;
    };
    let version = FLAVOURS
        .into_iter()
        .find_map(|(end, _)| kernel.release.strip_suffix(end));
    kernel.series == what
        || kernel.package_version == what
        || upstream == what
        || version == Some(what)
}

/// Whether `wanted` (what `--kernel` says) could name a kernel at all; saves asking the archive.
pub fn is_plausible(wanted: &str) -> bool {
    let (what, _) = flavour(wanted);
    what == NEWEST || series(what).is_some_and(|series| is_new_enough(&series))
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
        // What the modules were never written for.
        all.extend(set("7.1.8+deb13-amd64", "7.1.8-1~bpo13+1", &PARTS));
        all.push(source("7.1", "7.1.8-1~bpo13+1"));
        all
    }

    /// The same on a day when newer series are there, one of them for tests only.
    fn later() -> Vec<Package> {
        let mut all = archive();
        for (release, series, version) in [
            ("7.10.2+deb13-amd64", "7.10", "7.10.2-1~bpo13+1"),
            ("7.10.2+deb13-rt-amd64", "7.10", "7.10.2-1~bpo13+1"),
            ("7.3.4+deb13-rt-amd64", "7.3", "7.3.4-1~bpo13+1"),
            ("7.9.9+deb13-amd64", "7.9", "7.9.9-1~bpo13+1"),
        ] {
            all.extend(set(release, version, &PARTS));
            all.push(source(series, version));
        }
        all
    }

    fn is_known(series: &[&str]) -> Vec<String> {
        series.iter().map(|one| (*one).to_owned()).collect()
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
        let known = is_known(&SERIES);
        let release = |wanted| choose(&kernels, wanted, &known).unwrap().release;
        assert_eq!(release(None), "7.3.4+deb13-amd64");
        assert_eq!(release(Some("7.2")), "7.2.12+deb13-amd64");
        assert_eq!(release(Some("7.2.9")), "7.2.9+deb13-amd64");
        assert_eq!(release(Some("7.2.9+deb13")), "7.2.9+deb13-amd64");
        assert_eq!(release(Some("7.2.9+deb13-amd64")), "7.2.9+deb13-amd64");
        for wrong in ["6.12", "7.3-rt"] {
            let error = choose(&kernels, Some(wrong), &known).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(wrong) && error.contains("7.2.12+deb13-amd64"),
                "{error}"
            );
        }
        let error = choose(&[], None, &known).unwrap_err().to_string();
        assert!(error.contains("--mirror"));
    }

    /// A series that is known is taken before one that is newer, and that one when none is left.
    #[test]
    fn what_is_known_comes_first_and_the_newest_else() {
        let kernels = complete_kernels(&later());
        let release = |wanted, known: &[&str]| {
            let chosen = choose(&kernels, wanted, &is_known(known)).unwrap();
            chosen.release
        };
        assert_eq!(release(None, &SERIES), "7.3.4+deb13-amd64");
        assert_eq!(release(None, &["8.1", "7.2"]), "7.2.12+deb13-amd64");
        assert_eq!(release(None, &["8.1"]), "7.10.2+deb13-amd64");
        assert_eq!(release(None, &[]), "7.10.2+deb13-amd64");
        assert_eq!(release(Some(NEWEST), &SERIES), "7.10.2+deb13-amd64");
        assert_eq!(release(Some("7.9"), &SERIES), "7.9.9+deb13-amd64");
        // The other flavour is for those who ask for it.
        assert_eq!(release(Some("newest-rt"), &SERIES), "7.10.2+deb13-rt-amd64");
        assert_eq!(release(Some("7.3-rt"), &SERIES), "7.3.4+deb13-rt-amd64");
        assert_eq!(release(Some("7.3.4-rt"), &SERIES), "7.3.4+deb13-rt-amd64");
        let whole = "7.3.4+deb13-rt-amd64";
        assert_eq!(release(Some(whole), &SERIES), whole);
    }

    #[test]
    fn series_are_read_from_versions() {
        for (upstream, is) in [
            ("7.3.4", Some("7.3")),
            ("7.4-rc3", Some("7.4")),
            ("7.4~rc3", Some("7.4")),
            ("8.0", Some("8.0")),
            ("unsigned", None),
            ("unsigned-7.3.4", None),
            ("7", None),
            ("7.", None),
        ] {
            assert_eq!(series(upstream).as_deref(), is, "{upstream}");
        }
        assert!(is_rt("7.3.4+deb13-rt-amd64") && !is_rt("7.3.4+deb13-amd64"));
        assert!(!is_rt("7.3.4-debug"));
        assert_eq!(parts("7.4-rc3-amd64"), Some(("7.4-rc3", false)));
    }

    #[test]
    fn who_asked_for_a_series_gets_what_is_newest_of_it() {
        let release = "7.3.5+deb13-amd64";
        for wanted in ["", "7.3", NEWEST] {
            assert!(
                moves(wanted) && is_for(wanted, "7.3", release),
                "`{wanted}`"
            );
        }
        for wanted in ["7.2", "7.3-rt", "newest-rt"] {
            assert!(moves(wanted) && !is_for(wanted, "7.3", release), "{wanted}");
        }
        assert!(is_for("7.3-rt", "7.3", "7.3.5+deb13-rt-amd64"));
        assert!(!moves("7.3.4") && !moves("7.3.4+deb13-amd64") && !moves("7.3.4-rt"));
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
        for good in [
            "7.3",
            "7.2.12",
            "7.2.12+deb13-amd64",
            "7.20",
            "8.0.1",
            "7.3-rt",
            "newest",
            "newest-rt",
            "7.3.4-1~bpo13+1",
        ] {
            assert!(is_plausible(good), "{good}");
        }
        for wrong in ["6.12", "7.1.8", "", "-rt", "7", "latest", "7.x"] {
            assert!(!is_plausible(wrong), "{wrong}");
        }
    }

    #[test]
    fn known_series_can_be_named() {
        assert_eq!(named("9.1, 9.0"), ["9.1", "9.0"]);
        assert!(named("").is_empty());
    }
}
