//! The targets, measured as `bench --quick` does: a row fails if one of its cases misses its target by more than its noise.

use std::time::Duration;

use anyhow::Result;

use super::tally::{Outcome, Tally};
use bench_report::bench::{self, Case, Report, Took};
use bench_report::measure::number;
use bench_report::targets::rows::{Known, ROWS, Row};
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::Clock;

/// The names of all of them.
pub fn names() -> impl Iterator<Item = String> {
    ROWS.iter().map(|row| format!("bench::{}", row.name))
}

/// Measures the rows that are wanted on the kernel `series`.
pub fn run(context: &Context, series: &str, tally: &Tally) -> Result<()> {
    let name = |row: &Row| format!("bench::{}", row.name);
    let wanted: Vec<&Row> = ROWS.iter().filter(|row| tally.wants(&name(row))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let rows: Vec<&str> = wanted.iter().map(|row| row.name).collect();
    let measured = bench::quick(context, series, &rows)?;
    for row in wanted {
        let (mut time, mut outcome) = of(row, &measured);
        let wall = row.machines.iter().any(|m| m.clock == Clock::Wall);
        if wall && matches!(outcome, Outcome::Failed(_)) {
            // What else the host did meanwhile is in no round's noise: such a row has to miss twice.
            let again = of(row, &bench::quick(context, series, &[row.name])?);
            time += again.0;
            outcome = again.1;
        }
        tally.add(&name(row), time, outcome);
    }
    Ok(())
}

/// What a row took, and how it came out.
fn of(row: &Row, (report, took): &(Report, Vec<Took>)) -> (Duration, Outcome) {
    let time = took.iter().filter(|t| t.0 == row.name).map(|t| t.1).sum();
    let trouble: Vec<&str> = report
        .families
        .iter()
        .flat_map(|family| &family.trouble)
        .filter(|why| why.starts_with(row.name))
        .map(String::as_str)
        .collect();
    let cases: Vec<&Case> = report.cases().filter(|c| c.row == row.name).collect();
    (time, outcome(row.known, &cases, &trouble))
}

/// How a row came out: passed only if something was held against its target, and all of that reached it.
fn outcome(known: &[Known], cases: &[&Case], trouble: &[&str]) -> Outcome {
    let mut failed: Vec<String> = trouble.iter().map(|why| (*why).to_owned()).collect();
    let mut expected = Vec::new();
    let mut reached = 0;
    for case in cases {
        let Some(target) = &case.target else { continue };
        if target.holds() {
            reached += 1;
            continue;
        }
        let known = known
            .iter()
            .find(|k| k.case == case.case && k.unit == case.unit && within(k, case));
        match known {
            Some(known) => expected.push(format!("{}: {}", line(case), known.why)),
            None => failed.push(line(case)),
        }
    }
    if !failed.is_empty() {
        Outcome::Failed(failed.join("\n"))
    } else if !expected.is_empty() {
        Outcome::Skipped(format!("known to be missed: {}", expected.join("; ")))
    } else if reached == 0 {
        Outcome::Failed("nothing was measured".to_owned())
    } else {
        Outcome::Passed
    }
}

/// Whether a case that is known to miss its target is no worse than that.
fn within(known: &Known, case: &Case) -> bool {
    let of = |mr| case.kind(mr).and_then(|k| Some((k.median?, k.noise)));
    let (Some((emm, noise)), Some((odp, peers))) = (of("emm"), of("odp")) else {
        return false;
    };
    emm - noise <= known.times * (odp + peers)
}

/// A case that missed: its value and its noise, its limit, and all others.
fn line(case: &Case) -> String {
    let mut kinds = Vec::new();
    for kind in &case.kinds {
        let Some(median) = kind.median else { continue };
        kinds.push(format!(
            "{} {} ± {}",
            kind.mr,
            number(median),
            number(kind.noise)
        ));
    }
    let target = case.target.as_ref();
    let (limits, verdict) = target.map_or(("", ""), |t| (t.limits.as_str(), t.verdict.as_str()));
    format!(
        "{}, {} [{}], {} CPUs: {} (limit {limits}: {verdict})",
        case.row,
        case.case,
        case.unit,
        case.cpus,
        kinds.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench_report::measure::{Facts, INSTRUCTIONS, Key};

    const KNOWN: Known = Known {
        case: "untouched",
        unit: "ms added",
        times: 1.1,
        why: "it is the VM's",
    };

    /// A case that has a target, of kinds with a value for each round.
    fn case(kinds: &[(&str, &[f64])]) -> Case {
        let key = Key {
            row: "cold",
            case: "untouched",
            unit: "ms added",
        };
        let mut facts = Facts::default();
        for (mr, values) in kinds {
            for (round, value) in values.iter().enumerate() {
                let line = format!(
                    r#"{{"row":"cold","case":"untouched","unit":"ms added","mr":"{mr}","round":{round},"values":[{value}]}}"#
                );
                assert!(facts.take(&line).is_some());
            }
        }
        Case::of(key, INSTRUCTIONS, &[facts])
    }

    #[test]
    fn what_is_missed_fails() {
        let good = case(&[("none", &[10.0, 10.0]), ("emm", &[9.9, 9.9])]);
        let bad = case(&[("none", &[10.0, 10.0]), ("emm", &[11.0, 11.0])]);
        assert_eq!(outcome(&[], &[&good], &[]), Outcome::Passed);
        let Outcome::Failed(why) = outcome(&[], &[&good, &bad], &[]) else {
            panic!("a missed case passed");
        };
        assert!(
            why.contains("emm 11.00") && why.contains("≤ 10.30"),
            "{why}"
        );
    }

    #[test]
    fn nothing_and_trouble_fail() {
        let good = case(&[("none", &[10.0, 10.0]), ("emm", &[9.9, 9.9])]);
        assert!(matches!(outcome(&[], &[], &[]), Outcome::Failed(_)));
        let trouble = outcome(&[], &[&good], &["cold: status 2"]);
        assert_eq!(trouble, Outcome::Failed("cold: status 2".to_owned()));
    }

    #[test]
    fn a_known_miss_is_said_and_bounded() {
        let miss = |emm: f64| {
            case(&[
                ("none", &[10.0, 10.0]),
                ("odp", &[10.0, 10.0]),
                ("emm", &[emm, emm]),
            ])
        };
        let Outcome::Skipped(why) = outcome(&[KNOWN], &[&miss(10.8)], &[]) else {
            panic!("not said");
        };
        assert!(why.contains("it is the VM's"));
        assert!(matches!(
            outcome(&[KNOWN], &[&miss(11.5)], &[]),
            Outcome::Failed(_)
        ));
    }
}
