//! Which Debian archive to install from: the user's choice, or the one the host itself uses.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use deb822_fast::Deb822;

use crate::context::Context;
use crate::exit::{HOST, coded};

/// Where the cache remembers a mirror that had to be given.
const REMEMBERED: &str = "mirror";

/// A Debian archive that has trixie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its address, without a slash at the end.
    pub url: String,
}

impl Mirror {
    /// The mirror that the user chose, now or in an earlier run with this cache, or else the host's own.
    ///
    /// # Errors
    /// The choice is no address; the host has no Debian archive in its apt configuration.
    pub fn of(context: &Context) -> Result<Self> {
        Self::resolve(context, Path::new("/etc/apt"))
    }

    fn resolve(context: &Context, apt: &Path) -> Result<Self> {
        if let Some(url) = &context.mirror {
            return Self::parse(url);
        }
        let file = context.cache.path(REMEMBERED);
        if let Ok(url) = fs::read_to_string(&file) {
            return Self::parse(url.trim()).with_context(|| {
                format!(
                    "{} remembers the archive of an earlier --mirror (another --mirror takes its place)",
                    file.display()
                )
            });
        }
        host_mirror(apt).ok_or_else(|| {
            coded(
                HOST,
                "this host's apt configuration names no Debian archive\n  \
                 what to do: choose one with --mirror URL (http://, https:// or file:///); it is remembered",
            )
        })
    }

    /// Remembers the mirror for later runs, if the user chose it: something came from it. The caller holds the exclusive lock.
    pub fn remember(&self, context: &Context) -> Result<()> {
        if context.mirror.is_none() {
            return Ok(());
        }
        let file = context.cache.path(REMEMBERED);
        fs::write(&file, format!("{}\n", self.url))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn parse(url: &str) -> Result<Self> {
        let known = ["http://", "https://", "file:///"];
        if !known.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(coded(
                2,
                format!(
                    "--mirror {url}: not an address that starts with http://, https:// or file:///"
                ),
            ));
        }
        let mirror = Self {
            url: url.trim_end_matches('/').to_owned(),
        };
        if let Some(dir) = mirror.directory() {
            let dists = dir.join("dists/trixie");
            dists.metadata().with_context(|| {
                format!(
                    "--mirror {url}: it has no {} and so is no archive with trixie",
                    dists.display()
                )
            })?;
        }
        Ok(mirror)
    }

    /// The directory of a `file://` mirror.
    pub fn directory(&self) -> Option<PathBuf> {
        self.url.strip_prefix("file://").map(PathBuf::from)
    }
}

/// The first Debian archive of the apt configuration in `etc` (`/etc/apt`).
fn host_mirror(etc: &Path) -> Option<Mirror> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => from_list(&text),
            "sources" => from_deb822(&text),
            _ => None,
        }
    })
}

/// Suites that only Debian's main archive has. A mirror of it has trixie and its backports as well.
fn is_debian_suite(suite: &str) -> bool {
    const NAMES: [&str; 10] = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "stable",
        "oldstable",
        "testing",
        "unstable",
    ];
    let base = suite
        .strip_suffix("-updates")
        .or_else(|| suite.strip_suffix("-backports"));
    NAMES.contains(&base.unwrap_or(suite))
}

/// Whether an address is the main archive's; others use the same suite names.
fn is_main_archive(url: &str) -> bool {
    let fetchable = ["http://", "https://", "file:///"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    let path = url.trim_end_matches('/');
    fetchable && path.ends_with("/debian")
}

fn mirror_of(url: &str, suites: &str) -> Option<Mirror> {
    (is_main_archive(url) && suites.split_whitespace().any(is_debian_suite)).then(|| Mirror {
        url: url.trim_end_matches('/').to_owned(),
    })
}

/// One-line format: `deb [options] URL SUITE COMPONENTS…`.
fn from_list(text: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim();
        let mut rest = line
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        if rest.starts_with('[') {
            rest = rest.split_once(']')?.1;
        }
        let mut words = rest.split_whitespace();
        mirror_of(words.next()?, words.next()?)
    })
}

