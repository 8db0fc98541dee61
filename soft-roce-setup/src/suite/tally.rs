//! Results, a line each.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "why", rename_all = "lowercase")]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not, for this reason, which may have several lines.
    Failed(String),
    /// It was not run, for this reason.
    Skipped(String),
}

/// Counts and prints results.
#[derive(Debug)]
pub struct Tally {
    filter: Option<String>,
    results: Vec<(String, Duration, Outcome)>,
    start: Instant,
}

impl Tally {
    /// Nothing run yet. Only tests whose name contains `filter` are wanted.
    pub fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            results: Vec::new(),
            start: Instant::now(),
        }
    }

    /// Whether the test of this name is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|filter| name.contains(filter))
    }

    /// Whether some test whose name starts with `group` may be wanted: not if the filter names another.
    pub fn wants_group(&self, group: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| {
            filter.starts_with(group)
                || ![
                    "host::",
                    "root::",
                    "guest::",
                    "planted::",
                    "bench::",
                    "tool::",
                ]
                .iter()
                .any(|other| filter.starts_with(other))
        })
    }

    /// Whether tests of the group `group`, whose names are not known beforehand, may be wanted, and
    /// the part of their names that the filter asks for: `a::b::c` asks `a::b` for `c`.
    pub fn inside(&self, group: &str) -> Option<String> {
        let Some(filter) = self.filter.as_deref() else {
            return Some(String::new());
        };
        if format!("{group}::").contains(filter) {
            return Some(String::new());
        }
        let (head, tail) = filter.rsplit_once("::")?;
        let fits = group == head || group.ends_with(&format!("::{head}"));
        fits.then(|| tail.to_owned())
    }

    /// Prints and counts one result.
    pub fn add(&mut self, name: &str, took: Duration, outcome: Outcome) {
        let secs = took.as_secs_f64();
        match &outcome {
            Outcome::Passed => println!("test {name} ... ok ({secs:.1} s)"),
            Outcome::Failed(why) => {
                println!("test {name} ... FAILED ({secs:.1} s)");
                for line in why.lines() {
                    println!("    {line}");
                }
            }
            Outcome::Skipped(why) => println!("test {name} ... skipped: {why}"),
        }
        self.results.push((name.to_owned(), took, outcome));
    }

    /// All results so far, in order.
    pub fn results(&self) -> impl Iterator<Item = (&str, Duration, &Outcome)> {
        self.results
            .iter()
            .map(|(name, took, outcome)| (name.as_str(), *took, outcome))
    }

    /// Prints the sum. Returns whether there was a test, and none failed.
    pub fn close(self) -> bool {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.results()
                .filter(|(.., outcome)| wanted(outcome))
                .count()
        };
        let passed = count(|o| *o == Outcome::Passed);
        let failed = count(|o| matches!(o, Outcome::Failed(_)));
        let skipped = count(|o| matches!(o, Outcome::Skipped(_)));
        if self.results.is_empty() {
            println!(
                "no test has a name with `{}`",
                self.filter.unwrap_or_default()
            );
            return false;
        }
        println!("tests took {:.0} s", self.start.elapsed().as_secs_f64());
        for (name, _, outcome) in self.results() {
            if matches!(outcome, Outcome::Failed(_)) {
                println!("failed: {name}");
            }
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_groups() {
        let inside = |filter: &str| Tally::new(Some(filter.into())).inside("guest::7.3::programs");
        assert_eq!(Tally::new(None).inside("a"), Some(String::new()));
        for whole in ["guest::", "guest::7.3", "programs", "7.3::programs::"] {
            assert_eq!(inside(whole), Some(String::new()), "{whole}");
        }
        assert_eq!(inside("guest::7.3::programs::qperf"), Some("qperf".into()));
        assert_eq!(inside("programs::ib_"), Some("ib_".into()));
        for other in [
            "guest::7.2",
            "grams::x",
            "qperf",
            "guest::7.3::verify",
            "host::",
        ] {
            assert_eq!(inside(other), None, "{other}");
        }
    }

    #[test]
    fn a_test_that_was_skipped_was_there() {
        assert!(!Tally::new(Some("nothing".into())).close());
        let mut tally = Tally::new(Some("bench::cold".into()));
        let why = Outcome::Skipped("known to be missed".into());
        tally.add("bench::cold", Duration::ZERO, why);
        assert!(tally.close());
    }
}
