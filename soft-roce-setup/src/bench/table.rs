//! Tables in Markdown, and what a cell says.

use super::report::{Case, FamilyReport, KINDS, TITLES};
use crate::measure::{aligned, number};

/// The head's cells in front of the kinds'.
const LEFT: [&str; 3] = ["row", "case", "unit"];
/// And behind them.
const RIGHT: [&str; 4] = ["noise", "EMM / pinned", "EMM / ODP", "target"];

/// The kinds that a family has measured, with their titles.
pub fn kinds(family: &FamilyReport) -> Vec<(&'static str, &'static str)> {
    KINDS
        .into_iter()
        .zip(TITLES)
        .filter(|(mr, _)| family.cases.iter().any(|case| case.kind(mr).is_some()))
        .collect()
}

/// The head of a family's table.
pub fn head(family: &FamilyReport) -> Vec<String> {
    LEFT.into_iter()
        .chain(kinds(family).into_iter().map(|(_, title)| title))
        .chain(RIGHT)
        .map(str::to_owned)
        .collect()
}

/// A case's line.
pub fn line(family: &FamilyReport, case: &Case) -> Vec<String> {
    let name = match case.clock.as_str() {
        "wall" if !case.case.contains("CPU") => format!("{}, {} CPUs", case.case, case.cpus),
        _ => case.case.clone(),
    };
    let mut cells = vec![case.row.clone(), name, unit(case).to_owned()];
    cells.extend(kinds(family).into_iter().map(|(mr, _)| cell(case, mr)));
    cells.push(format!("±{:.1} %", case.noise * 100.0));
    cells.extend(["pinned", "odp"].map(|peer| ratio(case, peer)));
    cells.push(case.target.as_ref().map_or(String::new(), |target| {
        format!("{} {}", target.limits, target.verdict)
            .trim()
            .to_owned()
    }));
    cells
}

/// A family's table.
pub fn markdown(family: &FamilyReport) -> String {
    let mut lines = vec![head(family)];
    lines.extend(family.cases.iter().map(|case| line(family, case)));
    aligned(&lines)
}

/// The unit, by perftest's name for it where there is one.
pub fn unit(case: &Case) -> &str {
    match (case.row.as_str(), case.unit.as_str()) {
        ("throughput" | "qps" | "perftest", "MiB/s") => "BW average[MiB/sec]",
        ("latency", "µs") => "t_typical[usec]",
        (_, unit) => unit,
    }
}

/// The median with half the distance of the quartiles; a cross where nothing could be measured, nothing where nobody asked.
pub fn cell(case: &Case, mr: &str) -> String {
    let Some(outcome) = case.kind(mr) else {
        return String::new();
    };
    match (outcome.median, outcome.q1, outcome.q3) {
        (Some(median), Some(q1), Some(q3)) if q1 < q3 => {
            format!("{} ±{}", number(median), number((q3 - q1) / 2.0))
        }
        (Some(median), ..) => number(median),
        _ => "✗".to_owned(),
    }
}

/// EMM's value by a peer's: `equal` within the noise.
pub fn ratio(case: &Case, peer: &str) -> String {
    let own = case.median("emm").or_else(|| case.median("implicit"));
    match (own, case.median(peer)) {
        (Some(own), Some(peer)) if case.equal(own, peer) => "equal".to_owned(),
        (Some(own), Some(peer)) if peer != 0.0 => number(own / peer),
        _ => String::new(),
    }
}

/// Why values are missing, each reason once.
pub fn notes(family: &FamilyReport) -> Vec<String> {
    let mut notes = Vec::new();
    for case in &family.cases {
        for outcome in &case.kinds {
            if let Some(why) = &outcome.why {
                let note = format!("{}, {}, {}: {why}", case.row, case.case, outcome.mr);
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    notes.extend(family.trouble.iter().cloned());
    notes
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn what_lies_within_the_noise_is_equal() {
        let case = case(&[
            ("pinned", &[10.0, 11.0, 10.0, 11.0]),
            ("odp", &[20.0, 20.0, 20.0, 20.0]),
            ("emm", &[10.4, 10.4, 10.4, 10.4]),
        ]);
        assert_eq!(ratio(&case, "pinned"), "equal");
        assert_eq!(ratio(&case, "odp"), "0.520");
        assert_eq!(ratio(&case, "implicit"), "");
        assert_eq!(cell(&case, "pinned"), "10.50 ±0.500");
        assert_eq!(cell(&case, "none"), "");
    }

    #[test]
    fn lines_fit_their_head() {
        let report = report(vec![case(&[("odp", &[1.0]), ("emm", &[2.0])])]);
        let family = &report.families[0];
        assert_eq!(head(family).len(), line(family, &family.cases[0]).len());
        assert!(markdown(family).contains("in-tree ODP"));
    }
}