/// Stanzas of fields (deb822).
fn from_deb822(text: &str) -> Option<Mirror> {
    let stanzas: Deb822 = text.parse().ok()?;
    stanzas.iter().find_map(|stanza| {
        if stanza
            .get("Enabled")
            .is_some_and(|enabled| enabled.eq_ignore_ascii_case("no"))
        {
            return None;
        }
        let mut types = stanza.get("Types")?.split_whitespace();
        if !types.any(|kind| kind == "deb") {
            return None;
        }
        let suites = stanza.get("Suites")?;
        let mut urls = stanza.get("URIs")?.split_whitespace();
        urls.find_map(|url| mirror_of(url, suites))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(mirror: Option<Mirror>) -> Option<String> {
        mirror.map(|mirror| mirror.url)
    }

    /// The main archive on a host that nobody has.
    fn archive(host: &str) -> String {
        format!("http://{host}.example/{}", "debian")
    }

    #[test]
    fn one_line_format() {
        let [old, a, b, x] = ["old", "a", "b", "x"].map(archive);
        let text = format!(
            "# deb {old} bookworm main\n\
            deb-src {a} bookworm main\n\
            deb https://packages.example/apt cloud main\n\
            deb [arch=amd64 signed-by=/k] {b}/ bookworm main contrib # x\n"
        );
        assert_eq!(url(from_list(&text)), Some(b));
        assert_eq!(
            url(from_list("deb http://archive.example/ubuntu noble main\n")),
            None
        );
        let security = format!("deb {x}-security bookworm-security main");
        assert_eq!(url(from_list(&security)), None);
    }

    #[test]
    fn deb822_format() {
        let [off, c] = ["off", "c"].map(archive);
        let text = format!(
            "Types: deb\nURIs: http://x.example/node\nSuites: nodistro\n\n\
            Enabled: no\nTypes: deb\nURIs: {off}\nSuites: trixie\n\n\
            # note\nTypes: deb deb-src\n# another\nURIs: {c}/\n\
            Suites: bookworm bookworm-updates\nComponents: main\n"
        );
        let source = format!("Types: deb-src\nURIs: {c}\nSuites: sid\n");
        assert_eq!(url(from_deb822(&source)), None);
        assert_eq!(url(from_deb822(&text)), Some(c));
    }

    #[test]
    fn a_mirror_that_had_to_be_given_is_remembered() {
        let (dir, apt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut context = Context::for_tests(dir.path());
        let lock = context.cache.lock_exclusive(&context.ui).unwrap();
        let resolved = |context: &Context| Mirror::resolve(context, apt.path());
        assert!(resolved(&context).is_err(), "nobody named one");
        let [given, own] = ["given", "own"].map(archive);
        context.mirror = Some(given.clone());
        resolved(&context).unwrap().remember(&context).unwrap();
        context.mirror = None;
        assert_eq!(resolved(&context).unwrap().url, given);
        // The host's own does not take its place, and is not remembered.
        let list = format!("deb {own} trixie main\n");
        fs::write(apt.path().join("sources.list"), list).unwrap();
        assert_eq!(resolved(&context).unwrap().url, given);
        context.cache.remove(&lock, REMEMBERED).unwrap();
        resolved(&context).unwrap().remember(&context).unwrap();
        assert!(!context.cache.path(REMEMBERED).exists());
        assert_eq!(resolved(&context).unwrap().url, own);
    }

    #[test]
    fn choices() {
        let m = archive("m");
        assert_eq!(Mirror::parse(&format!("{m}/")).unwrap().url, m);
        assert!(Mirror::parse(&m.replacen("http", "ftp", 1)).is_err());
        assert!(Mirror::parse("file:///does/not/exist").is_err());
    }
}
