//! The cache: steps that are done once, never half, and again only when their inputs change.
//!
//! A step's result is a directory with a stamp. It is made under `tmp/` and renamed when complete, so
//! what stands in its final place is whole. The stamp holds the key of the inputs.

mod lock;
mod place;
mod remove;
mod stamp;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use self::lock::Kind;
use self::place::{Found, MARK};
use self::stamp::STAMP;
use crate::signal;
use crate::ui::{Step, Ui};

pub use self::lock::CacheLock;
pub use self::remove::remove_tree;
pub use self::stamp::Stamp;

/// What is not whole yet, and gone after the next build.
const TMP: &str = "tmp";
const LOGS: &str = "logs";

/// The directory that everything is kept in, whether it is there yet or not.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache at `dir`, or at the user's cache directory. Nothing is made before the first lock.
    ///
    /// # Errors
    /// What lies there is not a cache's, or is to be nobody's cache: `/`, a home.
    pub fn locate(dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => place::default_dir()?,
        };
        let dir = place::resolve(&dir)?;
        place::look(&dir, &place::homes())?;
        Ok(Self { dir })
    }

    /// Whether there is a cache, and not merely a place for one.
    pub fn exists(&self) -> Result<bool> {
        Ok(place::look(&self.dir, &place::homes())? != Found::Nothing)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cache, or the folder that is to hold it: where a new cache will lie.
    pub fn ground(&self) -> &Path {
        let mut all = self.dir.ancestors();
        all.find(|dir| dir.is_dir()).unwrap_or(&self.dir)
    }

    /// A path inside the cache.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// The log called `name`, for appending.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(LOGS).join(format!("{name}.log"))
    }

    /// The log called `name`, emptied.
    pub fn fresh_log(&self, name: &str) -> PathBuf {
        let log = self.log(name);
        // If that fails, so does the first command that opens it, with a message.
        let _ = fs::remove_file(&log);
        log
    }

    /// Waits for the sole use of the cache, which is made if it is not there.
    pub fn lock_exclusive(&self, ui: &Ui) -> Result<CacheLock> {
        self.lock(ui, Kind::Exclusive)
    }

    /// Waits until nobody changes the cache, and keeps it so.
    pub fn lock_shared(&self, ui: &Ui) -> Result<CacheLock> {
        self.lock(ui, Kind::Shared)
    }

    /// Waits until guests and builds have ended, and keeps others away until all is removed.
    pub fn lock_to_clean(&self, ui: &Ui) -> Result<CacheLock> {
        lock::lock(&self.dir, ui, Kind::Exclusive)
    }

    fn lock(&self, ui: &Ui, kind: Kind) -> Result<CacheLock> {
        let lock = lock::lock(&self.dir, ui, kind)?;
        remove::refuse_links_in(&self.dir)?;
        for sub in [LOGS, TMP] {
            let path = self.path(sub);
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                        bail!(
                            "{} is no directory of the cache's own\n  what to do: remove it",
                            path.display()
                        );
                    }
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
        Ok(lock)
    }

    /// The stamp of a step's result, if that is there.
    pub fn stamp(&self, place: &str) -> Option<Stamp> {
        let text = fs::read_to_string(self.dir.join(place).join(STAMP)).ok()?;
        Stamp::parse(&text)
    }

    /// Whether a step's result is there and was made from the inputs of `key`.
    pub fn is_fresh(&self, place: &str, key: &str) -> bool {
        self.stamp(place).is_some_and(|stamp| stamp.key == key)
    }

    /// The result of a step at `place` (relative to the cache): the one that is there, if it was made
    /// from the inputs of `key`, or else a new one that `make` writes into the directory it is given.
    ///
    /// The caller holds the exclusive lock.
    pub fn ensure(
        &self,
        ui: &Ui,
        place: &str,
        key: &str,
        title: &str,
        make: impl FnOnce(&Path, &Step) -> Result<()>,
    ) -> Result<PathBuf> {
        self.ensure_or_renew(false, ui, place, key, title, make)
    }

    /// The same; with `renew` a new one in any case. The old one stays until that is complete.
    pub fn ensure_or_renew(
        &self,
        renew: bool,
        ui: &Ui,
        place: &str,
        key: &str,
        title: &str,
        make: impl FnOnce(&Path, &Step) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.dir.join(place);
        if !renew && self.is_fresh(place, key) {
            return Ok(done);
        }
        signal::check()?;
        remove::refuse_links(&self.dir, Path::new(place))?;
        let step = ui.step(title);
        let name = place.replace('/', "_");
        let fresh = self.path(TMP).join(&name);
        let old = self.path(TMP).join(format!("{name}.old"));
        remove_tree(&fresh)?;
        remove_tree(&old)?;
        fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
        make(&fresh, &step).with_context(|| format!("{title}: failed"))?;
        signal::check()?;
        let stamp = Stamp {
            key: key.to_owned(),
            seconds: step.elapsed().as_secs_f64(),
            made: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        let text = serde_json::to_string_pretty(&stamp).context("cannot write a stamp")?;
        let stamp_file = fresh.join(STAMP);
        fs::write(&stamp_file, text)
            .with_context(|| format!("cannot write {}", stamp_file.display()))?;
        if let Some(parent) = done.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        if done.exists() {
            rename(&done, &old)?;
        }
        rename(&fresh, &done)?;
        remove_tree(&old)?;
        step.done();
        Ok(done)
    }

    /// Removes what interrupted runs left.
    pub fn sweep(&self, lock: &CacheLock) -> Result<()> {
        self.remove(lock, TMP)?;
        let tmp = self.path(TMP);
        fs::create_dir(&tmp).with_context(|| format!("cannot create {}", tmp.display()))
    }

    /// Removes a part of the cache, if it is there. What a link in the cache points to is no part of it.
    pub fn remove(&self, lock: &CacheLock, relative: impl AsRef<Path>) -> Result<()> {
        assert!(lock.is_exclusive(), "others use what is to be removed");
        remove::refuse_links(&self.dir, relative.as_ref())?;
        remove_tree(&self.path(relative))
    }

    /// Removes all that is in the cache but the parts `keep`; without any, the cache itself.
    ///
    /// The mark goes last: what an interruption leaves is still a cache.
    pub fn clear(&self, lock: &CacheLock, keep: &[&str]) -> Result<()> {
        let read = || format!("cannot read {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).with_context(read)? {
            let name = entry.with_context(read)?.file_name();
            if name != MARK && keep.iter().all(|kept| name != **kept) {
                signal::check()?;
                self.remove(lock, name)?;
            }
        }
        if keep.is_empty() {
            self.remove(lock, MARK)?;
            // A directory that something is mounted at, or whose parent is not ours to write, stays, empty.
            let _ = fs::remove_dir(&self.dir);
        }
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests;
