//! The cache's lock: an flock on its mark, so that what is locked is always a marked cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::place::{self, Found, MARK, MARK_TEXT, OLD_LOCK};
use crate::exit::{HOST, coded};
use crate::signal;
use crate::ui::Ui;

/// How the cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By one alone, who changes it.
    Exclusive,
    /// By several, who rely on it as it is.
    Shared,
}

impl Kind {
    fn operation(self) -> FlockOperation {
        match self {
            Self::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Self::Shared => FlockOperation::NonBlockingLockShared,
        }
    }
}

/// The cache's lock, held until dropped.
#[derive(Debug)]
pub struct CacheLock {
    file: File,
    kind: Kind,
}

impl CacheLock {
    /// Whether nobody else uses the cache.
    pub(super) fn is_exclusive(&self) -> bool {
        self.kind == Kind::Exclusive
    }
}

/// Locks the cache; makes and marks it if it is not there.
pub(super) fn lock(dir: &Path, ui: &Ui, kind: Kind) -> Result<CacheLock> {
    let path = dir.join(MARK);
    loop {
        let file = open(dir, &path)?;
        wait(dir, ui, &file, kind.operation())?;
        let lock = CacheLock { file, kind };
        // It may have been waited for while `clean` took the cache away.
        if !is_at(&lock.file, &path) {
            continue;
        }
        if is_whole(&lock.file)? {
            return Ok(lock);
        }
        wait(dir, ui, &lock.file, Kind::Exclusive.operation())?;
        if is_at(&lock.file, &path) && !is_whole(&lock.file)? {
            mark(dir, ui, &lock.file)?;
        }
        // Once more: the lock that was asked for, of a cache that is marked by now.
    }
}

/// Opens the mark, or begins it in a new cache.
fn open(dir: &Path, path: &Path) -> Result<File> {
    // Before anything is written into it.
    place::look(dir, &place::homes())?;
    fs::create_dir_all(dir)
        .and_then(|()| {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(path)
        })
        .map_err(|error| cannot_use(dir, &error))
}

fn cannot_use(dir: &Path, error: &io::Error) -> anyhow::Error {
    let owner = fs::metadata(dir).map(|meta| meta.uid());
    let own = rustix::process::geteuid().as_raw();
    let whose = match owner {
        Ok(owner) if owner != own => format!("; it belongs to user {owner}, this is user {own}"),
        _ => String::new(),
    };
    coded(
        HOST,
        format!(
            "the cache {} cannot be used: {error}{whose}\n  what to do: choose another with --cache DIR",
            dir.display()
        ),
    )
}

/// Writes the mark. The caller holds the exclusive lock.
fn mark(dir: &Path, ui: &Ui, mut file: &File) -> Result<()> {
    let found = place::look(dir, &place::homes())?;
    let old = dir.join(OLD_LOCK);
    let mut old_lock = None;
    if found == Found::Old {
        if let Ok(lock) = File::open(&old) {
            // A run of an earlier version of this tool.
            wait(dir, ui, &lock, Kind::Exclusive.operation())?;
            old_lock = Some(lock);
        }
    }
    file.rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.write_all(MARK_TEXT.as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(|error| cannot_use(dir, &error))?;
    if old_lock.is_some() {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        ui.note(format!(
            "the cache {} is one of an earlier version: it is marked now, with {MARK}",
            dir.display()
        ));
    }
    Ok(())
}

fn is_whole(mut file: &File) -> Result<bool> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the cache's {MARK}"))?;
    Ok(bytes == MARK_TEXT.as_bytes())
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Takes a lock; says so if that has to be waited for.
fn wait(dir: &Path, ui: &Ui, file: &File, operation: FlockOperation) -> Result<()> {
    let mut told = false;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(error) => bail!("cannot lock the cache {}: {error}", dir.display()),
        }
        if !told {
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            let by = match file.metadata().map(|meta| holders(&locks, meta.ino())) {
                Ok(pids) if !pids.is_empty() => format!(" (process {})", pids.join(", ")),
                _ => String::new(),
            };
            ui.note(format!(
                "waiting: another run uses the cache {}{by}",
                dir.display()
            ));
            told = true;
        }
        // A lock that is waited for in the kernel would let no signal end this.
        signal::check()?;
        thread::sleep(Duration::from_millis(200));
    }
}

/// The processes that hold a lock on the file with this inode, by the lines of /proc/locks.
fn holders(locks: &str, inode: u64) -> Vec<String> {
    let inode = format!(":{inode}");
    locks
        .lines()
        // NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END; who waits has `->` before FLOCK.
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let flock = words.next()? == "FLOCK";
            let (pid, place) = (words.nth(2)?, words.next()?);
            (flock && place.ends_with(&inode)).then(|| pid.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock() {
        let locks = "1: POSIX  ADVISORY  READ 7 fd:00:42 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 812 fd:00:42 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ 813 fd:00:42 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 900 fd:00:142 0 EOF\n";
        assert_eq!(holders(locks, 42), ["812"]);
        assert!(holders("", 42).is_empty());
    }
}
