//! The sources of this repository, and copies of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::key::Key;
use crate::host::{checkout, require_sources};

/// The sources that everything is made of: those of the checkout, or as they were when they were frozen.
pub fn repository() -> PathBuf {
    let frozen = FROZEN.lock().unwrap_or_else(PoisonError::into_inner);
    frozen
        .clone()
        .or_else(|| std::env::var_os(HANDED).map(PathBuf::from))
        .unwrap_or_else(checkout)
}

/// The variable by which a run hands its frozen sources to those that it starts itself.
pub const HANDED: &str = "SOFT_ROCE_SETUP_SOURCES";

static FROZEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Fails if they are not there.
pub fn require() -> Result<()> {
    require_sources(&repository())
}

/// The sources as they were at one moment, until this is dropped. What is edited meanwhile has no effect.
#[derive(Debug)]
pub struct Frozen {
    copy: TempDir,
}

impl Frozen {
    /// Freezes the sources of the checkout.
    pub fn new() -> Result<Self> {
        require()?;
        let copy = copy_of(&checkout())?;
        *FROZEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy.path().to_owned());
        Ok(Self { copy })
    }

    /// Whether the checkout differs by now.
    pub fn is_outdated(&self) -> Result<bool> {
        differ(self.copy.path(), &checkout())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        *FROZEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn copy_of(checkout: &Path) -> Result<TempDir> {
    let copy = tempfile::Builder::new()
        .prefix("soft-roce-setup-sources-")
        .tempdir()
        .context("cannot make a folder for a copy of the sources")?;
    for part in parts(checkout)? {
        let (from, to) = (checkout.join(&part), copy.path().join(&part));
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(copy)
}

fn differ(one: &Path, other: &Path) -> Result<bool> {
    let key = |repository: &Path| -> Result<String> {
        let mut key = Key::new("sources", 1);
        for part in parts(one)? {
            key = key.path(&repository.join(part))?;
        }
        Ok(key.finish())
    };
    Ok(key(one)? != key(other)?)
}

/// What a repository has at its top that something is made of: its crates, the kernel's part, and what cargo wants to see.
fn parts(repository: &Path) -> Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(repository)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            // Whatever else lies there, results or a cache, is none of the sources.
            let is_source = if path.is_dir() {
                SOURCES.contains(&name.as_str())
            } else {
                name.starts_with("Cargo.")
            };
            if is_source {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    read().with_context(|| format!("cannot read {}", repository.display()))
}

/// Folders of the repository that something is made of.
const SOURCES: [&str; 7] = [
    "benches",
    "ib-emm",
    "kernel",
    "soft-roce-setup",
    "tests",
    "verbs-shim",
    "xpmem",
];

/// Copies a folder with all in it; permissions and modification times stay. Hidden files and `target` are left out.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else {
            let target = to.join(name);
            fs::copy(entry.path(), &target)?;
            let modified = entry.metadata()?.modified()?;
            fs::File::options()
                .write(true)
                .open(&target)?
                .set_modified(modified)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "Cargo.toml",
            "kernel/ib_emm/main.rs",
            "ib-emm/Cargo.toml",
            "soft-roce-setup/Cargo.toml",
            "target/debug/x",
            "bench-out/bench.json",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "first").unwrap();
        }
        dir
    }

    #[test]
    fn every_crate_is_among_the_sources() {
        let manifest = fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
        let (_, members) = manifest.split_once("members = [").unwrap();
        let (members, _) = members.split_once(']').unwrap();
        for member in members.split('"').skip(1).step_by(2) {
            let top = member.split('/').next().unwrap();
            assert!(SOURCES.contains(&top), "{member}");
        }
    }

    #[test]
    fn what_is_edited_after_it_was_frozen_has_no_effect() {
        let dir = repository();
        let copy = copy_of(dir.path()).unwrap();
        assert!(!differ(copy.path(), dir.path()).unwrap());
        assert!(!copy.path().join("target").exists() && !copy.path().join("bench-out").exists());
        let source = "kernel/ib_emm/main.rs";
        fs::write(dir.path().join(source), "second").unwrap();
        assert_eq!(
            fs::read_to_string(copy.path().join(source)).unwrap(),
            "first"
        );
        assert!(differ(copy.path(), dir.path()).unwrap());
    }
}
