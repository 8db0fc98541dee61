//! Tests of the patch series in `kernel/rxe`: what a maintainer would do with them, and the driver without `ib_emm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::group::{Asked, Group, options};
use super::guest::{script, spec};
use super::tally::Outcome;
use soft_roce_setup::build::kernel::Prepared;
use soft_roce_setup::build::modules::Variant;
use soft_roce_setup::build::rxe::{Rxe, TREE, all};
use soft_roce_setup::build::{self, BuildOptions, kernel, mail, root, steps};
use soft_roce_setup::cache::remove_tree;
use soft_roce_setup::context::Context;
use soft_roce_setup::enter::Enter;
use soft_roce_setup::guest::Guest;
use soft_roce_setup::proc::Cmd;
use soft_roce_setup::signal;

/// What `scripts/checkpatch.pl` is not asked: a sign-off is a person's, the source has no history to look commits up in, and the
/// entry of the driver in MAINTAINERS names its folder.
const NOT_ASKED: &str = "MISSING_SIGN_OFF,UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES";

/// The kernel's source, as the root sees it there.
const SOURCE: &str = "/mnt/linux";

/// What is run on a driver of fixes alone, and whether it is run always. Advice is left out: what it does with a pinned MR is a
/// fault of in-tree on-demand paging, which the series odp mends.
const ALONE: &[(&str, &str, bool)] = &[
    (
        "verify",
        "lsmod | grep -q ib_emm && exit 1\n\
         emm-check verify --mr pinned && emm-check verbs windows ring responder --mr pinned",
        true,
    ),
    (
        "verbs",
        "emm-check verbs windows srq datagram extended rereg mixed input ring responder teardown --mr pinned",
        false,
    ),
    ("matrix", "emm-check matrix --mr pinned", false),
];

/// The names of those on the kernel `series`. Style and the driver without `ib_emm` are tried on the `first` kernel, but for `--long`.
pub fn names(series: &str, first: bool, long: bool) -> Vec<String> {
    let mut tests = vec!["git_am_takes_each_series".to_owned()];
    if first || long {
        tests.push("checkpatch_has_nothing_to_say".to_owned());
    }
    if long {
        tests.extend(all().iter().map(|of| format!("each_step_builds::{of}")));
    }
    let alone = ALONE.iter().filter(|(.., short)| long || first && *short);
    tests.extend(alone.map(|(test, ..)| format!("fixes_alone::{test}")));
    tests.iter().map(|test| name(series, test)).collect()
}

/// Those on the kernel `series` that are wanted.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context, series, ..
    } = asked;
    let mut wanted = names(series, asked.first, asked.long);
    wanted.retain(|name| asked.tally.wants(name));
    if wanted.is_empty() {
        return Ok(None);
    }
    if wanted.iter().any(|name| name.contains("::fixes_alone::")) {
        build::ensure(context, &fixes(series))?;
    }
    let work = move || {
        for name in wanted {
            signal::check()?;
            let start = Instant::now();
            let outcome = run(context, series, &name)?;
            asked.tally.add(&name, start.elapsed(), outcome);
        }
        Ok(())
    };
    Group::of_kernel(context, series, work).map(Some)
}

/// Runs the test `name`.
fn run(context: &Context, series: &str, name: &str) -> Result<Outcome> {
    let test = name.splitn(3, "::").last().unwrap_or(name);
    if let Some(of) = test.strip_prefix("each_step_builds::") {
        return each_step(context, series, of);
    }
    if let Some((_, text, _)) = ALONE
        .iter()
        .find(|(alone, ..)| test == format!("fixes_alone::{alone}"))
    {
        let artifacts = build::ensure(context, &fixes(series))?;
        let mut guest = Guest::boot(context, &artifacts, &spec())?;
        return Ok(script(&mut guest, text, 900, &["PASS"])?.0);
    }
    match test {
        "git_am_takes_each_series" => git_am(context, series),
        _ => checkpatch(context, series),
    }
}

fn name(series: &str, test: &str) -> String {
    format!("rxe::{series}::{test}")
}

/// The modules of fixes alone.
fn fixes(series: &str) -> BuildOptions {
    BuildOptions {
        modules: Variant::Driver(Rxe::Fixes),
        ..options(series)
    }
}

fn prepared(context: &Context, series: &str) -> Result<Prepared> {
    let chosen = kernel::remembered(context, Some(series))
        .with_context(|| format!("the kernel {series} is not in the cache"))?;
    Ok(Prepared::at(context, chosen))
}

/// Each series goes in by `git am`, on the distribution's source of the driver: fixes, then emm on it; odp by itself.
fn git_am(context: &Context, series: &str) -> Result<Outcome> {
    if Cmd::new("git").arg("--version").capture().is_err() {
        return Ok(Outcome::Skipped("git is not installed".to_owned()));
    }
    let _lock = context.cache.lock_shared(&context.ui)?;
    let source = prepared(context, series)?.source.join(TREE);
    let dir = tempfile::tempdir().context("cannot make a folder for the test")?;
    for (at, folders) in [&["fixes", "emm"][..], &["odp"]].into_iter().enumerate() {
        let tree = dir.path().join(format!("tree-{at}"));
        copy(&source, &tree.join(TREE))?;
        for words in [
            &["init", "--quiet"][..],
            &["add", "."],
            &[
                "commit",
                "--quiet",
                "--message",
                "the distribution's source",
            ],
        ] {
            if let Err(why) = git(&tree, words, &[])? {
                return Ok(Outcome::Failed(why));
            }
        }
        for folder in folders.iter().filter(|name| all().contains(name)) {
            let to = dir.path().join(folder);
            let total = mail::write(folder, series, &to)?;
            let mails = patches(&to)?;
            if mails.len() != total {
                return Ok(Outcome::Failed(format!(
                    "{folder}: {total} patches, {} files",
                    mails.len()
                )));
            }
            if let Err(why) = git(&tree, &["am", "--quiet"], &mails)? {
                return Ok(Outcome::Failed(format!("{folder}: {why}")));
            }
        }
    }
    Ok(Outcome::Passed)
}

