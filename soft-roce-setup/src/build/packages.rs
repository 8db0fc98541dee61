//! Packages of the distribution that a guest is to have beside those of the root: the root once more, with these installed.
//!
//! Files that are the same are links to the root's: a package costs its own size. dpkg puts new files in the place of others by renaming
//! them, so that the root keeps its own; what packages change in place lies in /etc and /var, which are copied.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};

use super::key::Key;
use super::root::{self, Apt};
use crate::context::Context;
use crate::enter::{self, Enter};
use crate::host;
use crate::ui::Step;

/// To be raised when what is done here changes.
const RECIPE: u32 = 1;
/// The place of them in the cache: a folder for each set of packages.
pub const PLACE: &str = "packages";
/// GiB that a few packages take, with the folders of the tree.
const GIB: f64 = 0.6;

/// A tree (`$2`) like the root's (`$1`), of the same files.
const LINK: &str = r#"
cp -al "$1" "$2"
for changed in etc var; do
	rm -rf "$2/$changed"
	cp -a "$1/$changed" "$2/$changed"
done
"#;
/// Nothing is started where it is installed.
const NO_SERVICES: &str =
    "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d";

/// A package as apt-get takes it: its name, and a version or a suite if one is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package(String);

impl FromStr for Package {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.find(['=', '/']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let good = |text: &str, more: &str| {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        // A minus at the end would have apt-get remove it.
        let begins = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_name =
            name.starts_with(begins) && !name.ends_with(['-', '+']) || name.ends_with("++");
        if is_name
            && good(name, "+-.:")
            && rest.len() != 1
            && good(rest.get(1..).unwrap_or(""), "+-.:~")
        {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is no name of a Debian package: write fio, or fio=3.39-1, or fio/trixie-backports"
        ))
    }
}

/// Where the root with these packages is, or would be.
fn place(packages: &[Package]) -> String {
    let key = Key::new(PLACE, 0).text(&names(packages).join(" ")).finish();
    format!("{PLACE}/{}", &key[..12])
}

/// Their names, each once and in order.
fn names(packages: &[Package]) -> Vec<&str> {
    let mut names: Vec<&str> = packages.iter().map(|package| package.0.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn key(context: &Context, packages: &[Package]) -> String {
    Key::new(PLACE, RECIPE)
        .text(&root::key())
        .text(&root::version(context))
        .text(&names(packages).join(" "))
        .text(LINK)
        .finish()
}

/// The tree of the root with these packages, if it is there.
pub fn fresh(context: &Context, packages: &[Package]) -> Option<PathBuf> {
    let place = place(packages);
    context
        .cache
        .is_fresh(&place, &key(context, packages))
        .then(|| context.cache.path(place).join("tree"))
}

/// Makes the tree if it is not there. The root is there, and the caller holds no lock of the cache.
pub fn ensure(context: &Context, packages: &[Package]) -> Result<()> {
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let title = format!("packages: {}", names(packages).join(", "));
    context
        .cache
        .ensure(
            &context.ui,
            &place(packages),
            &key(context, packages),
            &title,
            |dir, step| make(context, packages, dir, step),
        )
        .map(drop)
}

/// What to do when apt does not install them.
const HINT: &str = "look at the package's name: those of trixie and trixie-backports can be had; \
                    or check the network and the archive's address (--mirror URL chooses another)";

/// Fails if they can't be installed, before anything is made. The archive is asked only if its lists are not of today.
fn plan(context: &Context, packages: &[Package], log: &Path, step: &Step) -> Result<()> {
    let apt = Apt::new(context)?;
    let plan = || {
        apt.tool("apt-get")
            .args(["install", "--simulate", "--no-install-recommends", "--"])
            .args(names(packages))
            .hint(HINT)
            .run(log, step)
    };
    match plan() {
        Err(_) if !apt.is_up_to_date() => {
            apt.update(log, step)?;
            plan()
        }
        planned => planned,
    }
}

fn make(context: &Context, packages: &[Package], dir: &Path, step: &Step) -> Result<()> {
    host::require_room(context, GIB, "packages of the guest")?;
    let log = context.cache.fresh_log("packages");
    plan(context, packages, &log, step)?;
    let tree = dir.join("tree");
    enter::as_owner("sh")
        .args(["-ec", LINK, "link"])
        .arg(root::tree(context))
        .arg(&tree)
        .run(&log, step)
        .context("cannot copy the root")?;
    let sh = |script: &str| {
        Enter::new(&tree)
            .cmd("sh")
            .args(["-ec", script])
            .run(&log, step)
    };
    sh(NO_SERVICES)?;
    let apt = Apt::within(context, &tree)?;
    let install = || {
        apt.tool("apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(["-o", "APT::Keep-Downloaded-Packages=false"])
            .args(["-o", "Dpkg::Options::=--force-unsafe-io"])
            .arg("--")
            .args(names(packages))
            .hint(HINT)
            .run(&log, step)
    };
    // The lists may be old, and what they name gone.
    if install().is_err() {
        apt.update(&log, step)?;
        install()?;
    }
    sh("rm /usr/sbin/policy-rc.d")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(text: &str) -> Result<Package, String> {
        text.parse()
    }

    #[test]
    fn names_of_packages() {
        for good in [
            "fio",
            "libstdc++6",
            "g++",
            "nvme-cli",
            "0ad",
            "fio=3.39-1~bpo13+1",
            "fio/trixie-backports",
            "libc6:amd64",
        ] {
            assert!(package(good).is_ok(), "{good}");
        }
        for wrong in [
            "", "-y", "--purge", "Fio", "fio-", "fio+", "a b", "fio=", "fio/", "fio;true", "a,b",
            "../x",
        ] {
            assert!(package(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_set_has_one_place() {
        let set = |text: &str| -> Vec<Package> {
            text.split(',').map(|name| package(name).unwrap()).collect()
        };
        assert_eq!(place(&set("fio,mpich")), place(&set("mpich,fio,fio")));
        assert_ne!(place(&set("fio")), place(&set("mpich")));
    }
}
