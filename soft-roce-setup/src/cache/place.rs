//! Where the cache is, and whether what lies there is ours.
//!
//! A cache says what it is: its mark is a `CACHEDIR.TAG`, which backup programs know, with a line of ours. Without
//! it a directory that is not empty is somebody else's, and no subcommand touches it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::stamp::{STAMP, Stamp};
use crate::exit::{USAGE, coded};

/// The file that makes a directory a cache. Whoever uses the cache holds its lock (flock).
pub(super) const MARK: &str = "CACHEDIR.TAG";
/// What is in it. The first line is that of <https://bford.info/cachedir/>, the last one is ours.
pub(super) const MARK_TEXT: &str = "\
Signature: 8a477f597d28d172789f06886806bc55
# This directory was made by soft-roce-setup and has nothing but what it can make again.
# `soft-roce-setup clean` removes all that is in it.
soft-roce-setup cache 1
";
/// The lock of caches from before there was a mark.
pub(super) const OLD_LOCK: &str = "lock";

/// What is at the place of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// A cache with its mark.
    Marked,
    /// A cache from before there was a mark.
    Old,
}

/// The default place.
pub(super) fn default_dir() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("ib-emm"))
        .ok_or_else(|| {
            let message =
                "neither XDG_CACHE_HOME nor HOME is set: choose the cache with --cache DIR";
            coded(USAGE, message)
        })
}

/// The absolute path of `dir` without links, whether it exists or not.
pub(super) fn resolve(dir: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(dir)
        .with_context(|| format!("`{}` is not a usable path", dir.display()))?;
    let mut missing = Vec::new();
    let mut there = whole.as_path();
    let resolved = loop {
        match there.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(refused(dir, &format!("it cannot be looked at: {error}")));
            }
            // A link to what is not there.
            Err(_) if there.is_symlink() => {
                return Err(refused(
                    dir,
                    &format!("{} is a link to nowhere", there.display()),
                ));
            }
            Err(_) => {}
        }
        match (there.components().next_back(), there.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                missing.push(name.to_owned());
                there = parent;
            }
            _ => {
                return Err(refused(
                    dir,
                    "it goes up from a directory that is not there",
                ));
            }
        }
    };
    Ok(missing
        .iter()
        .rev()
        .fold(resolved, |dir, name| dir.join(name)))
}

/// Whether `dir` (resolved) can be a cache.
///
/// # Errors
/// It is `/`, a home, no directory, or somebody else's: [`USAGE`].
pub(super) fn look(dir: &Path, homes: &[PathBuf]) -> Result<Found> {
    if dir.parent().is_none() {
        return Err(refused(dir, "it is the root of the file system"));
    }
    if homes.iter().any(|home| home == dir) {
        return Err(refused(dir, "it is a home"));
    }
    let mut names = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(refused(dir, "it is no directory"));
        }
        Err(error) => return Err(refused(dir, &format!("it cannot be looked at: {error}"))),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        names.push(entry.file_name());
    }
    match mark(dir) {
        Mark::Whole => return Ok(Found::Marked),
        // Left by a run that ended, or being written by one that begins.
        Mark::Begun => names.retain(|name| name != MARK),
        Mark::None => {}
    }
    if names.is_empty() {
        return Ok(Found::Nothing);
    }
    let strange = names.iter().find(|name| {
        let known = |(known, _): &(&str, _)| *name == known;
        !OLD.iter().any(known)
    });
    if let Some(name) = strange {
        let name = name.to_string_lossy();
        return Err(refused(
            dir,
            &format!("it is not empty and was not made by this tool (it has `{name}`)"),
        ));
    }
    if is_old(dir) {
        return Ok(Found::Old);
    }
    Err(refused(
        dir,
        "it is not empty and has no mark of this tool, not even one of its old stamps",
    ))
}

