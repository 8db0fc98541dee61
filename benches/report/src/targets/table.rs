//! The table, in Markdown whose columns are aligned for the terminal.

use std::fmt::Write as _;

use super::judge::{Judged, Verdict, judge};
use super::rows::Row;
use crate::measure::{Facts, KINDS, Key, TITLES, aligned, number};

/// A row with what was measured of it.
#[derive(Debug)]
pub struct Measured {
    /// The row.
    pub row: &'static Row,
    /// What was measured.
    pub facts: Facts,
    /// What went wrong on the way.
    pub trouble: Option<String>,
}

/// Whether every case of a row that has a bound reaches it, there is one, and nothing went wrong.
pub fn reached(row: &Measured) -> bool {
    let judged: Vec<Judged> = row
        .facts
        .cases()
        .into_iter()
        .filter_map(|key| verdict(row, key))
        .collect();
    row.trouble.is_none() && !judged.is_empty() && judged.iter().all(|j| j.verdict.holds())
}

fn verdict(row: &Measured, key: Key<'_>) -> Option<Judged> {
    // A row's program may measure more than the target asks for.
    let checks = if key.row == row.row.name {
        row.row.checks
    } else {
        &[]
    };
    judge(checks, &row.facts, key, &|_| 0.0)
}

/// Everything measured, each case in a line.
pub fn cases(rows: &[Measured]) -> String {
    let mut lines = vec![head()];
    for row in rows {
        lines.extend(row.facts.cases().into_iter().map(|key| line(row, key)));
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
    let mut notes: Vec<String> = Vec::new();
    for row in rows {
        for fact in row.facts.all() {
            if let Some(why) = &fact.why {
                let note = format!("- {}, {}, {}: {why}", fact.row, fact.case, fact.mr);
                // Once, not for each round.
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        // What follows the first line is of the machine that it happened on.
        if let Some(first) = row.trouble.as_deref().and_then(|t| t.lines().next()) {
            notes.push(format!("- {}: {first}", row.row.name));
        }
    }
    notes.into_iter().fold(String::new(), |mut out, note| {
        let _ = writeln!(out, "{note}");
        out
    })
}

fn head() -> Vec<String> {
    let kinds = TITLES.into_iter();
    ["row", "case", "unit"]
        .into_iter()
        .chain(kinds)
        .chain(["limit for EMM", "reached"])
        .map(str::to_owned)
        .collect()
}

fn line(row: &Measured, key: Key<'_>) -> Vec<String> {
    let values = KINDS.iter().map(|mr| cell(row, key, mr));
    let (limits, verdict) = match verdict(row, key) {
        None => (String::new(), ""),
        Some(judged) => (
            judged.limits,
            match judged.verdict {
                Verdict::Reached => "yes",
                Verdict::Close => "yes, within its noise",
                Verdict::Missed => "**no**",
                Verdict::Unknown(_) => "**not measured**",
            },
        ),
    };
    [key.row, key.case, key.unit]
        .into_iter()
        .map(str::to_owned)
        .chain(values)
        .chain([limits, verdict.to_owned()])
        .collect()
}

/// A value; a cross where there should be one, nothing where it was not asked for.
fn cell(row: &Measured, key: Key<'_>, mr: &str) -> String {
    match row.facts.median(key, mr) {
        Some(value) => number(value),
        None if row.facts.of(key, mr).next().is_some() => "✗".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Facts;
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
        r#"{"row":"registration","case":"4 KiB, untouched","unit":"µs","mr":"odp","values":[14]}"#;
    const EMM: &str = r#"{"row":"registration","case":"4 KiB, untouched","unit":"µs","mr":"emm","values":[14.5]}"#;
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
