//! Two runs beside each other.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::report::{Case, Outcome, Report, Target};
use crate::exit;
use crate::measure::{aligned, number};

/// What became of one kind's value in one case.
#[derive(Debug, PartialEq)]
struct Change<'a> {
    case: &'a Case,
    mr: &'a str,
    before: f64,
    after: f64,
    /// What both runs call noise, added, in the unit of the values.
    noise: f64,
}

/// How a value changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Equal,
    Better,
    Worse,
}

impl Change<'_> {
    fn moved(&self) -> Moved {
        if (self.after - self.before).abs() <= self.noise {
            return Moved::Equal;
        }
        if (self.after > self.before) == (self.case.better == "more") {
            Moved::Better
        } else {
            Moved::Worse
        }
    }

    fn line(&self) -> Vec<String> {
        let ratio = if self.before == 0.0 {
            String::new()
        } else {
            format!("{:.3}", self.after / self.before)
        };
        let verdict = match self.moved() {
            Moved::Equal => "equal",
            Moved::Better => "**better**",
            Moved::Worse => "**worse**",
        };
        [
            &self.case.row,
            &self.case.case,
            &self.case.unit,
            self.mr,
            &number(self.before),
            &number(self.after),
            &ratio,
            &format!("±{}", number(self.noise)),
            verdict,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// `bench compare`: prints all ratios. The status is 1 if something moved, if a value or a target is lost, or if they have
/// nothing in common.
pub fn run(before: &Path, after: &Path) -> Result<ExitCode> {
    let (one, other) = (Report::read(before)?, Report::read(after)?);
    let changes = changes(&one, &other);
    let head = [
        "row", "case", "unit", "mr", "before", "after", "ratio", "noise", "",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(changes.iter().map(Change::line));
    for (name, report) in [("before", &one), ("after", &other)] {
        println!(
            "{name}: {}, kernel {}, commit {}, {}",
            report.date, report.kernel, report.commit, report.command
        );
    }
    println!("\n{}", aligned(&lines));
    let count = |moved| changes.iter().filter(|c| c.moved() == moved).count();
    let (better, worse) = (count(Moved::Better), count(Moved::Worse));
    let (lost, new) = (missing(&one, &other), missing(&other, &one));
    for (cases, what) in [(&lost, "lost"), (&new, "new")] {
        for case in cases {
            println!("- {what}: {case}");
        }
    }
    let missed = missed(&one, &other);
    for case in &missed {
        println!("- target reached before, and not after: {case}");
    }
    println!(
        "{} compared: {better} better, {worse} worse, the others equal within their noise; {} lost, {} new; {} targets missed",
        changes.len(),
        lost.len(),
        new.len(),
        missed.len()
    );
    let same = better + worse + lost.len() + missed.len() == 0 && !changes.is_empty();
    Ok(if same {
        ExitCode::SUCCESS
    } else {
        exit::NOT_HELD.into()
    })
}

/// The case of another report that measures the same.
fn same<'a>(report: &'a Report, case: &Case) -> Option<&'a Case> {
    report.cases().find(|other| {
        (&other.row, &other.case, &other.unit) == (&case.row, &case.case, &case.unit)
            && (&other.clock, other.cpus) == (&case.clock, case.cpus)
    })
}

/// What both have measured.
fn changes<'a>(one: &'a Report, other: &'a Report) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for case in one.cases() {
        let Some(later) = same(other, case) else {
            continue;
        };
        let change = |outcome: &'a Outcome| {
            let later = later.kind(&outcome.mr)?;
            Some(Change {
                case,
                mr: &outcome.mr,
                before: outcome.median?,
                after: later.median?,
                noise: outcome.noise + later.noise,
            })
        };
        changes.extend(case.kinds.iter().filter_map(change));
    }
    changes
}

/// What `one` has measured and `other`, which measured the same row, has not; in words.
fn missing(one: &Report, other: &Report) -> Vec<String> {
    let asked = |row: &str| other.cases().any(|case| case.row == row);
    let here = |outcome: &&Outcome| outcome.median.is_some();
    one.cases()
        .filter(|case| asked(&case.row))
        .flat_map(|case| case.kinds.iter().filter(here).map(move |o| (case, o)))
        .filter(|(case, o)| same(other, case).is_none_or(|c| c.median(&o.mr).is_none()))
        .map(|(case, o)| format!("{}, {}, {}, {}", case.row, case.case, case.unit, o.mr))
        .collect()
}

/// Targets that `one` reached and `other` did not.
fn missed(one: &Report, other: &Report) -> Vec<String> {
    let reached = |case: &Case| {
        let target = case.target.as_ref();
        target.map(Target::holds)
    };
    one.cases()
        .filter(|case| reached(case) == Some(true))
        .filter(|case| same(other, case).is_some_and(|later| reached(later) == Some(false)))
        .map(|case| format!("{}, {}, {}", case.row, case.case, case.unit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn what_moves_beyond_the_noise_is_flagged() {
        let one = report(vec![case(&[
            ("odp", &[10.0, 10.2, 10.1, 10.0]),
            ("emm", &[5.0, 5.0, 5.0, 5.0]),
        ])]);
        let other = report(vec![case(&[
            ("odp", &[10.2, 10.2, 10.1, 10.0]),
            ("emm", &[6.0, 6.0, 6.0, 6.0]),
        ])]);
        let changes = changes(&one, &other);
        let moved: Vec<Moved> = changes.iter().map(Change::moved).collect();
        assert_eq!(moved, [Moved::Equal, Moved::Worse]);
        let back = super::changes(&other, &one);
        assert_eq!(back[1].moved(), Moved::Better);
        assert!(changes[1].line().contains(&"1.200".to_owned()));
    }

    #[test]
    fn more_can_be_better() {
        let mut rate = case(&[("emm", &[5.0, 5.0])]);
        rate.better = "more".to_owned();
        let mut faster = case(&[("emm", &[6.0, 6.0])]);
        faster.better = "more".to_owned();
        let (one, other) = (report(vec![rate]), report(vec![faster]));
        assert_eq!(changes(&one, &other)[0].moved(), Moved::Better);
    }

    #[test]
    fn what_is_missing_is_told() {
        let one = report(vec![case(&[("odp", &[1.0]), ("emm", &[1.0])])]);
        let other = report(vec![case(&[("emm", &[1.0])])]);
        assert_eq!(missing(&one, &other), ["cold, untouched, ms added, odp"]);
        assert!(missing(&one, &one).is_empty());
        assert!(missing(&other, &one).is_empty());
        assert!(
            missing(&one, &report(Vec::new())).is_empty(),
            "not asked for"
        );
    }

    #[test]
    fn a_target_that_is_lost_is_told() {
        let (good, bad) = (
            [("odp", &[10.0][..]), ("emm", &[6.0])],
            [("odp", &[10.0][..]), ("emm", &[9.0])],
        );
        let (one, other) = (report(vec![case(&good)]), report(vec![case(&bad)]));
        assert_eq!(missed(&one, &other), ["cold, untouched, ms added"]);
        assert!(missed(&one, &one).is_empty());
        assert!(missed(&other, &one).is_empty());
    }
}
