//! Installing packages on a Debian-like host, as root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::context::Context;
use crate::enter;
use crate::proc::Cmd;

/// Age after which the lists of packages are fetched again.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Whether this tool may and can install packages here.
pub fn possible() -> bool {
    enter::is_root() && Path::new("/usr/bin/apt-get").exists()
}

/// Installs packages, and says so.
pub fn install(context: &Context, packages: &[&str]) -> Result<()> {
    context
        .ui
        .note(format!("installing on this host: {}", packages.join(" ")));
    let step = context
        .ui
        .step(format!("host: apt-get install {}", packages.join(" ")));
    let log = log(context)?;
    let apt = || {
        Cmd::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-q")
    };
    let hint = "look at the log, or install these packages yourself";
    if lists_are_old(Path::new("/var/lib/apt/lists")) {
        apt().arg("update").hint(hint).run(&log, &step)?;
    }
    apt()
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages)
        .hint(hint)
        .run(&log, &step)?;
    step.done();
    Ok(())
}

/// Where apt's words go: `doctor` makes no cache for them.
fn log(context: &Context) -> Result<PathBuf> {
    if context.cache.exists()? {
        return Ok(context.cache.fresh_log("host-install"));
    }
    let name = format!("soft-roce-setup-host-install-{}.log", std::process::id());
    Ok(std::env::temp_dir().join(name))
}

fn lists_are_old(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else {
        return true;
    };
    let newest = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        .filter_map(|_| fs::metadata(lists).ok()?.modified().ok())
        .max();
    match newest {
        Some(time) => SystemTime::now()
            .duration_since(time)
            .is_ok_and(|age| age > OLD),
        None => true,
    }
}
