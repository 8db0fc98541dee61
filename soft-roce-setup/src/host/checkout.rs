//! The checkout that this tool was built in, and makes things of.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::{HOST, coded};

/// What tells that a folder is this repository.
const OURS: [&str; 4] = [
    "Cargo.toml",
    "kernel/ib_emm",
    "ib-emm/Cargo.toml",
    "soft-roce-setup/Cargo.toml",
];
/// What to do without it.
pub(super) const FIX: &str =
    "build this tool again where the sources are now: `cargo run -r -- …` in the checkout";

/// Where it was.
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Fails if `sources`, the checkout or a copy of it, is not there, or is another project.
pub fn require_sources(sources: &Path) -> Result<()> {
    let Some(what) = missing_at(sources) else {
        return Ok(());
    };
    let message = format!(
        "this program makes what it needs of the sources in {}, where it was built, and that {what}\n  what to do: {FIX}",
        sources.display()
    );
    Err(coded(HOST, message))
}

/// What is wrong with a checkout, in words; nothing if it is ours.
pub(super) fn missing_at(checkout: &Path) -> Option<String> {
    let part = OURS.iter().find(|part| !checkout.join(part).exists())?;
    Some(if checkout.exists() {
        format!("has no {part} any more")
    } else {
        "is not there any more".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_binary_that_was_moved_from_its_checkout_says_so() {
        require_sources(&checkout()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for part in OURS {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        require_sources(dir.path()).unwrap();
        fs::remove_dir_all(dir.path().join("kernel")).unwrap();
        let error = require_sources(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("kernel/ib_emm") && error.contains("cargo run -r"),
            "{error}"
        );
        let gone = dir.path().join("gone");
        let error = require_sources(&gone).unwrap_err().to_string();
        assert!(error.contains("is not there any more"), "{error}");
    }
}
