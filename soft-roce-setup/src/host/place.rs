//! The place of the cache: what its file system allows, how much room it has, and whose it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{Access, StatVfs, StatVfsMountFlags};

use super::distro::sudo;
use super::finding::{Finding, State};
use crate::context::Context;
use crate::enter;
use crate::exit::{HOST, coded};

/// GiB on disk for the root, one kernel, its packages and the builds.
const FIRST: f64 = 6.0;
/// GiB for what changes later.
const LATER: f64 = 1.0;
/// Files of the root, one kernel and the builds, in thousands.
const FILES_FIRST: u64 = 300;
/// Files of what changes later, in thousands.
const FILES_LATER: u64 = 20;
/// GiB that an ordinary user's mmdebstrap takes in the folder for temporary files.
const ROOT_TREE: f64 = 2.5;
/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// What the cache has already, and nothing needs room for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Made {
    /// The root.
    pub root: bool,
    /// A kernel.
    pub kernel: bool,
}

/// All that is looked at.
pub(super) fn all(context: &Context, made: Made) -> Vec<Finding> {
    let ground = context.cache.ground();
    let (gib, files) = if made.root && made.kernel {
        (LATER, FILES_LATER)
    } else {
        (FIRST, FILES_FIRST)
    };
    let other = "make room, or choose a cache on another disk with --cache DIR";
    let mut all = vec![room("disk", ground, gib, files, other)];
    all.extend(mount(
        "file system",
        ground,
        "choose another with --cache DIR",
    ));
    all.extend(owner(context, ground));
    // An ordinary user's mmdebstrap makes the root there, and hands it over packed.
    if !enter::is_root() && !made.root {
        let tmp = std::env::temp_dir();
        let other = "make room, or set TMPDIR to a folder on another disk that all users can enter";
        all.push(room("temporary files", &tmp, ROOT_TREE, FILES_LATER, other));
        all.extend(mount(
            "temporary files",
            &tmp,
            "set TMPDIR to a folder elsewhere that all users can enter",
        ));
    }
    all
}

/// Fails if the cache's disk has no `gib` GiB left, before the big step `what` fills it.
pub fn require_room(context: &Context, gib: f64, what: &str) -> Result<()> {
    let ground = context.cache.ground();
    let Ok(stat) = rustix::fs::statvfs(ground) else {
        // Whoever writes there says it better.
        return Ok(());
    };
    let free = free(&stat);
    if free >= gib {
        return Ok(());
    }
    Err(coded(
        HOST,
        format!(
            "{what}: {free:.1} GiB are free in {}, and it takes {gib:.1}\n  \
             what to do: make room (`soft-roce-setup status` shows what the cache holds), or choose a cache on another disk with --cache DIR",
            ground.display()
        ),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn free(stat: &StatVfs) -> f64 {
    (stat.f_bavail * stat.f_frsize) as f64 / GIB
}

fn room(name: &'static str, dir: &Path, gib: f64, thousands: u64, fix: &str) -> Finding {
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return Finding::missing(name, format!("cannot look at {}", dir.display()), fix);
    };
    let free = free(&stat);
    let detail = format!(
        "{free:.1} GiB free in {} ({gib:.1} GiB needed)",
        dir.display()
    );
    if free < gib {
        return Finding::missing(name, detail, fix);
    }
    // Some file systems have no fixed number of files, and say 0.
    if stat.f_files > 0 && stat.f_favail < thousands * 1000 {
        let detail = format!(
            "{}: its file system has room for {} files more ({thousands}000 needed)",
            dir.display(),
            stat.f_favail
        );
        return Finding::missing(name, detail, fix);
    }
    Finding::there(name, detail)
}

/// What the mount at `dir` forbids, if that matters.
fn mount(name: &'static str, dir: &Path, fix: &str) -> Option<Finding> {
    let flags = rustix::fs::statvfs(dir).ok()?.f_flag;
    forbidden(name, dir, flags, fix)
}

fn forbidden(
    name: &'static str,
    dir: &Path,
    flags: StatVfsMountFlags,
    fix: &str,
) -> Option<Finding> {
    let place = dir.display();
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Some(Finding::missing(
            name,
            format!("{place} is mounted read-only"),
            fix,
        ));
    }
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        let nodev = if flags.contains(StatVfsMountFlags::NODEV) {
            " and nodev"
        } else {
            ""
        };
        let detail =
            format!("{place} is mounted noexec{nodev}, and the programs of the root run there");
        return Some(Finding::missing(name, detail, fix));
    }
    flags.contains(StatVfsMountFlags::NODEV).then(|| Finding {
        state: State::Doubtful,
        ..Finding::there(
            name,
            format!("{place} is mounted nodev: nothing here needs a device node on it, so this does no harm"),
        )
    })
}