/// Runs git there as nobody in particular. The inner error is what it said.
fn git(tree: &Path, words: &[&str], files: &[PathBuf]) -> Result<Result<(), String>> {
    let output = Cmd::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
        .args(["-c", "commit.gpgSign=false"])
        .args(words)
        .args(files)
        .dir(tree)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .capture()
        .context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(format!("git {}: {said}", words.join(" ")))
    })
}

/// The kernel's own judge of patches says nothing about any.
fn checkpatch(context: &Context, series: &str) -> Result<Outcome> {
    let _lock = context.cache.lock_shared(&context.ui)?;
    let dir = tempfile::tempdir().context("cannot make a folder for the test")?;
    let mut args = Vec::new();
    for folder in all() {
        let to = dir.path().join(folder);
        mail::write(folder, series, &to)?;
        for file in patches(&to)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            args.push(format!("/mnt/mail/{folder}/{name}"));
        }
    }
    let output = Enter::new(&root::tree(context))
        .bind_ro(dir.path(), "/mnt/mail")
        .bind_ro(prepared(context, series)?.source, SOURCE)
        .dir(SOURCE)
        .cmd("perl")
        .args([
            "scripts/checkpatch.pl",
            "--strict",
            "--terse",
            "--no-summary",
        ])
        .args(["--show-types", "--color=never", "--ignore", NOT_ASKED])
        .args(&args)
        .capture()
        .context("cannot run checkpatch.pl")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let said = said.replace("/mnt/mail/", "");
    Ok(if output.status.success() && said.trim().is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}\n{said}", output.status))
    })
}

/// The driver builds after each patch, without a new warning.
fn each_step(context: &Context, series: &str, of: &str) -> Result<Outcome> {
    let _lock = context.cache.lock_shared(&context.ui)?;
    let dir = context
        .cache
        .path("tmp")
        .join(format!("steps-{series}-{of}"));
    remove_tree(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let found = steps::each_builds(context, &prepared(context, series)?, of, &dir);
    let outcome = match found {
        Ok(found) if found.is_empty() => Outcome::Passed,
        Ok(found) => {
            let lines: Vec<String> = found
                .iter()
                .map(|finding| format!("{}: {}", finding.patch, finding.warning))
                .collect();
            Outcome::Failed(lines.join("\n"))
        }
        Err(error) => {
            signal::check()?;
            Outcome::Failed(format!("{error:#}"))
        }
    };
    remove_tree(&dir)?;
    Ok(outcome)
}

/// The patches of a folder, in order.
fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        files.push(entry.context("cannot read a folder")?.path());
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "patch"));
    files.sort();
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let path = entry.path();
        fs::copy(&path, to.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: [&str; 3] = ["emm", "fixes", "odp"];

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// The number that `text` begins with: four digits.
    fn number(text: &str) -> Option<u32> {
        let digits = text.get(..4)?;
        digits
            .parse()
            .ok()
            .filter(|_| digits.bytes().all(|c| c.is_ascii_digit()))
    }

    /// The patches of a series that `text` names: `emm/0002`, `fixes/0012 to 0017, 0031`.
    fn named(text: &str, series: &str) -> Vec<u32> {
        let mut named = Vec::new();
        for (at, name) in text.match_indices(&format!("{series}/")) {
            let mut rest = &text[at + name.len()..];
            while let Some(first) = number(rest) {
                rest = &rest[4..];
                let last = rest.strip_prefix(" to ").and_then(number).unwrap_or(first);
                named.extend(first..=last);
                rest = if last > first { &rest[8..] } else { rest };
                rest = rest.strip_prefix(", ").unwrap_or_default();
            }
        }
        named
    }

    #[test]
    fn patches_are_found_in_a_text() {
        let text = "emm/0002, `fixes/0012 to 0014, 0031`, emm/files";
        assert_eq!(named(text, "emm"), [2]);
        assert_eq!(named(text, "fixes"), [12, 13, 14, 31]);
    }

    /// A patch that the documents name by its number is in its series.
    #[test]
    fn patches_that_documents_name_are_there() -> Result<()> {
        let mut files = vec!["README.md".into(), "kernel/rxe/README.md".into()];
        for entry in fs::read_dir(repository().join("docs"))? {
            files.push(Path::new("docs").join(entry?.file_name()));
        }
        let texts = files
            .iter()
            .filter(|file| file.extension().is_some_and(|e| e == "md"));
        let mut seen = 0;
        for file in texts {
            let text = fs::read_to_string(repository().join(file))?;
            for of in SERIES {
                let list = repository().join("kernel/rxe").join(of).join("series");
                let list = fs::read_to_string(list)?;
                let there: Vec<_> = list.lines().filter_map(number).collect();
                for patch in named(&text, of) {
                    let file = file.display();
                    assert!(
                        there.contains(&patch),
                        "{file}: there is no {of}/{patch:04}"
                    );
                    seen += 1;
                }
            }
        }
        assert!(seen > 20, "only {seen} patches are named");
        Ok(())
    }
}
