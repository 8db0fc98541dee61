//! The cache: steps that are done once, never half, and again only when their inputs change.
//!
//! A step's result is a directory with a stamp. It is made under `tmp/` and renamed when complete, so
//! what stands in its final place is whole. The stamp holds the key of the inputs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::enter;
use crate::signal;
use crate::ui::{Step, Ui};

const STAMP: &str = "stamp.json";

/// The directory that everything is kept in.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// What a step leaves beside its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// Key of the inputs.
    pub key: String,
    /// How long the step took, in seconds.
    pub seconds: f64,
    /// When it was done, in seconds of the Unix epoch.
    pub made: u64,
}

impl Cache {
    /// Opens the cache at `dir`, or at the user's cache directory, and creates it if need be.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => default_dir()?,
        };
        let dir = std::path::absolute(&dir)
            .with_context(|| format!("`{}` is not a usable path", dir.display()))?;
        for sub in ["logs", "tmp"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| {
                format!(
                    "cannot create the cache {}: choose another with --cache",
                    dir.display()
                )
            })?;
        }
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot open {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path inside the cache.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// The log called `name`, for appending.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// The log called `name`, emptied.
    pub fn fresh_log(&self, name: &str) -> PathBuf {
        let log = self.log(name);
        // If that fails, so does the first command that opens it, with a message.
        let _ = fs::remove_file(&log);
        log
    }

    /// Waits for the sole use of the cache.
    pub fn lock_exclusive(&self, ui: &Ui) -> Result<CacheLock> {
        self.lock(ui, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until nobody changes the cache, and keeps it so.
    pub fn lock_shared(&self, ui: &Ui) -> Result<CacheLock> {
        self.lock(ui, FlockOperation::NonBlockingLockShared)
    }

    fn lock(&self, ui: &Ui, operation: FlockOperation) -> Result<CacheLock> {
        let path = self.dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        let mut told = false;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::INTR) => continue,
                Err(error) => bail!("cannot lock {}: {error}", path.display()),
            }
            if !told {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let by = if pid.is_empty() {
                    String::new()
                } else {
                    format!(" (last locked by process {pid})")
                };
                ui.note(format!(
                    "waiting: another run uses the cache {}{by}",
                    self.dir.display()
                ));
                told = true;
            }
            // A lock that is waited for in the kernel would let no signal end this.
            signal::check()?;
            thread::sleep(Duration::from_millis(200));
        }
        // The number only serves the message above.
        let _ = file.rewind().and_then(|()| file.set_len(0));
        let _ = write!(file, "{}", std::process::id());
        Ok(CacheLock { _file: file })
    }

    /// The stamp of a step's result, if that is there.
    pub fn stamp(&self, place: &str) -> Option<Stamp> {
        let text = fs::read_to_string(self.dir.join(place).join(STAMP)).ok()?;
        serde_json::from_str(&text).ok()
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
        let done = self.dir.join(place);
        if self.is_fresh(place, key) {
            return Ok(done);
        }
        signal::check()?;
        let step = ui.step(title);
        let fresh = self.dir.join("tmp").join(place.replace('/', "_"));
        let old = self
            .dir
            .join("tmp")
            .join(format!("{}.old", place.replace('/', "_")));
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

    /// Removes what interrupted runs left. The caller holds the exclusive lock.
    pub fn sweep(&self) -> Result<()> {
        let tmp = self.dir.join("tmp");
        for entry in fs::read_dir(&tmp).with_context(|| format!("cannot read {}", tmp.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", tmp.display()))?;
            remove_tree(&entry.path())?;
        }
        Ok(())
    }
}

/// The cache's lock, held until dropped.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

fn default_dir() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("ib-emm"))
        .context("neither XDG_CACHE_HOME nor HOME is set: choose the cache with --cache DIR")
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Removes a file or a tree, also one that belongs to the sub-ids of an ordinary user. One that is
/// not there is no error.
pub fn remove_tree(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            enter::remove_as_owner(path)
        }
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
