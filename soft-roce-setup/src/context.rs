//! What every subcommand works with.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::cache::Cache;
use crate::ui::Ui;

/// Options that every subcommand takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where everything is kept: a new or an empty directory, or a cache
    /// [default: $XDG_CACHE_HOME/ib-emm or ~/.cache/ib-emm]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Debian archive to install from: http://…, https://… or file:///… [default: the one
    /// given last for this cache, or the host's own]
    #[arg(long, global = true, value_name = "URL")]
    pub mirror: Option<String>,
    /// Show every command and its output
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The cache, the choice of a mirror, and the way to talk to the user.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where everything is kept.
    pub cache: Cache,
    /// The Debian archive that the user chose, if any.
    pub mirror: Option<String>,
    /// How to talk to the user.
    pub ui: Ui,
}

impl Context {
    /// From the options of every subcommand.
    pub fn new(global: &Global) -> Result<Self> {
        Ok(Self {
            cache: Cache::locate(global.cache.as_deref())?,
            mirror: global.mirror.clone(),
            ui: Ui::new(global.verbose),
        })
    }

    /// For a unit test, with the cache at `dir`.
    #[cfg(test)]
    pub(crate) fn for_tests(dir: &std::path::Path) -> Self {
        let global = Global {
            cache: Some(dir.to_owned()),
            mirror: None,
            verbose: false,
        };
        Self::new(&global).expect("an empty folder can be a cache")
    }
}
