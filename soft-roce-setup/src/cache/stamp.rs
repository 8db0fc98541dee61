//! What a step leaves beside its result.

use serde::{Deserialize, Serialize};

/// Its file.
pub const STAMP: &str = "stamp.json";

/// What a step leaves beside its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// Key of the inputs.
    pub key: String,
    /// How long the step took, in seconds.
    pub seconds: f64,
    /// When it was done, in seconds of the Unix epoch.
    pub made: u64,
}

impl Stamp {
    /// A stamp's text; nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let stamp: Self = serde_json::from_str(text).ok()?;
        let is_key = stamp.key.len() == 32 && stamp.key.bytes().all(|b| b.is_ascii_hexdigit());
        is_key.then_some(stamp)
    }
}