/// Whose the cache is, if not this user's.
fn owner(context: &Context, ground: &Path) -> Option<Finding> {
    let name = "owner";
    let own = rustix::process::geteuid().as_raw();
    let uid = |path: &Path| path.symlink_metadata().ok().map(|meta| meta.uid());
    let place = ground.display();
    if enter::is_root() {
        let owner = uid(ground).filter(|owner| *owner != 0)?;
        return Some(Finding {
            state: State::Doubtful,
            ..Finding::missing(
                name,
                format!(
                    "{place} belongs to user {owner}, and this is root (sudo with that user's HOME?): what root makes there, the user can't change"
                ),
                "run this as that user, or with `sudo -H`, or choose a cache with --cache DIR",
            )
        });
    }
    // What root left in this user's cache.
    if ground == context.cache.dir() {
        let entries = fs::read_dir(ground).ok()?.flatten();
        let foreign = entries.map(|entry| entry.path()).find(|path| {
            // Folders inside a step's may belong to the sub-ids.
            uid(path).is_some_and(|owner| owner != own)
        });
        if let Some(path) = foreign {
            return Some(Finding::missing(
                name,
                format!(
                    "{} belongs to another user (an earlier run with sudo?)",
                    path.display()
                ),
                format!(
                    "remove the cache (`sudo soft-roce-setup --cache {place} clean`), or choose another with --cache DIR"
                ),
            ));
        }
    }
    let writable = rustix::fs::access(ground, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    (!writable).then(|| {
        Finding::missing(
            name,
            format!("{place} is not this user's to write"),
            format!(
                "choose a cache with --cache DIR, or run this as root ({}-H …)",
                sudo()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_forbids() {
        let dir = Path::new("/cache");
        let found = |flags| forbidden("file system", dir, flags, "fix");
        assert_eq!(
            found(StatVfsMountFlags::NOSUID | StatVfsMountFlags::RELATIME),
            None
        );
        let noexec = found(StatVfsMountFlags::NOEXEC | StatVfsMountFlags::NODEV).unwrap();
        assert_eq!(noexec.state, State::Missing);
        assert!(noexec.detail.contains("noexec and nodev"));
        let nodev = found(StatVfsMountFlags::NODEV).unwrap();
        assert_eq!(nodev.state, State::Doubtful);
        assert!(nodev.detail.contains("nodev"));
        let read_only = found(StatVfsMountFlags::RDONLY).unwrap();
        assert_eq!(read_only.state, State::Missing);
    }

    #[test]
    fn a_full_disk_is_told_before_it_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let finding = |gib, files| room("disk", dir.path(), gib, files, "make room");
        assert_eq!(finding(0.0, 0).state, State::There);
        let full = finding(1e9, 0);
        assert_eq!(full.state, State::Missing);
        assert!(full.detail.contains("GiB needed"), "{}", full.detail);
        let context = Context::for_tests(dir.path());
        require_room(&context, 0.0, "a step").unwrap();
        let error = require_room(&context, 1e9, "a step")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a step: ") && error.contains("--cache DIR"),
            "{error}"
        );
    }
}
