//! The Rust programs of `tests/programs`, built as their users would build them. Their crates take a minute, so only tests make them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::key::Key;
use super::{cmake, root, sources, userland};
use crate::context::Context;

/// The place of the result in the cache.
const PLACE: &str = "programs";
/// The programs; their packages are called the same.
const PROGRAMS: [&str; 1] = ["ibverbs-both-ways"];

/// Builds them if they are not there, and returns their folder. The root is there, and the caller holds no lock of the cache.
pub fn ensure(context: &Context) -> Result<PathBuf> {
    let repository = sources::repository();
    let key = Key::new(PLACE, 1)
        .text(&root::version(context))
        .text(&PROGRAMS.join(" "))
        .path(&repository.join("Cargo.lock"))?
        .path(&repository.join("tests/programs"))?
        .finish();
    if context.cache.is_fresh(PLACE, &key) {
        return Ok(context.cache.path(PLACE));
    }
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let vendor = userland::ensure_vendor(context)?;
    cmake::ensure(context)?;
    let title = format!("programs of tests: {}", PROGRAMS.join(", "));
    context
        .cache
        .ensure(&context.ui, PLACE, &key, &title, |dir, step| {
            let log = context.cache.fresh_log("programs");
            let source = dir.join("source");
            let enter = userland::workshop(context, &vendor, &source)?;
            userland::cargo(&enter, "build", "release", &PROGRAMS)
                .arg("--bins")
                .run(&log, step)?;
            for name in PROGRAMS {
                let built = context
                    .cache
                    .path(userland::TARGET)
                    .join("release")
                    .join(name);
                fs::copy(&built, dir.join(name))
                    .with_context(|| format!("the build did not make {}", built.display()))?;
            }
            crate::cache::remove_tree(&source)
        })
}
