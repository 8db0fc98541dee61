//! Who runs a program: root, with the memory of the program pinned, or an ordinary user who may not lock a byte.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

use super::table::Program;

/// The ordinary user.
const USER: &str = "1000";

/// How a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As root without limits, its regions as it asks for them.
    Pinned,
    /// As uid 1000 with `RLIMIT_MEMLOCK` 0 and no capability, through the preload library. Whatever pins
    /// a page then fails: the kernel itself watches that between two looks nothing is pinned.
    Unpinned,
}

impl Way {
    /// The word in facts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
        }
    }
}

/// The folder of one run: home, temporary files and the shim's log of its processes.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// An empty one that everybody may use.
    pub fn new() -> Result<Self> {
        let path = Path::new(super::PLACE).join("run");
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        for dir in [path.clone(), path.join("log"), path.join("home")] {
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))
                .with_context(|| format!("opening {} to all", dir.display()))?;
        }
        Ok(Self(path))
    }

    /// Starts a command line of the program.
    pub fn start(&self, program: &Program, line: &str, way: Way, shim: &Path) -> Result<Child> {
        let home = self.0.join("home");
        let mut command = Command::new("prlimit");
        match way {
            Way::Pinned => command.arg("--memlock=unlimited:unlimited"),
            Way::Unpinned => command
                .args(["--memlock=0:0", "setpriv", "--reuid", USER, "--regid", USER])
                .args([
                    "--clear-groups",
                    "--bounding-set",
                    "-all",
                    "--inh-caps",
                    "-all",
                ])
                .args(["verbs-shim", "run", "--quiet", "--log", "debug", "--shim"])
                .arg(shim)
                .arg("--log-file")
                .arg(self.0.join("log/%d"))
                .args(program.audit.then_some("--audit"))
                .arg("--"),
        };
        command
            .args(line.split_whitespace())
            .current_dir(&home)
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env_remove("LD_PRELOAD")
            .env_remove("LD_AUDIT")
            .envs(program.env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
            .spawn()
            .with_context(|| format!("starting `{line}`"))
    }

    /// What the shim wrote of the program's registrations.
    pub fn registrations(&self) -> Registrations {
        let mut all = Registrations::default();
        let files = fs::read_dir(self.0.join("log"));
        for file in files.into_iter().flatten().flatten() {
            // What can't be read is missed in the counts, and a run without counts fails.
            if let Ok(text) = fs::read_to_string(file.path()) {
                text.lines().for_each(|line| all.take(line));
            }
        }
        all
    }
}

/// The registrations of all processes of a program, as the shim met them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Functions that the program called.
    pub entries: BTreeSet<String>,
    /// Those that went on demand.
    pub on_demand: u32,
    /// Those that were left as the program asked.
    pub kept: u32,
}

impl Registrations {
    /// `verbs-shim: ibv_reg_mr_iova2: 4096 bytes, access 0x7: TryOnDemand`
    fn take(&mut self, line: &str) {
        let parts: Vec<&str> = line.split(": ").collect();
        let ["verbs-shim", entry, what, choice] = parts[..] else {
            return;
        };
        if !what.contains(" bytes, access ") {
            return;
        }
        self.entries.insert(entry.to_owned());
        if choice.ends_with("OnDemand") {
            self.on_demand += 1;
        } else {
            self.kept += 1;
        }
    }
}

/// Lets ordinary users open the devices, as rdma-core's udev rules do.
pub fn open_devices() -> Result<()> {
    let folder = "/dev/infiniband";
    for device in fs::read_dir(folder).with_context(|| format!("reading {folder}"))? {
        let path = device.with_context(|| format!("reading {folder}"))?.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .with_context(|| format!("opening {} to all", path.display()))?;
    }
    Ok(())
}

/// Reads both outputs of a child in the background.
pub fn collect(child: &mut Child) -> JoinHandle<String> {
    let out = child.stdout.take();
    let err = child.stderr.take();
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.and_then(|mut e| e.read_to_end(&mut text).ok());
            text
        });
        let mut text = Vec::new();
        out.and_then(|mut o| o.read_to_end(&mut text).ok());
        text.extend(errors.join().unwrap_or_default());
        String::from_utf8_lossy(&text).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_counted_by_entry() {
        let mut all = Registrations::default();
        for line in [
            "verbs-shim: rxe0: on-demand paging general 0x3, rc 0x0, uc 0x0, ud 0x0",
            "verbs-shim: ibv_reg_mr_iova2: 4096 bytes, access 0x7: TryOnDemand",
            "verbs-shim: ibv_reg_mr: 1 bytes, access 0x0: TryOnDemand",
            "verbs-shim: ibv_reg_mr: 1 bytes, access 0x0: Keep(Short)",
        ] {
            all.take(line);
        }
        assert_eq!((all.on_demand, all.kept), (2, 1));
        let entries: Vec<&str> = all.entries.iter().map(String::as_str).collect();
        assert_eq!(entries, ["ibv_reg_mr", "ibv_reg_mr_iova2"]);
    }
}
