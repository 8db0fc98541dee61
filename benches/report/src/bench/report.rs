//! A run's report: what `bench.json` holds. `docs/benchmarks-schema.md` documents the fields.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::family::{Family, clock_name};
use crate::measure::{Facts, Key, Machine, stats};
pub use crate::measure::{KINDS, TITLES};
use crate::targets::judge::{Verdict, judge};
use crate::targets::rows::ROWS;
use soft_roce_setup::guest::Clock;

/// The version of the schema: raised when a field changes its meaning or goes.
pub const SCHEMA: &str = "ib-emm-bench/1";

/// What repeated runs differ by on either clock, as a share.
const INSTRUCTIONS_DIFFER: f64 = 0.01;
const WALL_DIFFERS: f64 = 0.03;

/// The unit of our own rate by perftest's.
pub const AGREEMENT: &str = "ours / perftest";

/// The unit of ratios to what pinned regions reach in the same turn.
pub const OF_PINNED: &str = "of pinned";

/// Values that a round has at most if they are turns; more are single operations.
const TURNS: usize = 4;

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this form: `SCHEMA` of the program that wrote it.
    pub schema: String,
    /// When it began, in UTC.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Whether it was `--quick`: fewer rounds and smaller cases.
    pub quick: bool,
    /// Seconds that it took.
    pub seconds: f64,
    /// The commit of the working tree, with `+` if it was changed; empty outside of one.
    pub commit: String,
    /// Where it ran.
    pub host: Host,
    /// The guest kernel's release.
    pub kernel: String,
    /// Packages that matter, with their versions.
    pub versions: Vec<(String, String)>,
    /// The rows that were asked for.
    #[serde(default)]
    pub rows: Vec<String>,
    /// What was measured, family by family.
    pub families: Vec<FamilyReport>,
}

/// The machine that everything ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// How the guests ran, in words.
    pub accel: Vec<String>,
}

/// A family's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyReport {
    pub name: String,
    pub title: String,
    pub about: String,
    /// What the kind `none` means here.
    pub none: String,
    pub cases: Vec<Case>,
    /// What went wrong on the way.
    pub trouble: Vec<String>,
}

/// One case of one row, with all kinds of region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The row.
    pub row: String,
    /// Its name in the row.
    pub case: String,
    /// What its values count.
    pub unit: String,
    /// Whether `more` or `less` is better, or what is nearer to `one`.
    pub better: String,
    /// The curve that the case is a point of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Its place on the curve: bytes, or how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// `icount` or `wall`.
    pub clock: String,
    /// CPUs of the guest.
    pub cpus: u32,
    /// What came out, for each kind of region.
    pub kinds: Vec<Outcome>,
    /// How it stands against its target, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// What came out for one kind of region.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `none`, `pinned`, `odp`, `emm` or `implicit`.
    pub mr: String,
    /// Each round's values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Vec<f64>>,
    /// The median of the rounds' medians, and the quartiles of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q3: Option<f64>,
    /// Of all values, where rounds hold single operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<f64>,
    /// How far the medians of two halves of its own rounds lie apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aa: Option<f64>,
    /// What the median may be off by: the greatest of that, of its uncertainty, of the clock's, and of what the row's values are
    /// off by (see [`noise`](super::noise)).
    #[serde(default)]
    pub noise: f64,
    /// Why there is nothing, or nothing of some rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A case's target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The limits in numbers: `≤ 17.1`.
    pub limits: String,
    /// `reached`, `within its noise`, `missed`, or why it can't be said.
    pub verdict: String,
}

impl Report {
    /// Reads `bench.json`.
    ///
    /// # Errors
    /// The file can't be read, or is none of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let report: Self = serde_json::from_str(&text).with_context(|| {
            format!("{shown} is no report of `soft-roce-setup bench` ({SCHEMA}): measure again")
        })?;
        anyhow::ensure!(
            report.schema == SCHEMA,
            "{shown} has schema {}, not {SCHEMA}: measure again with this version",
            report.schema
        );
        Ok(report)
    }

    /// All cases.
    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.families.iter().flat_map(|family| &family.cases)
    }

    /// As it is written: a line for each family.
    ///
    /// # Errors
    /// It can't be JSON.
    pub fn json(&self) -> Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(text.replace(r#"{"name":"#, "\n{\"name\":") + "\n")
    }

    /// The same without the rounds' values, which everything else was computed from: small enough to be kept.
    pub fn without_rounds(&self) -> Self {
        let mut report = self.clone();
        let cases = report.families.iter_mut().flat_map(|f| &mut f.cases);
        for outcome in cases.flat_map(|case| &mut case.kinds) {
            outcome.rounds.clear();
        }
        report
    }

    /// Whether no target is missed, and nothing went wrong.
    pub fn reached(&self) -> bool {
        self.failures() == (0, 0)
    }

    /// Cases that miss their target, and what went wrong.
    pub fn failures(&self) -> (usize, usize) {
        let missed = |case: &&Case| case.target.as_ref().is_some_and(|t| !t.holds());
        let wrong = self.families.iter().map(|f| f.trouble.len()).sum();
        (self.cases().filter(missed).count(), wrong)
    }
}

