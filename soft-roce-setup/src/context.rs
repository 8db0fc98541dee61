//! What every subcommand works with.

use anyhow::Result;

use crate::cache::Cache;
use crate::cli::Global;
use crate::ui::Ui;

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
            cache: Cache::open(global.cache.as_deref())?,
            mirror: global.mirror.clone(),
            ui: Ui::new(global.verbose),
        })
    }
}
