//! What a newer kernel has taken the place of: it goes when something is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;

use super::chosen::{Chosen, DOWNLOADS};
use super::{debug, kernel};
use crate::cache::CacheLock;
use crate::context::Context;

/// Folders of the cache that have one for each kernel, by its release.
const BY_RELEASE: [&str; 5] = ["kernels", "modules", "drivers", "planted", "selftests"];
/// What a kernel's folder has behind its release while it is built.
const BUILDING: &str = ".building";

/// Removes kernels that no choice stands for any more, and all that was made for them.
pub fn remove(context: &Context, lock: &CacheLock) -> Result<()> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for (asked, kernel) in kernel::all_remembered(context) {
        // The debug kernel is one of the default's source.
        chosen.extend(asked.is_empty().then(|| debug::chosen(&kernel)));
        chosen.push(kernel);
    }
    // Without a memory nothing can be said.
    if chosen.is_empty() {
        return Ok(());
    }
    let gone = places(context.cache.dir(), &chosen);
    if gone.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = gone
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    context
        .ui
        .note(format!("removing what is superseded: {}", names.join(", ")));
    for place in gone {
        context.cache.remove(lock, place)?;
    }
    Ok(())
}

/// What in the cache `dir` belongs to none of `chosen`.
fn places(dir: &Path, chosen: &[Chosen]) -> Vec<PathBuf> {
    let is_kept = |release: &str| chosen.iter().any(|kernel| kernel.release == release);
    let mut gone = Vec::new();
    for folder in BY_RELEASE {
        for name in folders(dir, folder) {
            if !is_kept(name.strip_suffix(BUILDING).unwrap_or(&name)) {
                gone.push(Path::new(folder).join(name));
            }
        }
    }
    for name in folders(dir, "downloads") {
        if name.starts_with(DOWNLOADS) && chosen.iter().all(|one| one.downloads() != name) {
            gone.push(Path::new("downloads").join(name));
        }
    }
    // RELEASE-KEY; of those of one kernel the newest is the one that is booted.
    let mut newest: Vec<(String, SystemTime, String)> = Vec::new();
    for name in folders(dir, "guest") {
        let release = name.rsplit_once('-').map_or("", |(release, _)| release);
        let made = fs::metadata(dir.join("guest").join(&name))
            .and_then(|meta| meta.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let older = match newest.iter_mut().find(|known| known.0 == release) {
            _ if !is_kept(release) => Some(name),
            Some(known) if known.1 < made => {
                known.1 = made;
                Some(std::mem::replace(&mut known.2, name))
            }
            Some(_) => Some(name),
            None => {
                newest.push((release.to_owned(), made, name));
                None
            }
        };
        gone.extend(older.map(|name| Path::new("guest").join(name)));
    }
    gone
}

/// Names of the folders in a folder of the cache; no link is one.
fn folders(dir: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join(folder)) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_no_choice_stands_for_goes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(dir.path().join(path)).unwrap();
        let (new, old) = ("7.3.5+deb13-amd64", "7.3.4+deb13-amd64");
        for release in [new, old, "7.3.5-debug", "7.3.4-debug"] {
            for folder in BY_RELEASE {
                make(&format!("{folder}/{release}"));
            }
        }
        make("kernels/7.3.5-debug.building");
        make("kernels/7.3.4-debug.building");
        fs::write(dir.path().join("kernels/chosen.json"), "[]").unwrap();
        make("downloads/kernel-7.3.5-1_bpo13_1");
        make("downloads/kernel-7.3.4-1_bpo13_1");
        make("downloads/others");
        let guests = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"];
        for (age, key) in [30, 10, 20].into_iter().zip(guests) {
            let path = format!("guest/{new}-{key}");
            make(&path);
            let made = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(dir.path().join(path))
                .unwrap()
                .set_modified(made)
                .unwrap();
        }
        make(&format!("guest/{old}-dddddddddddd"));
        let stock = Chosen {
            series: "7.3".to_owned(),
            release: new.to_owned(),
            package_version: "7.3.5-1~bpo13+1".to_owned(),
            debug_of: None,
        };
        let debug = debug::chosen(&stock);
        let mut gone = places(dir.path(), &[stock, debug]);
        gone.sort();
        let mut want: Vec<PathBuf> = BY_RELEASE
            .iter()
            .flat_map(|folder| [old, "7.3.4-debug"].map(|old| Path::new(folder).join(old)))
            .collect();
        want.push("kernels/7.3.4-debug.building".into());
        want.push("downloads/kernel-7.3.4-1_bpo13_1".into());
        want.push(format!("guest/{new}-aaaaaaaaaaaa").into());
        want.push(format!("guest/{new}-cccccccccccc").into());
        want.push(format!("guest/{old}-dddddddddddd").into());
        want.sort();
        assert_eq!(gone, want);
    }
}