impl Target {
    /// Whether it is reached, or missed by no more than the noise.
    pub fn holds(&self) -> bool {
        [Verdict::Reached, Verdict::Close]
            .iter()
            .any(|verdict| verdict.words() == self.verdict)
    }
}

impl FamilyReport {
    /// An empty report of a family.
    pub fn of(family: &Family) -> Self {
        Self {
            name: family.name.to_owned(),
            title: family.title.to_owned(),
            about: family.about.to_owned(),
            none: family.none.to_owned(),
            cases: Vec::new(),
            trouble: Vec::new(),
        }
    }
}

impl Case {
    /// Computes everything about a case from the facts of the guests `boots`, all of the same machine.
    pub fn of(key: Key<'_>, machine: Machine, boots: &[Facts]) -> Self {
        let outcomes: Vec<Outcome> = KINDS
            .iter()
            .filter_map(|mr| Outcome::of(key, mr, machine.clock, boots))
            .collect();
        let mut all = Facts::default();
        boots.iter().for_each(|facts| all.extend(facts.clone()));
        let at = all.all().iter().find(|fact| fact.key() == key);
        let checks = ROWS.iter().find(|r| r.name == key.row).map(|r| r.checks);
        let noise = |mr: &str| {
            outcomes
                .iter()
                .find(|o| o.mr == mr)
                .map_or(0.0, |o| o.noise)
        };
        let judged = judge(checks.unwrap_or(&[]), &all, key, &noise);
        Self {
            row: key.row.to_owned(),
            case: key.case.to_owned(),
            unit: key.unit.to_owned(),
            better: better(key.unit).to_owned(),
            series: at.and_then(|fact| fact.series.clone()),
            x: at.and_then(|fact| fact.x),
            clock: clock_name(machine.clock).to_owned(),
            cpus: machine.smp,
            kinds: outcomes,
            target: judged.map(|judged| Target {
                limits: judged.limits,
                verdict: judged.verdict.words().to_owned(),
            }),
        }
    }

    /// What came out for a kind.
    pub fn kind(&self, mr: &str) -> Option<&Outcome> {
        self.kinds.iter().find(|outcome| outcome.mr == mr)
    }

    /// Whether a rate or a time on the wall clock is meant, which whatever the host does meanwhile moves; a ratio to another one of
    /// the same turn is not.
    pub fn is_the_hosts(&self) -> bool {
        self.clock == clock_name(Clock::Wall) && self.unit != OF_PINNED
    }

    /// A kind's median with more noise than the clock has; None if it has no value.
    pub fn noisy(&self, mr: &str) -> Option<bool> {
        let outcome = self.kind(mr)?;
        let clocks = if self.clock == clock_name(Clock::Wall) {
            WALL_DIFFERS
        } else {
            INSTRUCTIONS_DIFFER
        };
        Some(outcome.noise > 1.05 * clocks * outcome.median?.abs())
    }

    /// The median of a kind.
    pub fn median(&self, mr: &str) -> Option<f64> {
        self.kind(mr)?.median
    }

    /// Whether two kinds differ by no more than the noise of both; None if either has no value.
    pub fn equal(&self, one: &str, other: &str) -> Option<bool> {
        let (one, other) = (self.kind(one)?, self.kind(other)?);
        Some((one.median? - other.median?).abs() <= one.noise + other.noise)
    }
}

impl Outcome {
    /// What the median lies between, by its noise.
    pub fn between(&self) -> Option<(f64, f64)> {
        let median = self.median?;
        Some((median - self.noise, median + self.noise))
    }

