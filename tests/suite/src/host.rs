//! Tests that run on the host: `cargo test` of the crates that build there, their packages, rustfmt, and clippy.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cargo::cargo;
use super::group::Group;
use super::packages;
use super::sources::{self, Target};
use super::tally::{Outcome, Tally};
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;

/// Crates that build with nothing but cargo and a C linker.
const CRATES: [&str; 11] = [
    "ib-emm",
    "verbs-shim",
    "verbs-abi",
    "verbs-shim-launcher",
    "unpinned",
    "xpmem",
    "libxpmem",
    "soft-roce-setup",
    "soft-roce-setup-cli",
    "test-suite",
    "bench-report",
];

/// What the core's tests compare it with; it has none of its own.
const MODELS: &str = "ib-emm-models";

/// What is seen of the sources themselves.
const FORMAT: &str = "host::rustfmt";
const LINTS: &str = "host::clippy";

/// A crate's name, and its test programs.
type Tested = (&'static str, Vec<Target>);

fn crates() -> Result<Vec<Tested>> {
    let metadata = sources::metadata(cargo())?;
    let of = |name| Ok((name, sources::targets(&metadata, name)?));
    CRATES.into_iter().map(of).collect()
}

/// The names of all of them; those of documentation's examples are known when they are built.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, targets) in crates()? {
        let tests = targets.into_iter().flat_map(|target| target.tests);
        names.extend(tests.map(|test| format!("host::{name}::{test}")));
    }
    names.extend(packages::names());
    names.extend([FORMAT, LINTS].map(str::to_owned));
    Ok(names)
}

/// Whether some are wanted.
pub fn wanted(tally: &Tally) -> Result<bool> {
    Ok(names()?.iter().any(|name| tally.wants(name)))
}

/// Those that are wanted.
pub fn group<'a>(context: &'a Context, tally: &'a Tally) -> Result<Option<Group<'a>>> {
    Ok(wanted(tally)?.then(|| Group::of_host(move || run(context, tally))))
}

/// Builds what [`group`] runs, as one that yields to all others, and sees what is to be seen of the sources.
pub fn build(context: &Context, tally: &Tally) -> Result<()> {
    for (name, args) in wanted_crates(tally)? {
        let step = context.ui.step(format!("host tests of {name}: build"));
        let options = args.iter().take_while(|arg| *arg != "--");
        // What fails here fails again when they are run, and is told there.
        test(name)
            .arg("--no-run")
            .args(options)
            .yields()
            .capture()?;
        step.done();
    }
    tool(tally, FORMAT, &["fmt", "--all", "--check"])?;
    let mut clippy = vec!["clippy", "--quiet", "--all-targets"];
    clippy.extend(CRATES.iter().flat_map(|name| ["-p", name]));
    clippy.extend(["-p", MODELS]);
    clippy.extend(["--", "-D", "warnings"]);
    tool(tally, LINTS, &clippy)
}

/// Runs them.
fn run(context: &Context, tally: &Tally) -> Result<()> {
    for (name, args) in wanted_crates(tally)? {
        cargo_test(context, name, &args, tally)?;
    }
    packages::run(context, tally)
}

/// The crates that have wanted tests, and what `cargo test` is told besides for these.
fn wanted_crates(tally: &Tally) -> Result<Vec<(&'static str, Vec<String>)>> {
    let of = |(name, targets): Tested| Some((name, chosen(name, &targets, tally)?));
    Ok(crates()?.into_iter().filter_map(of).collect())
}

fn test(name: &str) -> Cmd {
    cargo().args(["test", "--profile", "checked", "--no-fail-fast", "-p", name])
}

/// What `cargo test` is told besides for the wanted tests of a crate: nothing, if these are all; `None`, if there are none. Only the
/// programs that have wanted tests are built.
fn chosen(name: &str, targets: &[Target], tally: &Tally) -> Option<Vec<String>> {
    if tally.wants_all() || tally.wants(&format!("host::{name}::")) {
        return Some(Vec::new());
    }
    let (mut options, mut tests) = (Vec::new(), Vec::new());
    for target in targets {
        let full = |test: &&String| tally.wants(&format!("host::{name}::{test}"));
        let wanted: Vec<&String> = target.tests.iter().filter(full).collect();
        if !wanted.is_empty() {
            options.extend(target.option.iter().cloned());
            tests.extend(wanted.into_iter().cloned());
        }
    }
    if tests.is_empty() {
        return None;
    }
    options.extend(["--".to_owned(), "--exact".to_owned()]);
    Some([options, tests].concat())
}

/// Counts each test that the crate's test programs report.
fn cargo_test(context: &Context, name: &str, args: &[String], tally: &Tally) -> Result<()> {
    let step = context.ui.step(format!("host tests of {name}"));
    let start = Instant::now();
    let output = test(name)
        .args(args)
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
fn tool(tally: &Tally, name: &str, args: &[&str]) -> Result<()> {
    if !tally.wants(name) {
        return Ok(());
    }
    let start = Instant::now();
    let there = cargo()
        .args([args[0], "--version"])
        .capture()
        .is_ok_and(|o| o.status.success());
    let outcome = if there {
        let output = cargo()
            .args(args)
            .yields()
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
    fn a_filter_reaches_cargo() {
        let target = |option: &[&str], tests: &[&str]| Target {
            option: option.iter().map(|o| (*o).to_owned()).collect(),
            tests: tests.iter().map(|t| (*t).to_owned()).collect(),
        };
        let targets = [
            target(&["--lib"], &["a::x", "a::y"]),
            target(&["--test", "t"], &["z"]),
        ];
        let chosen = |filters: &[&str]| {
            let filters = filters.iter().map(|f| (*f).to_owned()).collect();
            let tally = Tally::new(filters, soft_roce_setup::ui::Ui::quiet());
            chosen("c", &targets, &tally).map(|args| args.join(" "))
        };
        assert_eq!(chosen(&[]).as_deref(), Some(""));
        assert_eq!(chosen(&["host::c::"]).as_deref(), Some(""));
        assert_eq!(
            chosen(&["c::a::y"]).as_deref(),
            Some("--lib -- --exact a::y")
        );
        let both = chosen(&["::x", "host::c::z"]);
        assert_eq!(both.as_deref(), Some("--lib --test t -- --exact a::x z"));
        assert_eq!(chosen(&["guest::"]), None);
    }

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
