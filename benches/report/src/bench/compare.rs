//! Two runs beside each other.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::report::{Case, OF_PINNED, Outcome, Report, Target};
use crate::measure::{aligned, number};
use soft_roce_setup::exit;
use soft_roce_setup::ui;

/// What became of one kind's value in one case.
#[derive(Debug, PartialEq)]
struct Change<'a> {
    case: &'a Case,
    mr: &'a str,
    before: f64,
    after: f64,
    /// What both runs call noise, added, in the unit of the values.
    noise: f64,
    /// The host moves it, and there is a ratio that it does not.
    hosts: bool,
}

/// How a value changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Equal,
    Better,
    Worse,
    /// By what else the host did.
    ByHost,
}

impl Change<'_> {
    fn moved(&self) -> Moved {
        if (self.after - self.before).abs() <= self.noise {
            return Moved::Equal;
        }
        if self.hosts {
            return Moved::ByHost;
        }
        let better = match self.case.better.as_str() {
            "more" => self.after > self.before,
            "one" => (self.after - 1.0).abs() < (self.before - 1.0).abs(),
            _ => self.after < self.before,
        };
        if better { Moved::Better } else { Moved::Worse }
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
            Moved::ByHost => "the host's",
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

/// `bench compare`: prints all ratios. The status is 1 if something moved, if a value or a target is lost, if something went wrong
/// that did not before, or if they have nothing in common.
pub fn run(before: &Path, after: &Path) -> Result<ExitCode> {
    let (one, other) = (Report::read(before)?, Report::read(after)?);
    let changes = changes(&one, &other);
    let head = [
        "row", "case", "unit", "mr", "before", "after", "ratio", "noise", "",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(changes.iter().map(Change::line));
    for (name, report) in [("before", &one), ("after", &other)] {
        ui::say(format_args!(
            "{name}: {}, kernel {}, commit {}, {}",
            report.date, report.kernel, report.commit, report.command
        ));
    }
    for difference in differences(&one, &other) {
        ui::say(format_args!("- not the same: {difference}"));
    }
    ui::say(format_args!("\n{}", aligned(&lines)));
    let count = |moved| changes.iter().filter(|c| c.moved() == moved).count();
    let (better, worse) = (count(Moved::Better), count(Moved::Worse));
    let (lost, new) = (missing(&one, &other), missing(&other, &one));
    for (cases, what) in [(&lost, "lost"), (&new, "new")] {
        for case in cases {
            ui::say(format_args!("- {what}: {case}"));
        }
    }
    let missed = missed(&one, &other);
    for case in &missed {
        ui::say(format_args!(
            "- target reached before, and not after: {case}"
        ));
    }
    let trouble = trouble(&one, &other);
    for what in &trouble {
        ui::say(format_args!("- went wrong after: {what}"));
    }
    ui::say(format_args!(
        "{} compared: {better} better, {worse} worse, {} moved by the host (rates on the wall clock, whose ratios are judged), the others \
         equal within their noise; {} lost, {} new; {} targets missed; {} went wrong",
        changes.len(),
        count(Moved::ByHost),
        lost.len(),
        new.len(),
        missed.len(),
        trouble.len()
    ));
    let bad = better + worse + lost.len() + missed.len() + trouble.len();
    let same = bad == 0 && !changes.is_empty();
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

/// What two runs must have in common to be compared, and have not.
fn differences(one: &Report, other: &Report) -> Vec<String> {
    let length = |quick| if quick { "quick" } else { "full" };
    let facts = |r: &Report| {
        [
            ("length", length(r.quick).to_owned()),
            ("guest kernel", r.kernel.clone()),
            ("CPU", format!("{}, {} of them", r.host.cpu, r.host.cpus)),
            ("guests", r.host.accel.join("; ")),
        ]
    };
    let pairs = facts(one).into_iter().zip(facts(other));
    pairs
        .filter(|(one, other)| one.1 != other.1)
        .map(|((what, one), (_, other))| format!("{what}: {one}, then {other}"))
        .collect()
}

/// What went wrong in `other` and not in `one`: rows, and rounds of values that others have.
fn trouble(one: &Report, other: &Report) -> Vec<String> {
    let known: Vec<&String> = one.families.iter().flat_map(|f| &f.trouble).collect();
    let rows = other.families.iter().flat_map(|f| &f.trouble);
    let mut trouble: Vec<String> = rows.filter(|t| !known.contains(t)).cloned().collect();
    for case in other.cases() {
        for outcome in case.kinds.iter().filter(|o| o.median.is_some()) {
            let before = same(one, case).and_then(|c| c.kind(&outcome.mr));
            if let (Some(why), Some(None)) = (&outcome.why, before.map(|o| &o.why)) {
                let name = format!("{}, {}, {}", case.row, case.case, outcome.mr);
                trouble.push(format!("{name}: {why}"));
            }
        }
    }
    trouble
}

/// Whether a run was to measure a row.
fn asked(report: &Report, row: &str) -> bool {
    report.rows.iter().any(|r| r == row) || report.cases().any(|case| case.row == row)
}

/// Whether a ratio stands beside this value, of the same turns.
fn has_ratio(report: &Report, case: &Case) -> bool {
    report
        .cases()
        .any(|c| c.unit == OF_PINNED && (&c.row, &c.case) == (&case.row, &case.case))
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
                hosts: case.is_the_hosts() && has_ratio(one, case),
            })
        };
        changes.extend(case.kinds.iter().filter_map(change));
    }
    changes
}

