//! What guests printed while their tests ran.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What guests printed, by the names of their tests.
#[derive(Debug, Default)]
pub struct Said(Mutex<BTreeMap<String, String>>);

impl Said {
    /// Keeps what the test `name` printed.
    pub fn keep(&self, name: String, text: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name, text);
    }

    /// All of it.
    pub fn into_outputs(self) -> BTreeMap<String, String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
