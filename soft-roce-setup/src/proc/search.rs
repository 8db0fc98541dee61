//! Where programs are looked for: in the user's PATH, then where Debian has them.
//!
//! An ordinary user's PATH lacks the sbin folders, and so does root's after plain `su`; mount helpers, chroot and losetup are there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const STANDARD: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The PATH of every command that the tool starts.
pub fn path() -> OsString {
    completed(std::env::var_os("PATH").as_deref())
}

/// The place of the program `name`, as a command would find it.
pub fn find(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    if name.components().count() > 1 {
        return is_program(name).then(|| name.to_owned());
    }
    std::env::split_paths(&path())
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// `path`, and behind it what it lacks of the standard folders.
pub(super) fn completed(path: Option<&OsStr>) -> OsString {
    let mut dirs: Vec<PathBuf> = std::env::split_paths(path.unwrap_or_default())
        // An empty entry stands for the working directory: no place to take programs from as root.
        .filter(|dir| !dir.as_os_str().is_empty())
        .collect();
    for dir in STANDARD.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // No entry has a colon: they were cut at the colons.
    std::env::join_paths(dirs).unwrap_or_else(|_| STANDARD.join(":").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_is_added_behind() {
        let all = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(completed(None), all);
        assert_eq!(completed(Some("".as_ref())), all);
        assert_eq!(completed(Some(all.as_ref())), all);
        assert_eq!(
            completed(Some("/home/u/.cargo/bin::/usr/bin:/bin".as_ref())),
            "/home/u/.cargo/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"
        );
    }

    #[test]
    fn programs_are_found_as_commands_find_them() {
        assert!(find("sh").is_some_and(|sh| sh.ends_with("sh")));
        assert_eq!(find("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(find("no-such-program"), None);
        assert_eq!(find("/etc/passwd"), None, "it is no program");
    }
}
