//! What the tests showed, as a document: `test --report FILE`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use bench_report::measure::markdown;

use super::brief::brief;
use super::results::Results;
use super::tally::Outcome;
use soft_roce_setup::build::debug;

/// How a cell of the matrix came out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Held,
    Wrong(String),
    None(String),
}

/// One matrix: what one kind of region did on one kernel.
#[derive(Debug, Default)]
struct Matrix {
    /// Columns, in the order they came.
    verbs: Vec<String>,
    /// Rows, in the order they came.
    events: Vec<String>,
    cells: BTreeMap<(String, String), Cell>,
}

impl Matrix {
    /// Takes a line of `emm-check matrix`. Others are passed over.
    fn line(&mut self, line: &str) {
        let Some((mark, rest)) = line.split_at_checked(6) else {
            return;
        };
        let (name, detail) = match mark.trim() {
            "skip" => rest.split_once(": ").unwrap_or((rest, "")),
            "ok" | "FAIL" | "known" => {
                let Some((_, rest)) = rest.split_once(" matrix: ") else {
                    return;
                };
                rest.split_once(": ").unwrap_or((rest, ""))
            }
            _ => return,
        };
        let Some((verb, event)) = name.split_once(" x ") else {
            return;
        };
        let cell = match mark.trim() {
            "ok" => Cell::Held,
            "skip" => Cell::None(detail.to_owned()),
            _ => Cell::Wrong(detail.to_owned()),
        };
        for (list, word) in [(&mut self.verbs, verb), (&mut self.events, event)] {
            if !list.iter().any(|known| known == word) {
                list.push(word.to_owned());
            }
        }
        self.cells.insert((event.to_owned(), verb.to_owned()), cell);
    }

    fn count(&self, wanted: fn(&Cell) -> bool) -> usize {
        self.cells.values().filter(|cell| wanted(cell)).count()
    }

    fn markdown(&self) -> String {
        let head = std::iter::once("event").chain(self.verbs.iter().map(String::as_str));
        let mut lines = vec![head.map(str::to_owned).collect()];
        for event in &self.events {
            let mut line = vec![event.clone()];
            for verb in &self.verbs {
                let sign = match self.cells.get(&(event.clone(), verb.clone())) {
                    Some(Cell::Held) => "ok",
                    Some(Cell::Wrong(_)) => "**wrong**",
                    Some(Cell::None(_)) | None => "–",
                };
                line.push(sign.to_owned());
            }
            lines.push(line);
        }
        markdown(&lines)
    }

    /// What was wrong, each way once, with the cells that it showed in.
    fn wrongs(&self) -> String {
        let mut ways: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ((event, verb), cell) in &self.cells {
            if let Cell::Wrong(detail) = cell {
                let way = without_numbers(detail);
                ways.entry(way)
                    .or_default()
                    .push(format!("{verb} x {event}"));
            }
        }
        let mut out = String::new();
        for (way, cells) in ways {
            let more = match cells.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let _ = writeln!(out, "- {way}: {}{more}", cells[0]);
        }
        out
    }
}

/// The same way of failing has other numbers in each cell.
fn without_numbers(detail: &str) -> String {
    let detail = detail.rsplit_once(" (").map_or(detail, |(text, _)| text);
    let mut out = String::new();
    for word in detail.split(' ') {
        if !out.is_empty() {
            out.push(' ');
        }
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        out.push_str(if number { "N" } else { word });
    }
    out
}

/// The matrix that the test `name` made.
fn matrix(results: &Results, name: &str) -> Matrix {
    let mut matrix = Matrix::default();
    // Of some there is a short one that always runs.
    let whole = results.outputs.get(&format!("{name}_whole"));
    let text = whole.or_else(|| results.outputs.get(name));
    for line in text.into_iter().flat_map(|text| text.lines()) {
        matrix.line(line);
    }
    matrix
}

/// The kinds of region that have a matrix, the test that makes it, and the command.
const KINDS: [(&str, &str, &str); 3] = [
    ("EMM", "matrix", "emm-check matrix --mr emm"),
    ("pinned", "matrix_pinned", "emm-check matrix --mr pinned"),
    ("in-tree ODP", "matrix_odp", "emm-check matrix --mr odp"),
];

