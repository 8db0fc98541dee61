//! `status` and `clean`: what the cache holds, and removing it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::build::modules::Variant;
use crate::build::{self, kernel, packages, root, userland};
use crate::cache::Cache;
use crate::context::Context;
use crate::ui;

/// `status`
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `clean`
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
    /// Remove only what is made for a kernel: itself, its modules, its own tests, what guests boot from
    #[arg(long, conflicts_with = "keep_downloads")]
    pub kernels: bool,
    /// Remove all but the downloaded packages
    #[arg(long)]
    pub keep_downloads: bool,
}

/// One thing in the cache.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    state: State,
    bytes: u64,
    /// How long it took to make, in seconds.
    seconds: Option<f64>,
}

/// Whether a thing can be used as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    UpToDate,
    Outdated,
    Missing,
    /// Whether it is up to date has no meaning.
    Kept,
}

#[derive(Debug, Serialize)]
struct Status {
    cache: String,
    entries: Vec<Entry>,
    bytes: u64,
}

/// `status`
pub fn run(context: &Context, args: &StatusArgs) -> Result<ExitCode> {
    build::require_sources()?;
    let status = collect(context)?;
    if args.json {
        ui::say(format_args!(
            "{}",
            serde_json::to_string_pretty(&status).context("cannot write JSON")?
        ));
        return Ok(ExitCode::SUCCESS);
    }
    ui::say(format_args!("cache: {}", status.cache));
    for entry in &status.entries {
        let state = match entry.state {
            State::UpToDate => "up to date",
            State::Outdated => "outdated",
            State::Missing => "missing",
            State::Kept => "kept",
        };
        let seconds = entry
            .seconds
            .map(|s| format!("made in {s:.0} s"))
            .unwrap_or_default();
        ui::say(format_args!(
            "  {:<44} {state:<11} {:>9}  {seconds}",
            entry.name,
            size(entry.bytes)
        ));
    }
    ui::say(format_args!(
        "  {:<44} {:<11} {:>9}",
        "total",
        "",
        size(status.bytes)
    ));
    Ok(ExitCode::SUCCESS)
}

fn collect(context: &Context) -> Result<Status> {
    let cache = &context.cache;
    let mut entries = vec![entry(cache, "root", root::PLACE, &root::key())];
    let mut seen = Vec::new();
    for (_, chosen) in kernel::all_remembered(context) {
        if seen.contains(&chosen.release) {
            continue;
        }
        let key = kernel::key(context, &chosen);
        entries.push(entry(
            cache,
            &format!("kernel {}", chosen.release),
            &chosen.place(),
            &key,
        ));
        let place = Variant::Emm.place(&chosen.release);
        let name = format!("modules for {}", chosen.release);
        entries.push(entry(cache, &name, &place, &Variant::Emm.key(&key)?));
        seen.push(chosen.release);
    }
    entries.push(entry(
        cache,
        "programs of the guest",
        userland::PLACE,
        &userland::key(context)?,
    ));
    for (name, place) in KEPT {
        let bytes = disk_use(&cache.path(place));
        if bytes > 0 {
            entries.push(Entry {
                name: name.to_owned(),
                state: State::Kept,
                bytes,
                seconds: None,
            });
        }
    }
    let mut seen = HashSet::new();
    disk_use_beside(&cache.path(root::PLACE), &mut seen);
    let bytes = disk_use_beside(&cache.path(packages::PLACE), &mut seen);
    if bytes > 0 {
        entries.push(Entry {
            name: "packages beside the root".to_owned(),
            state: State::Kept,
            bytes,
            seconds: None,
        });
    }
    let bytes = disk_use(cache.dir());
    Ok(Status {
        cache: cache.dir().display().to_string(),
        entries,
        bytes,
    })
}

/// What only saves time or a download.
const KEPT: [(&str, &str); 6] = [
    ("downloaded packages", "downloads"),
    ("lists of packages", "apt"),
    ("crates", "vendor"),
    ("build folder of the programs", "target"),
    ("guests", "guest"),
    ("logs", "logs"),
];

fn entry(cache: &Cache, name: &str, place: &str, key: &str) -> Entry {
    let stamp = cache.stamp(place);
    let state = match &stamp {
        Some(stamp) if stamp.key == key => State::UpToDate,
        Some(_) => State::Outdated,
        None => State::Missing,
    };
    Entry {
        name: name.to_owned(),
        state,
        bytes: disk_use(&cache.path(place)),
        seconds: stamp.map(|stamp| stamp.seconds),
    }
}

/// Bytes on disk of all that can be read below a path.
fn disk_use(path: &Path) -> u64 {
    disk_use_beside(path, &mut HashSet::new())
}

/// The same without files that were `seen` by another name, and adds its own to them: the packages' files are those of the root, where they
/// are the same.
fn disk_use_beside(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        let known = metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino()));
        return if known { 0 } else { own };
    }
    let Ok(entries) = fs::read_dir(path) else {
        return own;
    };
    own + entries
        .flatten()
        .map(|entry| disk_use_beside(&entry.path(), seen))
        .sum::<u64>()
}

/// A size for people.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.1} MiB")
    }
}

/// What `clean --kernels` removes: all that is made for a kernel.
const OF_KERNELS: [&str; 7] = [
    "kernels",
    "modules",
    "drivers",
    "planted",
    "selftests",
    "guest",
    "tmp",
];

/// `clean`
pub fn clean(context: &Context, args: &CleanArgs) -> Result<ExitCode> {
    let cache = &context.cache;
    if !cache.exists()? {
        context
            .ui
            .note(format!("there is no cache at {}", cache.dir().display()));
        return Ok(ExitCode::SUCCESS);
    }
    // Guests and builds hold the lock: they are waited for.
    let lock = cache.lock_to_clean(&context.ui)?;
    let before = disk_use(cache.dir());
    if args.kernels {
        for part in OF_KERNELS {
            cache.remove(&lock, part)?;
        }
    } else if args.keep_downloads {
        cache.clear(&lock, &["downloads", "vendor"])?;
    } else {
        cache.clear(&lock, &[])?;
    }
    let after = disk_use(cache.dir());
    drop(lock);
    context.ui.note(format!(
        "{} removed from {}",
        size(before.saturating_sub(after)),
        cache.dir().display()
    ));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let (root, packages) = (dir.path().join("root"), dir.path().join("packages"));
        for place in [&root, &packages] {
            fs::create_dir(place).unwrap();
        }
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("file"), packages.join("file")).unwrap();
        fs::write(packages.join("own"), vec![1; 1 << 16]).unwrap();
        let whole = disk_use(dir.path());
        assert!((1 << 20..3 << 19).contains(&whole), "{whole}");
        let mut seen = HashSet::new();
        disk_use_beside(&root, &mut seen);
        let beside = disk_use_beside(&packages, &mut seen);
        assert!((1 << 16..1 << 18).contains(&beside), "{beside}");
    }
}