/// What `one` has measured and `other`, which measured the same row, has not; in words.
fn missing(one: &Report, other: &Report) -> Vec<String> {
    let here = |outcome: &&Outcome| outcome.median.is_some();
    one.cases()
        .filter(|case| asked(other, &case.row))
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
    fn on_the_wall_clock_ratios_count() {
        let at = |rate: f64, ratio: f64| {
            let mut cases = [case(&[("emm", &[rate; 2])]), case(&[("emm", &[ratio; 2])])];
            for (case, unit) in cases.iter_mut().zip(["MiB/s", OF_PINNED]) {
                (case.unit, case.better) = (unit.to_owned(), "more".to_owned());
                case.clock = "wall".to_owned();
            }
            report(cases.to_vec())
        };
        let (one, other, slower) = (at(50.0, 1.0), at(12.0, 1.0), at(12.0, 0.5));
        let moved = |other: &Report| -> Vec<Moved> {
            changes(&one, other).iter().map(Change::moved).collect()
        };
        assert_eq!(moved(&other), [Moved::ByHost, Moved::Equal]);
        assert_eq!(moved(&slower), [Moved::ByHost, Moved::Worse]);
    }

    #[test]
    fn agreement_is_nearness_to_one() {
        let at = |ratio: f64| {
            let mut case = case(&[("emm", &[ratio; 2])]);
            case.better = "one".to_owned();
            report(vec![case])
        };
        let (one, worse) = (at(1.0), at(0.8));
        assert_eq!(changes(&one, &worse)[0].moved(), Moved::Worse);
        assert_eq!(changes(&worse, &one)[0].moved(), Moved::Better);
    }

    #[test]
    fn what_went_wrong_is_told() {
        let one = report(vec![case(&[("emm", &[1.0, 1.0])])]);
        let mut other = one.clone();
        other.families[0].trouble = vec!["cold: status 2".to_owned()];
        other.families[0].cases[0].kinds[0].why = Some("EINVAL".to_owned());
        assert_eq!(trouble(&one, &other).len(), 2);
        assert!(trouble(&other, &one).is_empty());
        other.quick = false;
        assert_eq!(differences(&one, &other), ["length: quick, then full"]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let one = report(vec![case(&[("odp", &[1.0]), ("emm", &[1.0])])]);
        let other = report(vec![case(&[("emm", &[1.0])])]);
        assert_eq!(missing(&one, &other), ["cold, untouched, ms added, odp"]);
        assert!(missing(&one, &one).is_empty());
        assert!(missing(&other, &one).is_empty());
        let mut none = report(Vec::new());
        assert_eq!(missing(&one, &none).len(), 2, "asked for, and not there");
        none.rows.clear();
        assert!(missing(&one, &none).is_empty(), "not asked for");
    }

    #[test]
    fn a_target_that_is_lost_is_told() {
        let (good, bad) = (
            [("none", &[10.0][..]), ("emm", &[10.0])],
            [("none", &[10.0][..]), ("emm", &[14.0])],
        );
        let (one, other) = (report(vec![case(&good)]), report(vec![case(&bad)]));
        assert_eq!(missed(&one, &other), ["cold, untouched, ms added"]);
        assert!(missed(&one, &one).is_empty());
        assert!(missed(&other, &one).is_empty());
    }
}
