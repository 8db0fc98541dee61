//! Entering the root: commands that see the Debian tree as `/`, in namespaces of their own.
//!
//! As root this is a mount and a PID namespace. As an ordinary user there is a user namespace around
//! them, in which the user is root and the sub-ids of /etc/subuid are the others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::proc::Cmd;

/// Prepares the tree and starts the command in it. Arguments: root, mode of /proc, names of devices, number of bind mounts, for
/// each its mode, source and target, then the command.
const SCRIPT: &str = include_str!("enter.sh");

/// Devices that are there for every command: those that give nothing of the host away and take nothing in.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Capabilities of a confined command, in setpriv's words: it may do with the files that it is shown what their owners may, so that a
/// guest has the root's and its shares' files whoever owns them, and nothing else that root may.
const CONFINED: &str = "-all,+dac_override,+fowner";

/// A way into a root.
#[derive(Debug, Clone)]
pub struct Enter {
    root: PathBuf,
    confined: bool,
    devices: Vec<&'static str>,
    binds: Vec<(&'static str, PathBuf, PathBuf)>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Enter {
    /// Enters the tree at `root`. Nothing of the host is visible there but five devices like /dev/null.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            confined: false,
            devices: DEVICES.to_vec(),
            binds: Vec::new(),
            env: Vec::new(),
            dir: "/".into(),
        }
    }

    /// Shows `host` (a directory or a file) at `inside`, writable. A path below /mnt need not exist in the root.
    #[must_use]
    pub fn bind(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push(("rw", host.into(), inside.into()));
        self
    }

    /// Shows `host` at `inside`, read-only.
    #[must_use]
    pub fn bind_ro(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push(("ro", host.into(), inside.into()));
        self
    }

    /// Shows the device `/dev/NAME` of the host, if that has it.
    #[must_use]
    pub fn device(mut self, name: &'static str) -> Self {
        if Path::new("/dev").join(name).exists() {
            self.devices.push(name);
        }
        self
    }

    /// For a command that others may take over (QEMU, whose guest is not ours): no network, a tree and a /proc that can't be written,
    /// and of root's capabilities only those over the files that it is shown.
    #[must_use]
    pub fn confined(mut self) -> Self {
        self.confined = true;
        self
    }

    /// Gives the command the host's way to name servers.
    #[must_use]
    pub fn with_network(mut self) -> Self {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            if let Ok(real) = Path::new(file).canonicalize() {
                self = self.bind_ro(real, file);
            }
        }
        self
    }

    /// Sets variables of the command's environment, which is otherwise nearly empty.
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter();
        self.env
            .extend(pairs.map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Sets the working directory, as the root sees it.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// The command that runs `program` in the root; arguments can be added to it.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd {
        let mut cmd = namespaces();
        if self.confined {
            cmd = cmd.args(["--net", "--ipc", "--uts"]);
        }
        let proc = if self.confined { "ro" } else { "rw" };
        cmd = cmd
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child=KILL",
            ])
            .args(["--", "/bin/sh", "-c", SCRIPT, "enter"])
            .arg(&self.root)
            .arg(proc)
            .arg(self.devices.join(" "))
            .arg(self.binds.len().to_string());
        for (mode, host, inside) in &self.binds {
            cmd = cmd.arg(mode).arg(host).arg(inside);
        }
        cmd = cmd.args(["env", "-i", "-C"]).arg(&self.dir).args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
        ]);
        for (key, value) in &self.env {
            cmd = cmd.arg(format!("{key}={value}"));
        }
        if self.confined {
            cmd = cmd.args([
                "setpriv",
                "--no-new-privs",
                "--inh-caps=-all",
                "--bounding-set",
                CONFINED,
                "--",
            ]);
        }
        cmd.arg(program).shown_after(SHOWN)
    }
}

/// What stands for the way into the root when a command is shown.
const SHOWN: &str = "[in the root]";

/// `unshare`, with the user namespace that an ordinary user needs.
fn namespaces() -> Cmd {
    let cmd = Cmd::new("unshare");
    if is_root() {
        cmd
    } else {
        cmd.args(["--user", "--map-root-user", "--map-auto"])
    }
}

/// Whether the tool runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command of the host, run as the owner of all ids that the root's files belong to.
pub fn as_owner(program: &str) -> Cmd {
    namespaces().arg("--").arg(program)
}

/// Removes a tree whose files belong to the sub-ids of this user.
pub(crate) fn remove_as_owner(path: &Path) -> Result<()> {
    if path
        .as_os_str()
        .as_bytes()
        .iter()
        .filter(|byte| **byte == b'/')
        .count()
        < 2
    {
        bail!("will not remove {}", path.display());
    }
    if namespaces()
        .args(["--", "rm", "-rf", "--one-file-system", "--"])
        .arg(path)
        .succeeds()
    {
        return Ok(());
    }
    bail!(
        "cannot remove {}: some files belong to another user",
        path.display()
    )
}
