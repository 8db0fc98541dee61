//! Tests that run on the host: `cargo test` of the crates that build there, their packages, rustfmt, and clippy.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::group::Group;
use super::packages;
use super::tally::{Outcome, Tally};
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;
use soft_roce_setup::signal;

/// Crates that build with nothing but cargo and a C linker.
const CRATES: [&str; 9] = [
    "ib-emm",
    "verbs-shim",
    "verbs-abi",
    "verbs-shim-launcher",
    "unpinned",
    "soft-roce-setup",
    "soft-roce-setup-cli",
    "test-suite",
    "bench-report",
];

/// What the core's tests compare it with; it has none of its own.
const MODELS: &str = "ib-emm-models";

/// Those that are wanted.
pub fn group<'a>(context: &'a Context, tally: &'a Tally) -> Option<Group<'a>> {
    let wanted = tally.wants_group("host::");
    wanted.then(|| Group::of_host(move || run(context, tally)))
}

/// Runs them.
fn run(context: &Context, tally: &Tally) -> Result<()> {
    let workspace = soft_roce_setup::build::workspace();
    for name in CRATES {
        signal::check()?;
        cargo_test(context, &workspace, name, tally)?;
    }
    packages::run(context, &workspace, tally)?;
    tool(
        &workspace,
        tally,
        "host::rustfmt",
        &["fmt", "--all", "--check"],
    )?;
    let mut clippy = vec!["clippy", "--quiet", "--all-targets"];
    clippy.extend(CRATES.iter().flat_map(|name| ["-p", name]));
    clippy.extend(["-p", MODELS]);
    clippy.extend(["--", "-D", "warnings"]);
    tool(&workspace, tally, "host::clippy", &clippy)
}

/// The cargo that runs this tool, or the host's.
fn cargo(workspace: &Path) -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).dir(workspace)
}

/// Counts each test that the crate's test programs report.
fn cargo_test(context: &Context, workspace: &Path, name: &str, tally: &Tally) -> Result<()> {
    let step = context.ui.step(format!("host tests of {name}"));
    let start = Instant::now();
    let output = cargo(workspace)
        .args(["test", "--profile", "checked", "--no-fail-fast", "-p", name])
        .capture()
        .context("cannot run `cargo test`")?;
    step.done();
    tell(tally, &format!("host::{name}"), &output, start.elapsed());
    Ok(())
}

/// Counts each test that libtest's `output` reports, as one of `group`; what reports none, or fails without saying which, is a failure of the group.
pub(super) fn tell(tally: &Tally, group: &str, output: &Output, took: Duration) {
    let text = String::from_utf8_lossy(&output.stdout);
    let results = parse(&text);
    for (test, outcome) in &results {
        let full = format!("{group}::{test}");
        if tally.wants(&full) {
            let outcome = match outcome {
                Outcome::Failed(_) => Outcome::Failed(excerpt(&text, test)),
                other => other.clone(),
            };
            tally.add(&full, Duration::ZERO, outcome);
        }
    }
    let failed = results.iter().any(|r| matches!(r.1, Outcome::Failed(_)));
    if results.is_empty() || !output.status.success() && !failed {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        tally.add(group, took, Outcome::Failed(error));
    }
}

/// The lines `test NAME ... RESULT` of libtest.
fn parse(text: &str) -> Vec<(String, Outcome)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("test ")?.rsplit_once(" ... "))
        .filter_map(|(name, result)| {
            let outcome = match result {
                "ok" => Outcome::Passed,
                "FAILED" => Outcome::Failed(String::new()),
                _ => Outcome::Skipped(result.strip_prefix("ignored")?.trim().to_owned()),
            };
            Some((name.to_owned(), outcome))
        })
        .collect()
}

/// What libtest printed for a failed test.
fn excerpt(text: &str, test: &str) -> String {
    let head = format!("---- {test} stdout ----");
    text.lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
        .collect::<Vec<_>>()
        .join("\n")
}

/// A cargo tool that may be missing on this host.
fn tool(workspace: &Path, tally: &Tally, name: &str, args: &[&str]) -> Result<()> {
    if !tally.wants(name) {
        return Ok(());
    }
    let start = Instant::now();
    let there = cargo(workspace)
        .args([args[0], "--version"])
        .capture()
        .is_ok_and(|o| o.status.success());
    let outcome = if there {
        let output = cargo(workspace)
            .args(args)
            .capture()
            .with_context(|| format!("cannot run `cargo {}`", args[0]))?;
        if output.status.success() {
            Outcome::Passed
        } else {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Outcome::Failed(text)
        }
    } else {
        Outcome::Skipped(format!("this host's cargo has no `{}`", args[0]))
    };
    tally.add(name, start.elapsed(), outcome);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_libtest() {
        let text = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\n\
                    test d ... ignored, needs a disk\n\nfailures:\n\n---- c stdout ----\nwhy\n\n\
                    failures:\n    c\n";
        assert_eq!(
            parse(text),
            [
                ("a::b".to_owned(), Outcome::Passed),
                ("c".to_owned(), Outcome::Failed(String::new())),
                (
                    "d".to_owned(),
                    Outcome::Skipped(", needs a disk".to_owned())
                ),
            ]
        );
        assert_eq!(excerpt(text, "c"), "why\n");
    }
}
