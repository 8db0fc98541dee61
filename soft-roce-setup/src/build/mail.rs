//! The series of `kernel/rxe` as they would be mailed: numbered, with a cover letter, and with the files of ours as a patch.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::rxe::{For, SERIES, Series, TREE, all};
use super::{sources, versions};
use crate::context::Context;
use crate::exit;

/// What a commit is called of which nobody knows the name yet.
const NOBODY: &str = "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001";
/// The cover letter's file: its first line is the subject. What is written for it has no ending, so that `*.patch` are the patches.
const COVER: &str = "cover-letter";
/// The message of the patch that adds the files of ours, in the same form.
const FILES: &str = "files";

/// `series`
#[derive(Debug, Clone, Args)]
pub struct SeriesArgs {
    /// Where to write them: a folder that is new or empty; each series gets a folder in it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// For the driver of which kernel series
    #[arg(long = "kernel", value_name = "SERIES", default_value = versions::SERIES[0],
          value_parser = clap::builder::PossibleValuesParser::new(versions::SERIES))]
    pub kernel: String,
}

/// `series`
pub fn run(context: &Context, args: &SeriesArgs) -> Result<ExitCode> {
    let out = &args.out;
    let filled = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if filled {
        return Err(exit::coded(
            exit::USAGE,
            format!(
                "--out {}: there is something in it\n  what to do: name a folder that is new or empty",
                out.display()
            ),
        ));
    }
    for name in all() {
        let count = write(name, &args.kernel, &out.join(name))?;
        context
            .ui
            .note(format!("{}: {count} patches", out.join(name).display()));
    }
    context.ui.note(format!(
        "`git am {0}/fixes/*.patch {0}/emm/*.patch` takes them on linux-source-{1}, and {0}/odp/*.patch by itself",
        out.display(),
        args.kernel
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes the series `name` as it is for the kernel series `kernel` into the folder `to`, and returns how many patches it has.
pub fn write(name: &str, kernel: &str, to: &Path) -> Result<usize> {
    let folder = sources::repository().join(SERIES).join(name);
    let series = Series::read(name, For::Known(kernel))?;
    let mut mails = Vec::new();
    for patch in &series.patches {
        let text = read(&patch.file)?;
        let stem = patch.file.file_stem().unwrap_or_default();
        let stem = stem.to_string_lossy();
        // The number in the name is the file's place in its own folder.
        let stem = stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
        mails.push((stem.to_owned(), text));
    }
    let Some((_, first)) = mails.first() else {
        bail!("{}: the series is empty", folder.display());
    };
    let sender = sender(first)?;
    if !series.files.is_empty() {
        let (subject, body) = message(&folder.join(FILES))?;
        let stem = slug(&subject);
        let mut text = format!("{NOBODY}\n{sender}Subject: [PATCH] {subject}\n\n{body}\n---\n");
        for file in &series.files {
            text.push_str(&addition(file)?);
        }
        mails.insert(0, (stem, text));
    }
    let total = mails.len();
    let width = total.to_string().len();
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let put = |name: String, text: &str| {
        let file = to.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let (subject, body) = message(&folder.join(COVER))?;
    let mut cover = format!(
        "{NOBODY}\n{sender}Subject: [PATCH {:0width$}/{total}] {subject}\n\n{body}\n\n",
        0
    );
    for (at, (stem, text)) in mails.iter().enumerate() {
        let number = at + 1;
        let mark = format!("Subject: [PATCH {number:0width$}/{total}] ");
        let numbered = text.replacen("Subject: [PATCH] ", &mark, 1);
        ensure!(numbered != *text, "{stem}: no `Subject: [PATCH] ` in it");
        put(format!("{number:04}-{stem}.patch"), &numbered)?;
        // Writing to a string can't fail.
        let _ = writeln!(cover, "  {}", title(text));
    }
    put(format!("0000-{COVER}"), &cover)?;
    Ok(total)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A subject, and what stands behind the empty line that follows it.
fn message(file: &Path) -> Result<(String, String)> {
    let text = read(file)?;
    let Some((subject, body)) = text.split_once("\n\n") else {
        bail!(
            "{}: a subject, an empty line and a text are wanted",
            file.display()
        );
    };
    Ok((subject.trim().to_owned(), body.trim_end().to_owned()))
}

/// Author and date of a mail, as they stand in it.
fn sender(mail: &str) -> Result<String> {
    let head = mail.split("\n\n").next().unwrap_or("");
    let (Some(from), Some(subject)) = (head.find("\nFrom: "), head.find("\nSubject: ")) else {
        bail!("a patch without From: or Subject:");
    };
    ensure!(from < subject, "a patch whose Subject: comes before From:");
    Ok(format!("{}\n", &head[from + 1..subject]))
}

/// The subject of a mail in one line, without the mark of a patch.
fn title(mail: &str) -> String {
    let head = mail.split("\n\n").next().unwrap_or("");
    let subject = head.split_once("\nSubject: [PATCH] ").map_or("", |s| s.1);
    let mut lines = subject.lines();
    let mut title = lines.next().unwrap_or("").to_owned();
    for line in lines.take_while(|line| line.starts_with(' ')) {
        title.push_str(line);
    }
    title
}

/// A subject as a file's name, as git makes it.
fn slug(subject: &str) -> String {
    let mut slug = String::new();
    for c in subject.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
            slug.push(c);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(52);
    slug.trim_end_matches(['-', '.']).to_owned()
}

/// The patch that creates a file of ours in the driver's folder.
fn addition(file: &Path) -> Result<String> {
    let text = read(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    ensure!(
        text.ends_with('\n'),
        "{}: the last line does not end",
        file.display()
    );
    let path = format!("{TREE}/{name}");
    let count = text.lines().count();
    let mut patch = format!(
        "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{count} @@\n"
    );
    for line in text.lines() {
        let _ = writeln!(patch, "+{line}");
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails() {
        let mail = "From 00 Mon\nFrom: A\n <a@b>\nDate: now\nSubject: [PATCH] x: Do this\n and that\n\nWhy.\n---\n";
        assert_eq!(title(mail), "x: Do this and that");
        assert_eq!(sender(mail).unwrap(), "From: A\n <a@b>\nDate: now\n");
        assert!(sender("Subject: [PATCH] x\n\n").is_err());
        assert_eq!(
            slug("RDMA/rxe: Add on-demand MRs"),
            "RDMA-rxe-Add-on-demand-MRs"
        );
    }

    #[test]
    fn every_series_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for kernel in versions::SERIES {
            for name in all() {
                let to = dir.path().join(kernel).join(name);
                let count = write(name, kernel, &to).unwrap();
                // The patches and the cover letter.
                assert_eq!(fs::read_dir(to).unwrap().count(), count + 1);
            }
        }
    }
}
