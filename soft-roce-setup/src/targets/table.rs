//! The table, in Markdown whose columns are aligned for the terminal.

use std::fmt::Write as _;

use super::Measured;
use super::judge::{Judged, Verdict, judge, number};

/// The columns of measured values: the kinds of region, and what their heads say.
const KINDS: [(&str, &str); 4] = [
    ("none", "no MR"),
    ("pinned", "pinned"),
    ("odp", "in-tree ODP"),
    ("emm", "EMM"),
];

/// Whether every case of a row that has a bound reaches it, there is one, and nothing went wrong.
pub fn reached(row: &Measured) -> bool {
    let judged: Vec<Judged> = row
        .facts
        .cases()
        .iter()
        .filter_map(|(case, unit)| judge(row.row.checks, &row.facts, case, unit))
        .collect();
    row.trouble.is_none()
        && !judged.is_empty()
        && judged.iter().all(|j| j.verdict == Verdict::Reached)
}

/// Everything measured, each case in a line.
pub fn cases(rows: &[Measured]) -> String {
    let mut lines = vec![head()];
    for row in rows {
        for (case, unit) in row.facts.cases() {
            lines.push(line(row, case, unit));
        }
    }
    aligned(&lines)
}

/// One line for each row.
pub fn rows(rows: &[Measured]) -> String {
    let mut lines = vec![vec!["row".into(), "reach".into(), "reached".into()]];
    for row in rows {
        lines.push(vec![
            row.row.what.to_owned(),
            row.row.reach.to_owned(),
            if reached(row) { "yes" } else { "**no**" }.to_owned(),
        ]);
    }
    aligned(&lines)
}

/// Why values are missing.
pub fn notes(rows: &[Measured]) -> String {
    let mut out = String::new();
    for row in rows {
        for fact in row.facts.all() {
            if let Some(why) = &fact.why {
                let _ = writeln!(out, "- {}, {}, {}: {why}", fact.row, fact.case, fact.mr);
            }
        }
        if let Some(trouble) = &row.trouble {
            let _ = writeln!(out, "- {}: {trouble}", row.row.name);
        }
    }
    out
}

fn head() -> Vec<String> {
    let kinds = KINDS.iter().map(|(_, title)| *title);
    ["row", "case", "unit"]
        .into_iter()
        .chain(kinds)
        .chain(["limit for EMM", "reached"])
        .map(str::to_owned)
        .collect()
}

fn line(row: &Measured, case: &str, unit: &str) -> Vec<String> {
    let judged = judge(row.row.checks, &row.facts, case, unit);
    let values = KINDS.iter().map(|(mr, _)| cell(row, case, unit, mr));
    let (limits, verdict) = match judged {
        None => (String::new(), ""),
        Some(judged) => (
            judged.limits,
            match judged.verdict {
                Verdict::Reached => "yes",
                Verdict::Missed => "**no**",
                Verdict::Unknown(_) => "**not measured**",
            },
        ),
    };
    [row.row.name, case, unit]
        .into_iter()
        .map(str::to_owned)
        .chain(values)
        .chain([limits, verdict.to_owned()])
        .collect()
}

/// A value; a cross where there should be one, nothing where it was not asked for.
fn cell(row: &Measured, case: &str, unit: &str, mr: &str) -> String {
    match row.facts.get(case, unit, mr).map(|fact| fact.value) {
        None => String::new(),
        Some(None) => "✗".to_owned(),
        Some(Some(value)) => number(value),
    }
}

/// Lines of cells, the first of which is the head.
fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths = vec![0; lines.first().map_or(0, Vec::len)];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out.push('|');
        for (width, cell) in widths.iter().zip(line) {
            let pad = width - cell.chars().count();
            let _ = write!(out, " {cell}{} |", " ".repeat(pad));
        }
        out.push('\n');
        if at == 0 {
            let rule: String = widths
                .iter()
                .map(|w| format!("{}|", "-".repeat(w + 2)))
                .collect();
            let _ = writeln!(out, "|{rule}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::facts::Facts;
    use crate::targets::rows::ROWS;

    fn measured(lines: &[&str], trouble: Option<&str>) -> Measured {
        let mut facts = Facts::default();
        for line in lines {
            assert!(facts.take(line).is_some());
        }
        Measured {
            row: &ROWS[0],
            facts,
            trouble: trouble.map(str::to_owned),
        }
    }

    const ODP: &str =
        r#"{"row":"registration","case":"4 KiB, untouched","unit":"µs","mr":"odp","value":14}"#;
    const EMM: &str =
        r#"{"row":"registration","case":"4 KiB, untouched","unit":"µs","mr":"emm","value":14.5}"#;
    const IMPLICIT: &str =
        r#"{"row":"registration","case":"implicit","unit":"µs","mr":"emm","why":"EINVAL"}"#;

    #[test]
    fn a_row_is_reached_only_whole() {
        assert!(!reached(&measured(&[], None)));
        assert!(!reached(&measured(&[ODP], None)));
        assert!(reached(&measured(&[ODP, EMM], None)));
        assert!(!reached(&measured(&[ODP, EMM, IMPLICIT], None)));
        assert!(!reached(&measured(&[ODP, EMM], Some("status 2"))));
    }

    #[test]
    fn lines_are_aligned_and_reasons_given() {
        let rows = [measured(&[ODP, EMM, IMPLICIT], None)];
        let table = cases(&rows);
        let widths: Vec<_> = table.lines().map(|l| l.chars().count()).collect();
        assert_eq!(widths.len(), 4);
        assert!(widths.iter().all(|w| *w == widths[0]));
        assert!(table.contains("≤ 16.80"));
        assert_eq!(notes(&rows), "- registration, implicit, emm: EINVAL\n");
    }
}