/// Writes the document.
pub fn write(path: &Path, results: &Results) -> Result<()> {
    let text = document(results);
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn document(results: &Results) -> String {
    let mut out =
        "# Compatibility\n\nWritten by `test --report` from what these printed:\n\n".to_owned();
    let mut lines = vec![words(["run", "command", "date", "kernels"])];
    for (i, run) in results.runs.iter().enumerate() {
        lines.push(vec![
            (i + 1).to_string(),
            format!("`{}`", run.command),
            run.date.clone(),
            run.kernels.join(", "),
        ]);
    }
    out.push_str(&markdown(&lines));
    out.push_str(
        "\nA cell of a matrix is an operation, running without pause on one part of a region while the event happens to \
         another part, where it\nruns before, between and after the event's steps. *ok*: every byte was right, around each target too, \
         and what the memory does not\nallow ended in a completion with an error. –: there is no such cell (a pinned region keeps the pages it got). Any cell \
         again:\n`cargo run -r -- run --mr pinned --append 'numa=fake=2 numa_balancing=disable' --disk 512M -- emm-check matrix EVENT --verb VERB --mr KIND`.\n\n",
    );
    let kernels = kernels(results);
    summary(&mut out, &kernels, results);
    for kernel in &kernels {
        for (kind, test, _) in KINDS {
            let matrix = matrix(results, &format!("guest::{}::{test}", series(kernel)));
            if matrix.cells.is_empty() {
                continue;
            }
            let _ = writeln!(out, "## {kind} on {kernel}\n\n{}", matrix.markdown());
            let wrongs = matrix.wrongs();
            if !wrongs.is_empty() {
                let _ = writeln!(out, "How it is wrong:\n\n{wrongs}");
            }
        }
    }
    shown(&mut out, results);
    out.push_str("## Tests\n\n");
    let mut lines = vec![words(["test", "outcome", "run"])];
    for test in results.tests().filter(|test| {
        !["host::", "root::"]
            .iter()
            .any(|group| test.name.starts_with(group))
    }) {
        let said = match &test.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(_) => "**failed**".to_owned(),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        lines.push(vec![test.name.clone(), said, (test.run + 1).to_string()]);
    }
    out.push_str(&markdown(&lines));
    out
}

/// A line of a table.
fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Releases of all kernels, each once.
fn kernels(results: &Results) -> Vec<&str> {
    let mut kernels = Vec::new();
    for kernel in results.runs.iter().flat_map(|run| &run.kernels) {
        if !kernels.contains(&kernel.as_str()) {
            kernels.push(kernel);
        }
    }
    kernels
}

fn summary(out: &mut String, kernels: &[&str], results: &Results) {
    let head = ["kernel", "region", "command", "cells right", "wrong"];
    let mut lines = vec![words(head)];
    for kernel in kernels {
        for (kind, test, command) in KINDS {
            let matrix = matrix(results, &format!("guest::{}::{test}", series(kernel)));
            if matrix.cells.is_empty() {
                continue;
            }
            let held = matrix.count(|c| *c == Cell::Held);
            let wrong = matrix.count(|c| matches!(c, Cell::Wrong(_)));
            lines.push(words([
                kernel,
                kind,
                &format!("`{command}`"),
                &held.to_string(),
                &wrong.to_string(),
            ]));
        }
    }
    out.push_str(&markdown(&lines));
    out.push('\n');
}

/// Sections that show what tests printed, and a part of those tests' names.
const SHOWN: [(&str, &str); 3] = [
    (
        "Every byte at odd offsets and lengths",
        "::eight_queue_pairs_every_mtu",
    ),
    ("Races", "::ten_million_operations"),
    ("The peers' own suites", "::peers::"),
];

/// What tests printed whose lines say more than their outcome.
fn shown(out: &mut String, results: &Results) {
    for (title, part) in SHOWN {
        let mut title = Some(title);
        for (name, text) in &results.outputs {
            if !name.contains(part) {
                continue;
            }
            if let Some(title) = title.take() {
                let _ = writeln!(out, "## {title}\n");
            }
            let _ = writeln!(
                out,
                "`cargo run -r -- test --long {name}`:\n\n```\n{}\n```\n",
                brief(text)
            );
        }
    }
}

/// The name that tests have for a kernel: its series.
fn series(kernel: &str) -> String {
    if kernel.ends_with(debug::SUFFIX) {
        return debug::NAME.to_owned();
    }
    match kernel.split_once('.') {
        Some((major, rest)) if kernel.starts_with(|c: char| c.is_ascii_digit()) => {
            let minor = rest.split(['.', '-', '+']).next().unwrap_or(rest);
            format!("{major}.{minor}")
        }
        _ => kernel.to_owned(),
    }
}

/// The date, in UTC.
pub fn today() -> String {
    let mut now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.truncate("2026-11-24".len());
    now
}

#[cfg(test)]
mod tests {
    use super::super::results::Run;
    use super::super::said::Said;
    use super::super::tally::Tally;
    use super::*;
    use soft_roce_setup::ui::Ui;
    use std::time::Duration;

    #[test]
    fn a_date_is_a_day() {
        let today = today();
        let parts: Vec<usize> = today.split('-').map(str::len).collect();
        assert_eq!(parts, [4, 2, 2], "{today}");
    }

    #[test]
    fn cells() {
        let said = Said::default();
        let text = "ok    emm    matrix: WRITE x dontneed: 6 ranges: fine (0.1 s)\n\
                    known emm    matrix: READ x dontneed: the stage: 7 wrong bytes, first at offset 0x10 (1 s)\n\
                    known emm    matrix: READ x remap: the stage: 9 wrong bytes, first at offset 0x20 (1 s)\n\
                    skip  WRITE x remap: there is no disk\nPASS: 1 passed\n";
        said.keep("guest::7.3::matrix".into(), text.into());
        let tally = Tally::new(Vec::new(), Ui::quiet());
        tally.add("guest::7.3::matrix", Duration::ZERO, Outcome::Passed);
        let run = Run {
            command: "cargo x".into(),
            date: today(),
            kernels: vec!["7.3.4+deb13-amd64".into()],
        };
        said.keep("guest::7.3::peers::a".into(), "Asked: 3 passed\n".into());
        let mut results = Results::default();
        results.add(run, said, &tally);
        let matrix = matrix(&results, "guest::7.3::matrix");
        assert_eq!(matrix.verbs, ["WRITE", "READ"]);
        assert_eq!(matrix.events, ["dontneed", "remap"]);
        assert_eq!(matrix.count(|c| *c == Cell::Held), 1);
        let text = "ok    emm    matrix: WRITE x dontneed: fine (0.1 s)\n".repeat(2);
        results
            .outputs
            .insert("guest::7.2::matrix_whole".into(), text);
        assert_eq!(
            super::matrix(&results, "guest::7.2::matrix").events,
            ["dontneed"]
        );
        let table = matrix.markdown();
        assert!(table.contains("| dontneed | ok | **wrong** |"), "{table}");
        assert!(table.contains("| remap | – | **wrong** |"), "{table}");
        let wrongs = matrix.wrongs();
        assert_eq!(
            wrongs,
            "- the stage: N wrong bytes, first at offset N: READ x dontneed and 1 more\n"
        );
        assert_eq!(series("7.3.4+deb13-amd64"), "7.3");
        assert_eq!(series("debug"), "debug");
        assert_eq!(series("7.3.4-debug"), "debug");
        let whole = document(&results);
        for line in [
            "| 7.3.4+deb13-amd64 | EMM | `emm-check matrix --mr emm` | 1 | 2 |",
            "| guest::7.3::matrix | passed | 1 |",
            "| 1 | `cargo x` |",
            "```\nAsked: 3 passed\n```",
        ] {
            assert!(whole.contains(line), "{line}");
        }
    }
}