    /// Computes everything from the facts of each guest; None if this kind was not asked for.
    fn of(key: Key<'_>, mr: &str, clock: Clock, boots: &[Facts]) -> Option<Self> {
        let (mut rounds, mut first, mut why) = (Vec::new(), Vec::new(), None);
        let mut asked = false;
        for (boot, facts) in boots.iter().enumerate() {
            for fact in facts.of(key, mr) {
                asked = true;
                if fact.values.is_empty() {
                    why = fact.why.clone().or(why);
                } else {
                    rounds.push(fact.values.clone());
                    first.push(boot == 0);
                }
            }
        }
        if !asked {
            return None;
        }
        let pooled: Vec<f64> = rounds.concat();
        let single = pooled.len() > TURNS * rounds.len();
        let (medians, first): (Vec<f64>, Vec<bool>) = rounds
            .iter()
            .zip(first)
            .flat_map(|(round, first)| {
                // A few turns in a round are rounds of their own.
                let values = if single {
                    stats::median(round).into_iter().collect()
                } else {
                    round.clone()
                };
                values.into_iter().map(move |value| (value, first))
            })
            .unzip();
        let median = stats::median(&medians);
        let aa = stats::aa(&medians, &first);
        let noise = [
            aa,
            stats::notch(&medians),
            median.map(|m| m.abs() * resolution(clock, medians.len())),
        ];
        let tail = |at: f64| stats::quantile(&pooled, at).filter(|_| single);
        Some(Self {
            mr: mr.to_owned(),
            median,
            q1: stats::quantile(&medians, 0.25),
            q3: stats::quantile(&medians, 0.75),
            p99: tail(0.99),
            p999: tail(0.999).filter(|_| pooled.len() >= 1000),
            worst: tail(1.0),
            aa,
            noise: noise.into_iter().flatten().fold(0.0, f64::max),
            why,
            rounds,
        })
    }
}

/// What repeated runs differ by even where one run's `rounds` agree, as a share. A single round says nothing of its noise.
fn resolution(clock: Clock, rounds: usize) -> f64 {
    let known = match clock {
        Clock::Icount => INSTRUCTIONS_DIFFER,
        Clock::Wall => WALL_DIFFERS,
    };
    if rounds < 2 { 5.0 * known } else { known }
}

/// Whether more or less of a unit is better.
fn better(unit: &str) -> &'static str {
    const MORE: [&str; 6] = [
        "MiB/s",
        "MB/s",
        OF_PINNED,
        "% resident",
        "fetches/s",
        "invalidations/s",
    ];
    match unit {
        AGREEMENT => "one",
        more if MORE.contains(&more) => "more",
        _ => "less",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::measure::INSTRUCTIONS;

    /// Facts of one case: kinds with a value for each round.
    pub fn facts(kinds: &[(&str, &[f64])]) -> Facts {
        let mut facts = Facts::default();
        for (mr, values) in kinds {
            for (round, value) in values.iter().enumerate() {
                let line = format!(
                    r#"{{"row":"cold","case":"untouched","unit":"ms added","mr":"{mr}","round":{round},"values":[{value}]}}"#
                );
                assert!(facts.take(&line).is_some());
            }
        }
        facts
    }

    /// The case of such facts.
    pub fn case(kinds: &[(&str, &[f64])]) -> Case {
        let key = Key {
            row: "cold",
            case: "untouched",
            unit: "ms added",
        };
        Case::of(key, INSTRUCTIONS, &[facts(kinds)])
    }

    /// A report with these cases.
    pub fn report(cases: Vec<Case>) -> Report {
        let mut family = FamilyReport::of(&crate::bench::family::FAMILIES[0]);
        family.cases = cases;
        Report {
            schema: SCHEMA.to_owned(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            command: "cargo run -r -- bench".to_owned(),
            quick: true,
            seconds: 1.5,
            commit: "abc".to_owned(),
            host: Host {
                cpu: "a CPU".to_owned(),
                cpus: 2,
                memory_bytes: 1 << 30,
                kernel: "6.1".to_owned(),
                accel: Vec::new(),
            },
            kernel: "7.3.4".to_owned(),
            versions: vec![("perftest".to_owned(), "24.10".to_owned())],
            rows: vec!["cold".to_owned()],
            families: vec![family],
        }
    }

    #[test]
    fn each_kind_has_its_own_noise() {
        let case = case(&[
            ("pinned", &[0.0, 4.0, 0.0, 4.0]),
            ("none", &[7.0, 7.0, 7.0, 7.0]),
            ("odp", &[11.0, 11.0, 11.0, 11.0]),
            ("emm", &[7.0, 7.0, 7.0, 7.0]),
        ]);
        let noise = |mr| case.kind(mr).unwrap().noise;
        assert_eq!(noise("pinned"), 4.0);
        assert!((noise("odp") - 0.11).abs() < 1e-9, "the clock's");
        assert_eq!(case.equal("emm", "odp"), Some(false));
        assert_eq!(case.equal("emm", "implicit"), None);
        assert_eq!(case.target.as_ref().unwrap().verdict, "reached");
    }

    #[test]
    fn json_is_read_back_as_it_was_written() {
        let report = report(vec![case(&[("none", &[1.0, 2.0]), ("emm", &[0.5, 0.25])])]);
        let text = report.json().unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(text.lines().count(), 1 + report.families.len());
        assert!(report.reached());
    }

    #[test]
    fn another_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench.json");
        let mut report = report(Vec::new());
        report.schema = "ib-emm-bench/0".to_owned();
        std::fs::write(&path, serde_json::to_string(&report).unwrap()).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("measure again"), "{error}");
    }
}
