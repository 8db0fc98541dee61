//! Removing: no link is followed, no mount is crossed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::enter;

/// Removes a file or a tree, also one that belongs to the sub-ids of an ordinary user. One that is
/// not there is no error. A link goes, not what it points to.
///
/// # Errors
/// Something is mounted there or below: nothing is removed then, as what lies there may be anybody's.
pub fn remove_tree(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let removed = if metadata.is_dir() {
        refuse_mounts(path)?;
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

/// Fails if something is mounted at or below `path`, a bind mount of the same file system too.
fn refuse_mounts(path: &Path) -> Result<()> {
    let real = path
        .canonicalize()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    let table = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    match mounts(&table).find(|mount| mount.starts_with(&real)) {
        Some(mount) => bail!(
            "{} is not removed: something is mounted at {}\n  what to do: unmount it (umount {0}), and do this again",
            path.display(),
            mount.display()
        ),
        None => Ok(()),
    }
}

/// The mount points of a table in the format of /proc/PID/mountinfo.
fn mounts(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Fails if a folder between `dir` and `dir/relative` is a link, and so what is meant lies elsewhere.
pub(super) fn refuse_links(dir: &Path, relative: &Path) -> Result<()> {
    let mut path = dir.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        refuse_link(&path)?;
    }
    Ok(())
}

/// Fails if something that lies in `dir` itself is a link.
pub(super) fn refuse_links_in(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        refuse_link(&entry.path())?;
    }
    Ok(())
}

fn refuse_link(path: &Path) -> Result<()> {
    if path.is_symlink() {
        bail!(
            "{} is a link, and what lies behind it is not the cache's\n  what to do: remove the link",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                      40 35 0:5 / /a\\040b\\134c rw - tmpfs none rw\n";
        let all: Vec<PathBuf> = mounts(table).collect();
        assert_eq!(all, [Path::new("/mnt2"), Path::new("/a b\\c")]);
    }

    #[test]
    fn a_mount_stops_a_removal() {
        // /proc is one everywhere, and `/` has it below.
        for path in ["/proc", "/"] {
            let error = refuse_mounts(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("mounted at"), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        refuse_mounts(dir.path()).unwrap();
    }

    #[test]
    fn a_link_goes_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        symlink(&outside, tree.join("sub/link")).unwrap();
        symlink(&outside, dir.path().join("link")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&dir.path().join("link")).unwrap();
        remove_tree(&dir.path().join("not-there")).unwrap();
        assert!(!tree.exists() && !dir.path().join("link").is_symlink());
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"x");
        symlink(&outside, dir.path().join("link")).unwrap();
        assert!(refuse_links(dir.path(), Path::new("link/file")).is_err());
        assert!(refuse_links(dir.path(), Path::new("outside/file")).is_ok());
    }
}
