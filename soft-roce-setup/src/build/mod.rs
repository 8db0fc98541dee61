//! From sources and packages to what a guest starts from.

use anyhow::{Result, bail};

use crate::artifacts::Artifacts;
use crate::context::Context;

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// A kernel series or a full version; the newest complete series if not given.
    pub kernel: Option<String>,
    /// Whether to ask the archive again for the newest version of the series.
    pub refresh: bool,
}

/// Builds what is missing or outdated, and returns where everything is.
pub fn ensure(_context: &Context, _options: &BuildOptions) -> Result<Artifacts> {
    bail!("not built yet")
}
