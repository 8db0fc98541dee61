//! Unit tests of the programs that build in the root only: what the guest tests' own checks and measures rest on.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::host::tell;
use super::tally::Tally;
use crate::build::{self, BuildOptions, userland};
use crate::context::Context;
use crate::enter::Enter;
use crate::signal;

/// Runs them in the root, which is made with the kernel `series` if it is not there.
pub fn run(context: &Context, series: &str, tally: &mut Tally) -> Result<()> {
    if !tally.wants_group("root::") {
        return Ok(());
    }
    let options = BuildOptions {
        kernel: Some(series.to_owned()),
        ..BuildOptions::default()
    };
    let root = build::ensure(context, &options)?.root;
    let programs = userland::ensure_tests(context)?;
    let _lock = context.cache.lock_shared(&context.ui)?;
    for name in userland::UNITS {
        signal::check()?;
        let start = Instant::now();
        let output = Enter::new(&root)
            .bind_ro(&programs, "/mnt/tests")
            .cmd(format!("/mnt/tests/{name}"))
            .to_command()
            .output()
            .with_context(|| format!("cannot run the tests of {name}"))?;
        let group = format!("root::{}", name.replace('_', "-"));
        tell(tally, &group, &output, start.elapsed());
    }
    Ok(())
}
