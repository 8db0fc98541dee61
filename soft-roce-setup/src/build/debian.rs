//! Debian trees, made by mmdebstrap.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::remove_tree;
use crate::context::Context;
use crate::enter;
use crate::host::{self, Mirror};
use crate::proc::Cmd;
use crate::ui::Step;

/// What a tree is made of.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// The first one names the tree.
    pub suites: &'a [&'a str],
    /// What is installed besides apt and what it needs.
    pub packages: &'a [&'a str],
    /// Paths of packages that are not unpacked.
    pub left_out: &'a [&'a str],
    /// Paths among those that are.
    pub kept: &'a [&'a str],
    /// Takes an archive whose index is past its date. Its signature still has to be right.
    pub stale: bool,
}

impl Recipe<'_> {
    /// Makes the tree below `dir` and returns its place.
    pub fn make(&self, context: &Context, dir: &Path, log: &Path, step: &Step) -> Result<PathBuf> {
        let mirror = Mirror::of(context)?;
        let tree = dir.join("tree");
        let options = self.options(&mirror);
        let sources = sources(&mirror, self.suites, host::KEYRING, self.stale);
        let hint = format!(
            "check that {} can be reached and has {}, or choose another archive with --mirror URL",
            mirror.url,
            self.suites.join(" and ")
        );
        if enter::is_root() {
            // In a mount namespace of its own: whatever happens, no mount stays behind.
            let cmd = Cmd::new("unshare").args([
                "--mount",
                "--",
                "mmdebstrap",
                "--mode=root",
                "--format=directory",
            ]);
            through(host::proxies(), cmd)
                .args(&options)
                .arg(self.suites[0])
                .arg(&tree)
                .stdin(sources)
                .arg("-")
                .hint(hint)
                .run(log, step)?;
            mirror.remember(context)?;
            return Ok(tree);
        }
        // mmdebstrap maps its root to the first sub-id; the tree shall belong to the user.
        let archive = dir.join("root.tar");
        let cmd = Cmd::new("mmdebstrap").args(["--mode=unshare", "--format=tar"]);
        through(host::proxies(), cmd)
            .args(&options)
            .arg(self.suites[0])
            .arg(&archive)
            .stdin(sources)
            .arg("-")
            .hint(hint)
            .run(log, step)?;
        fs::create_dir(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
        enter::as_owner("tar")
            .args([
                "--extract",
                "--numeric-owner",
                "--exclude=./dev/*",
                "--directory",
            ])
            .arg(&tree)
            .arg("--file")
            .arg(&archive)
            .run(log, step)?;
        remove_tree(&archive)?;
        mirror.remember(context)?;
        Ok(tree)
    }

    fn options(&self, mirror: &Mirror) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec![
            "--variant=apt".into(),
            "--architectures=amd64".into(),
            "--aptopt=APT::Install-Recommends \"false\"".into(),
            "--aptopt=Acquire::Languages \"none\"".into(),
            "--aptopt=Acquire::Retries \"3\"".into(),
            "--dpkgopt=force-unsafe-io".into(),
            format!("--include={}", self.packages.join(",")).into(),
        ];
        // dpkg takes the last rule that fits.
        for (rule, paths) in [("exclude", self.left_out), ("include", self.kept)] {
            options.extend(
                paths
                    .iter()
                    .map(|path| format!("--dpkgopt=path-{rule}={path}").into()),
            );
        }
        if mirror.directory().is_some() {
            options.push("--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount".into());
        }
        options
    }
}

/// The same command behind these proxies. The apt of mmdebstrap reads no configuration of the host's, and so not what
/// that says of proxies.
fn through(proxies: Vec<(String, String)>, cmd: Cmd) -> Cmd {
    let with = |cmd: Cmd, (key, value)| cmd.env(key, value);
    proxies.into_iter().fold(cmd, with)
}

/// The sources for apt, with the archive's key given explicitly.
pub fn sources(mirror: &Mirror, suites: &[&str], keyring: &str, stale: bool) -> String {
    let stale = if stale { " check-valid-until=no" } else { "" };
    suites
        .iter()
        .map(|suite| {
            format!(
                "deb [signed-by={keyring}{stale}] {} {suite} main\n",
                mirror.url
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmdebstrap_is_told_of_proxies() {
        let proxy = (
            "http_proxy".to_owned(),
            "http://proxy.example:3142".to_owned(),
        );
        let asked = Cmd::new("sh").args(["-c", "echo $http_proxy"]);
        let output = through(vec![proxy.clone()], asked).capture().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), proxy.1);
    }
}
