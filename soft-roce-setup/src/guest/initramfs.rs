//! The guest's first file system: busybox, modules, our init and what it is to do.

use std::fs;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::prepare::GuestKernel;
use crate::proc::quote;

const INIT: &str = include_str!("init.sh");
const AGENT: &str = include_str!("agent.sh");
const EMM_HOST: &str = include_str!("emm-host.sh");

/// What init reads from `/conf`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    variables: Vec<(String, String)>,
}

impl Settings {
    /// Sets a variable that init sees.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.variables.push((name.into(), value.into()));
    }

    fn text(&self) -> String {
        self.variables
            .iter()
            .map(|(name, value)| format!("{name}={}\n", quote(value)))
            .collect()
    }
}

/// The archive for a guest that does what `settings` say.
pub fn build(kernel: &GuestKernel, settings: &Settings) -> Result<Vec<u8>> {
    let mut archive = bare(kernel, INIT)?;
    archive.file("conf", 0o644, settings.text().as_bytes());
    archive.file("agent", 0o644, AGENT.as_bytes());
    archive.file("emm-host", 0o755, EMM_HOST.as_bytes());
    for dir in ["host", "rw", "root", "modules"] {
        archive.dir(dir);
    }
    let mut order = String::new();
    for path in &kernel.modules {
        let name = path
            .file_name()
            .context("a module is a file")?
            .to_string_lossy();
        let bytes =
            fs::read(path).with_context(|| format!("cannot read the module {}", path.display()))?;
        archive.file(&format!("modules/{name}"), 0o644, &bytes);
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// The archive for a guest that only shows that it starts.
pub fn probe(kernel: &GuestKernel, init: &str) -> Result<Vec<u8>> {
    Ok(bare(kernel, init)?.finish())
}

fn bare(kernel: &GuestKernel, init: &str) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys"] {
        archive.dir(dir);
    }
    let busybox = fs::read(&kernel.busybox)
        .with_context(|| format!("cannot read {}", kernel.busybox.display()))?;
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, init.as_bytes());
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_for_the_shell() {
        let mut settings = Settings::default();
        settings.set("series", "7.3");
        settings.set("share_a", "/data with 'quotes'");
        assert_eq!(
            settings.text(),
            "series=7.3\nshare_a=\"/data with 'quotes'\"\n"
        );
    }
}
