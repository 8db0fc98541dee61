//! The guest's memory management around a measurement: residency, memory cgroups, the kind of LRU.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use emm_check::mem::{Map, PAGE};

const CGROUPS: &str = "/sys/fs/cgroup";
const LRU_GEN: &str = "/sys/kernel/mm/lru_gen/enabled";

/// How many pages of `map` have memory behind them.
pub fn resident_pages(map: &Map) -> Result<usize> {
    let mut pages = vec![0u8; map.len() / PAGE];
    let start = map.addr() as *mut libc::c_void;
    // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
    if unsafe { libc::mincore(start, map.len(), pages.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("mincore");
    }
    Ok(pages.iter().filter(|page| **page & 1 != 0).count())
}

/// The two ways the VM chooses what to reclaim.
#[derive(Clone, Copy, Debug)]
pub enum Lru {
    /// Generations (MGLRU).
    Generations,
    /// Active and inactive lists.
    Lists,
}

impl Lru {
    /// Switches the kernel to it.
    pub fn select(self) -> Result<()> {
        let word = match self {
            Self::Generations => "y",
            Self::Lists => "n",
        };
        fs::write(LRU_GEN, word).with_context(|| format!("writing {word} to {LRU_GEN}"))
    }
}

/// A memory cgroup.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one below the root, with a limit in bytes.
    pub fn new(name: &str, limit: usize) -> Result<Self> {
        mount()?;
        let path = Path::new(CGROUPS).join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let group = Self(path);
        group.set("memory.max", &limit.to_string())?;
        Ok(group)
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// Moves a process into it. What that had before stays charged where it was.
    pub fn take(&self, pid: u32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Bytes charged to it.
    pub fn charged(&self) -> Result<u64> {
        let path = self.0.join("memory.current");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        text.trim().parse().context("memory.current is no number")
    }
}

/// Makes sure that there is a hierarchy with the memory controller.
fn mount() -> Result<()> {
    let control = Path::new(CGROUPS).join("cgroup.subtree_control");
    if !control.exists() {
        emm_check::system::run("mount", &["-t", "cgroup2", "cgroup2", CGROUPS])?;
    }
    fs::write(&control, "+memory").context("enabling the memory controller")
}