fn refused(dir: &Path, why: &str) -> anyhow::Error {
    let message = format!(
        "{} is not taken as cache: {why}\n  what to do: choose a new or an empty directory with --cache DIR \
         (default: $XDG_CACHE_HOME/ib-emm or ~/.cache/ib-emm)",
        dir.display()
    );
    coded(USAGE, message)
}

/// A mark as it is found.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    None,
    /// A beginning of it, or an empty file.
    Begun,
    Whole,
}

fn mark(dir: &Path) -> Mark {
    let path = dir.join(MARK);
    // A link may point to another cache's.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Mark::None;
    }
    match fs::read(&path) {
        Ok(bytes) if bytes == MARK_TEXT.as_bytes() => Mark::Whole,
        Ok(bytes) if MARK_TEXT.as_bytes().starts_with(&bytes) => Mark::Begun,
        _ => Mark::None,
    }
}

/// How deep below its name in the cache a step's stamp was, for what has one.
type Depth = Option<usize>;

/// What caches had before there was a mark.
const OLD: [(&str, Depth); 17] = [
    ("apt", None),
    ("downloads", Some(1)),
    ("drivers", Some(2)),
    ("forky", Some(0)),
    ("guest", None),
    ("kernels", Some(1)),
    (OLD_LOCK, None),
    ("logs", None),
    ("modules", Some(1)),
    ("planted", Some(2)),
    ("root", Some(0)),
    ("selftests", Some(1)),
    ("target", None),
    ("tmp", None),
    ("unit-tests", Some(0)),
    ("userland", Some(0)),
    ("vendor", Some(0)),
];

/// Whether a directory that has no other names than [`OLD`] is an old cache: by the stamps of its steps, which were renamed
/// to their places with their stamps in them; or by what a run left that ended before the first of them.
fn is_old(dir: &Path) -> bool {
    let mut stamps = 0;
    for (name, depth) in OLD {
        let Some(depth) = depth else { continue };
        let place = dir.join(name);
        if !exists(&place) {
            continue;
        }
        let here = count_stamps(&place, depth);
        // A folder that is a step by itself is never without.
        if depth == 0 && here == 0 {
            return false;
        }
        stamps += here;
    }
    stamps > 0 || has_only_begun(dir)
}

/// Stamps so many folders below `place`; no link is followed.
fn count_stamps(place: &Path, depth: usize) -> usize {
    if !place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return 0;
    }
    if depth == 0 {
        let text = fs::read_to_string(place.join(STAMP)).unwrap_or_default();
        return usize::from(Stamp::parse(&text).is_some());
    }
    let Ok(entries) = fs::read_dir(place) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| count_stamps(&entry.path(), depth - 1))
        .sum()
}

/// Whether there is nothing but an old lock, empty folders, and logs that begin as ours do.
fn has_only_begun(dir: &Path) -> bool {
    let is_ours = |name: &str| {
        let path = dir.join(name);
        let Ok(meta) = path.symlink_metadata() else {
            return true;
        };
        match name {
            OLD_LOCK => fs::read(&path).is_ok_and(|text| text.iter().all(u8::is_ascii_digit)),
            "logs" => fs::read_dir(&path).is_ok_and(|logs| {
                logs.flatten().all(|log| {
                    let path = log.path();
                    path.extension().is_some_and(|kind| kind == "log")
                        && fs::read(&path).is_ok_and(|text| text.starts_with(b"$ "))
                })
            }),
            _ => meta.is_dir() && fs::read_dir(&path).is_ok_and(|mut all| all.next().is_none()),
        }
    };
    OLD.iter().all(|(name, _)| is_ours(name)) && exists(&dir.join(OLD_LOCK))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The homes of this host: $HOME, and those of all users that it knows by itself.
pub(super) fn homes() -> Vec<PathBuf> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users
        .lines()
        .filter_map(|line| line.split(':').nth(5))
        .map(PathBuf::from);
    let own = std::env::var_os("HOME").map(PathBuf::from);
    named
        .chain(own)
        .filter(|home| home.is_absolute())
        .filter_map(|home| home.canonicalize().ok())
        .collect()
}
