//! Tables in Markdown, and what a cell says.

use super::report::{AGREEMENT, Case, FamilyReport, KINDS, Outcome, TITLES};
use crate::measure::{aligned, number};

/// How far our own numbers and perftest's may lie apart, as a share.
const AGREE: f64 = 0.05;
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
    cells.push(noise(case));
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
        ("latency", "µs") => "t_avg[usec]",
        ("latency", "µs, p99") => "99% percentile[usec]",
        (_, unit) => unit,
    }
}

/// The median, with its noise where that is more than the clock's; a cross where nothing could be measured, nothing where nobody
/// asked.
pub fn cell(case: &Case, mr: &str) -> String {
    let Some(outcome) = case.kind(mr) else {
        return String::new();
    };
    match (outcome.median, case.noisy(mr)) {
        (Some(median), Some(true)) => format!("{} ±{}", number(median), number(outcome.noise)),
        (Some(median), _) => number(median),
        _ => "✗".to_owned(),
    }
}

/// What EMM's value may be off by, as a share of it.
pub fn noise(case: &Case) -> String {
    let own = case.kind("emm").or_else(|| case.kind("implicit"));
    match own.and_then(|own| Some((own.median?, own.noise))) {
        Some((median, noise)) if median != 0.0 => {
            format!("±{:.1} %", noise / median.abs() * 100.0)
        }
        _ => String::new(),
    }
}

/// EMM's value by a peer's: `equal` within the noise of both.
pub fn ratio(case: &Case, peer: &str) -> String {
    let own = if case.median("emm").is_some() {
        "emm"
    } else {
        "implicit"
    };
    match (case.median(own), case.median(peer)) {
        _ if case.equal(own, peer) == Some(true) => "equal".to_owned(),
        // What can't be told from nothing has no ratio.
        (Some(own), Some(of)) if case.kind(peer).is_some_and(|p| of.abs() > p.noise) => {
            number(own / of)
        }
        _ => String::new(),
    }
}

/// The tails of a family's distributions, where there are some: median, 99th and 99.9th of 100, and the worst.
pub fn tails(family: &FamilyReport) -> Vec<Vec<String>> {
    let mut head: Vec<String> = LEFT.map(str::to_owned).to_vec();
    head.extend(kinds(family).into_iter().map(|(_, title)| title.to_owned()));
    let mut lines = vec![head];
    for case in &family.cases {
        if case.kinds.iter().all(|outcome| outcome.p99.is_none()) {
            continue;
        }
        let mut line = vec![case.row.clone(), case.case.clone(), unit(case).to_owned()];
        line.extend(kinds(family).into_iter().map(|(mr, _)| {
            let outcome = case.kind(mr);
            let tail = |pick: fn(&Outcome) -> Option<f64>| {
                outcome.and_then(pick).map_or("–".to_owned(), number)
            };
            match outcome.and_then(|o| o.p99) {
                Some(_) => [
                    tail(|o| o.median),
                    tail(|o| o.p99),
                    tail(|o| o.p999),
                    tail(|o| o.worst),
                ]
                .join(" / "),
                None => String::new(),
            }
        }));
        lines.push(line);
    }
    lines
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
    notes.extend(agreement(family));
    notes.extend(family.trouble.iter().cloned());
    notes
}

/// How far our own numbers and perftest's agree, and where they don't within [`AGREE`].
fn agreement(family: &FamilyReport) -> Option<String> {
    let ratios: Vec<(String, f64)> = family
        .cases
        .iter()
        .filter(|case| case.unit == AGREEMENT)
        .flat_map(|case| case.kinds.iter().map(move |kind| (case, kind)))
        .filter_map(|(case, kind)| Some((format!("{}, {}", case.case, kind.mr), kind.median?)))
        .collect();
    let beyond: Vec<String> = ratios
        .iter()
        .filter(|(_, ratio)| (ratio - 1.0).abs() > AGREE)
        .map(|(name, ratio)| format!("{name}: {}", number(*ratio)))
        .collect();
    let all = ratios.len();
    let words = match beyond.len() {
        _ if all == 0 => return None,
        0 => format!("our own numbers and perftest's agree within 5 % in all {all} cases"),
        some => format!(
            "our own numbers and perftest's agree within 5 % in {} of {all} cases, not in {}",
            all - some,
            beyond.join("; ")
        ),
    };
    Some(words)
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
        assert_eq!(noise(&case), "±1.0 %");
        assert_eq!(ratio(&case, "pinned"), "equal");
        assert_eq!(ratio(&case, "odp"), "0.520");
        assert_eq!(ratio(&case, "implicit"), "");
        assert_eq!(cell(&case, "pinned"), "10.50 ±1.000");
        assert_eq!(cell(&case, "odp"), "20.00");
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
