//! Packages of the distribution, downloaded: a kernel's, and others that are not part of the root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::chosen::Chosen;
use super::key::Key;
use super::root::{Apt, REACH};
use crate::cache::remove_tree;
use crate::context::Context;
use crate::host;
use crate::ui::Step;

/// GiB that a kernel's packages take.
const GIB: f64 = 0.5;

/// Downloads the packages of a kernel. Each is checked by apt, and kept.
pub fn fetch(context: &Context, chosen: &Chosen) -> Result<Vec<PathBuf>> {
    let place = format!("downloads/{}", chosen.downloads());
    let key = Key::new("fetch", 1)
        .text(&chosen.packages().join(" "))
        .finish();
    let title = format!("kernel {}: download", chosen.release);
    let dir = context
        .cache
        .ensure(&context.ui, &place, &key, &title, |dir, step| {
            host::require_room(context, GIB, &title)?;
            download(context, &chosen.packages(), dir, step)
        })?;
    Ok(list(&dir)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .collect())
}

/// Downloads the packages `names`, of which nothing else comes along, to `dir`.
pub fn download(
    context: &Context,
    names: &[impl AsRef<OsStr>],
    dir: &Path,
    step: &Step,
) -> Result<()> {
    let log = context.cache.fresh_log("packages-download");
    let inside = context.cache.path("apt").join("debs");
    remove_tree(&inside)?;
    fs::create_dir_all(&inside).with_context(|| format!("cannot create {}", inside.display()))?;
    let apt = Apt::new(context)?.in_folder("debs");
    // The lists may be old, and what they name gone.
    let download = || {
        apt.tool("apt-get")
            .arg("download")
            .args(names)
            .hint(REACH)
            .run(&log, step)
    };
    if download().is_err() {
        apt.update(&log, step)?;
        download()?;
    }
    for deb in list(&inside)? {
        if let Some(name) = deb.file_name() {
            fs::rename(&deb, dir.join(name))
                .with_context(|| format!("cannot move {}", deb.display()))?;
        }
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    let mut paths = read().with_context(|| format!("cannot read {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}
