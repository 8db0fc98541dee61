//! Directories of the host in the guest.
//!
//! A guest's root may do anything to files, and QEMU does for it what it may do itself, on this host often as root. So nothing of a
//! writable share but the bytes is taken over: owner, mode and kind of what the guest makes are kept in extended attributes
//! (`mapped-xattr`), and the host has a plain file of the user who runs the tool: no setuid program, no device, no link to elsewhere.
//! `nosuid` and `nodev` mounts would bar these below the mount only, not where the host has the directory. A read-only share is shown
//! as it is, links included.

use std::path::Path;

use rustix::io::Errno;

use super::options::Share;

/// How QEMU serves a share, as options of its `-fsdev`.
pub fn options(share: &Share) -> &'static str {
    if share.read_only {
        "security_model=none,readonly=on"
    } else if has_attributes(&share.host) {
        "security_model=mapped-xattr,fmode=0644,dmode=0755"
    } else {
        // They lie in files beside the guest's then, in `.virtfs_metadata`.
        "security_model=mapped-file,fmode=0644,dmode=0755"
    }
}

/// Whether the file system has extended attributes of users: tmpfs has them since Linux 6.6, some network file systems never.
fn has_attributes(dir: &Path) -> bool {
    let asked = rustix::fs::getxattr(dir, "user.virtfs.uid", &mut [0_u8; 16]);
    !matches!(asked, Err(Errno::NOTSUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_bytes_is_written_to_the_host() {
        let share = |read_only| Share {
            host: std::env::temp_dir(),
            guest: "/x".into(),
            read_only,
        };
        assert!(options(&share(true)).contains("readonly=on"));
        assert!(options(&share(false)).contains("security_model=mapped"));
        assert!(!has_attributes(Path::new("/proc")));
    }
}
