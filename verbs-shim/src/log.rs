// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is said: as much as the environment asks for.

use crate::{environment, line, settings::Level};
use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Says a line of this level, if that much is wanted.
pub(crate) fn say(level: Level, args: fmt::Arguments<'_>) {
    line::write(environment::get(), level, args);
}

/// A warning that is given once in the life of the process.
pub(crate) struct Warning(AtomicBool);

impl Warning {
    /// Not given yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Gives it, if it was not.
    pub(crate) fn give(&self, args: fmt::Arguments<'_>) {
        if !self.0.swap(true, Relaxed) {
            say(Level::Warn, args);
        }
    }
}
