//! The crates that are meant for others, as others get them: packaged, built from the package, and tested there if the package has tests.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::cargo;
use super::tally::{Outcome, Tally};
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;
use soft_roce_setup::signal;

/// The crates; who needs another one of them comes behind it.
const CRATES: [&str; 3] = ["verbs-abi", "unpinned", CORE];
/// Its package has no tests; to find that out, cargo would build all that the repository's take (minutes).
const CORE: &str = "ib-emm";
/// What each package has to hold beside its code.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The names of all of them.
pub fn names() -> impl Iterator<Item = String> {
    CRATES.iter().map(|name| format!("host::packages::{name}"))
}

/// Packages and tests those that are wanted.
pub fn run(context: &Context, tally: &Tally) -> Result<()> {
    let workspace = soft_roce_setup::build::workspace();
    for (name, test) in CRATES.into_iter().zip(names()) {
        if tally.wants(&test) {
            signal::check()?;
            let step = context.ui.step(format!("package of {name}"));
            let start = Instant::now();
            let wrong = package(&workspace, name)?;
            step.done();
            tally.add(
                &test,
                start.elapsed(),
                wrong.map_or(Outcome::Passed, Outcome::Failed),
            );
        }
    }
    Ok(())
}

/// Why a crate's package is not fit for others, if so.
fn package(workspace: &Path, name: &str) -> Result<Option<String>> {
    // What Cargo.lock names; without a word if it is there already.
    cargo(workspace, &["fetch", "--quiet", "--locked"])?;
    let target = workspace.join("target");
    let place = target.join(format!("package/{name}-{}", env!("CARGO_PKG_VERSION")));
    let made = cargo::cargo()
        .args(["package", "--offline", "--allow-dirty", "-p", name])
        .arg("--target-dir")
        .arg(&target)
        .capture()
        .context("cannot run `cargo package`")?;
    let said = String::from_utf8_lossy(&made.stderr);
    if !made.status.success() || said.contains("manifest has no") {
        return Ok(Some(format!("`cargo package -p {name}`:\n{said}")));
    }
    let missing = FILES.iter().find(|file| !place.join(file).is_file());
    if let Some(missing) = missing {
        return Ok(Some(format!("the package has no {missing}")));
    }
    if name == CORE {
        return Ok(None);
    }
    cargo(&place, &["test", "--offline"])
}

/// What a call of cargo said, if it failed.
fn cargo(dir: &Path, args: &[&str]) -> Result<Option<String>> {
    let output = Cmd::new("env")
        .args(["-u", "CARGO_TARGET_DIR"])
        .args(cargo::cargo().words())
        .args(args)
        .dir(dir)
        .capture()
        .with_context(|| format!("cannot run `cargo {}`", args[0]))?;
    let said = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
    Ok((!output.status.success()).then(|| said.join("\n")))
}
