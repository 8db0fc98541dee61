//! Unit tests of the programs that build in the root only: what the guest tests' own checks and measures rest on.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::cargo::cargo;
use super::group::{Asked, Group, options};
use super::host::tell;
use super::sources;
use super::tally::Tally;
use soft_roce_setup::build::{self, userland};
use soft_roce_setup::context::Context;
use soft_roce_setup::enter::Enter;
use soft_roce_setup::signal;

/// The names of all of them.
pub fn names() -> Result<Vec<String>> {
    let metadata = sources::metadata(cargo())?;
    let mut names = Vec::new();
    for unit in userland::UNITS {
        names.extend(of(&metadata, unit)?);
    }
    Ok(names)
}

/// The names of the tests of the program `unit`: `emm_check` is the library beside the program `emm-check`.
fn of(metadata: &Value, unit: &str) -> Result<Vec<String>> {
    let name = unit.replace('_', "-");
    let library = unit.contains('_');
    let targets = sources::targets(metadata, &name)?.into_iter();
    let own = targets.filter(|target| (target.option == ["--lib"]) == library);
    Ok(own
        .flat_map(|target| target.tests)
        .map(|test| format!("root::{name}::{test}"))
        .collect())
}

/// Those that are wanted, in the root, which is made with the kernel `series` if it is not there.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked { context, tally, .. } = asked;
    if !names()?.iter().any(|name| tally.wants(name)) {
        return Ok(None);
    }
    let root = build::ensure(context, &options(asked.series))?.root;
    let programs = userland::ensure_tests(context)?;
    let work = move || run(context, &root, &programs, tally);
    Ok(Some(Group::of_host(work)))
}

/// Runs them.
fn run(context: &Context, root: &Path, programs: &Path, tally: &Tally) -> Result<()> {
    let metadata = sources::metadata(cargo())?;
    let _lock = context.cache.lock_shared(&context.ui)?;
    for name in userland::UNITS {
        signal::check()?;
        let group = format!("root::{}", name.replace('_', "-"));
        let names = of(&metadata, name)?;
        let wanted: Vec<&str> = names
            .iter()
            .filter(|name| tally.wants(name))
            .filter_map(|name| name.strip_prefix(&format!("{group}::")))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let start = Instant::now();
        let output = Enter::new(root)
            .bind_ro(programs, "/mnt/tests")
            .cmd(format!("/mnt/tests/{name}"))
            .arg("--exact")
            .args(wanted)
            .capture()
            .with_context(|| format!("cannot run the tests of {name}"))?;
        tell(tally, &group, &output, start.elapsed());
    }
    Ok(())
}
