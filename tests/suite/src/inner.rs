//! Unit tests of the programs that build in the root only: what the guest tests' own checks and measures rest on.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::group::{Group, options};
use super::host::tell;
use super::tally::Tally;
use soft_roce_setup::build::{self, userland};
use soft_roce_setup::context::Context;
use soft_roce_setup::enter::Enter;
use soft_roce_setup::signal;

/// Those that are wanted, in the root, which is made with the kernel `series` if it is not there.
pub fn group<'a>(
    context: &'a Context,
    series: &str,
    tally: &'a Tally,
) -> Result<Option<Group<'a>>> {
    if !tally.wants_group("root::") {
        return Ok(None);
    }
    let root = build::ensure(context, &options(series))?.root;
    let programs = userland::ensure_tests(context)?;
    let work = move || run(context, &root, &programs, tally);
    Ok(Some(Group::of_host(work)))
}

/// Runs them.
fn run(context: &Context, root: &Path, programs: &Path, tally: &Tally) -> Result<()> {
    let _lock = context.cache.lock_shared(&context.ui)?;
    for name in userland::UNITS {
        signal::check()?;
        let start = Instant::now();
        let output = Enter::new(root)
            .bind_ro(programs, "/mnt/tests")
            .cmd(format!("/mnt/tests/{name}"))
            .capture()
            .with_context(|| format!("cannot run the tests of {name}"))?;
        let group = format!("root::{}", name.replace('_', "-"));
        tell(tally, &group, &output, start.elapsed());
    }
    Ok(())
}
