//! Results, a line each, from tests that run side by side.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use soft_roce_setup::ui::Ui;

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

/// A test, the time it took, and what became of it.
pub type Tested = (String, Duration, Outcome);

/// Counts and prints results.
#[derive(Debug)]
pub struct Tally {
    filters: Vec<String>,
    ui: Ui,
    results: Mutex<Vec<Tested>>,
    start: Instant,
}

impl Tally {
    /// Nothing run yet. Only tests whose name contains one of `filters` are wanted; all, if there is none.
    pub fn new(filters: Vec<String>, ui: Ui) -> Self {
        Self {
            filters,
            ui,
            results: Mutex::default(),
            start: Instant::now(),
        }
    }

    /// Whether the test of this name is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.wants_all() || self.filters.iter().any(|filter| name.contains(filter))
    }

    /// Whether there is no filter.
    pub fn wants_all(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether tests of the group `group`, whose names are not known beforehand, may be wanted, and
    /// the parts of their names that the filters ask for: `a::b::c` asks `a::b` for `c`.
    pub fn inside(&self, group: &str) -> Option<Vec<String>> {
        if self.wants_all() {
            return Some(vec![String::new()]);
        }
        let mut parts = Vec::new();
        for filter in &self.filters {
            if format!("{group}::").contains(filter) {
                return Some(vec![String::new()]);
            }
            let Some((head, tail)) = filter.rsplit_once("::") else {
                continue;
            };
            if group == head || group.ends_with(&format!("::{head}")) {
                parts.push(tail.to_owned());
            }
        }
        (!parts.is_empty()).then_some(parts)
    }

    /// Prints and counts one result.
    pub fn add(&self, name: &str, took: Duration, outcome: Outcome) {
        let secs = took.as_secs_f64();
        let line = match &outcome {
            Outcome::Passed => format!("test {name} ... ok ({secs:.1} s)"),
            Outcome::Failed(why) => {
                let why: String = why.lines().map(|line| format!("\n    {line}")).collect();
                format!("test {name} ... FAILED ({secs:.1} s){why}")
            }
            Outcome::Skipped(why) => format!("test {name} ... skipped: {why}"),
        };
        self.ui.print(line);
        self.results().push((name.to_owned(), took, outcome));
    }

    /// All results so far, in the order they came.
    pub fn results(&self) -> MutexGuard<'_, Vec<Tested>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints the sum. Returns whether there was a test, and none failed.
    pub fn close(self) -> bool {
        let results = self.results();
        let count = |wanted: fn(&Outcome) -> bool| {
            results
                .iter()
                .filter(|(.., outcome)| wanted(outcome))
                .count()
        };
        let passed = count(|o| *o == Outcome::Passed);
        let failed = count(|o| matches!(o, Outcome::Failed(_)));
        let skipped = count(|o| matches!(o, Outcome::Skipped(_)));
        if results.is_empty() {
            self.ui.print(format!(
                "no test has a name with `{}`",
                self.filters.join("` or `")
            ));
            return false;
        }
        self.ui.print(format!(
            "tests took {:.0} s",
            self.start.elapsed().as_secs_f64()
        ));
        for (name, _, outcome) in results.iter() {
            if matches!(outcome, Outcome::Failed(_)) {
                self.ui.print(format!("failed: {name}"));
            }
        }
        self.ui.print(format!(
            "{passed} passed, {failed} failed, {skipped} skipped"
        ));
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(filters: &[&str]) -> Tally {
        let filters = filters.iter().map(|filter| (*filter).to_owned());
        Tally::new(filters.collect(), Ui::quiet())
    }

    #[test]
    fn filters_of_groups() {
        let inside = |filter: &str| tally(&[filter]).inside("guest::7.3::programs");
        assert_eq!(tally(&[]).inside("a"), Some(vec![String::new()]));
        for whole in ["guest::", "guest::7.3", "programs", "7.3::programs::"] {
            assert_eq!(inside(whole), Some(vec![String::new()]), "{whole}");
        }
        assert_eq!(
            inside("guest::7.3::programs::qperf"),
            Some(vec!["qperf".into()])
        );
        assert_eq!(inside("programs::ib_"), Some(vec!["ib_".into()]));
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
    fn several_filters() {
        let tally = tally(&["host::rustfmt", "programs::qperf", "programs::rping"]);
        assert!(tally.wants("host::rustfmt") && !tally.wants("host::clippy"));
        let parts = Some(vec!["qperf".into(), "rping".into()]);
        assert_eq!(tally.inside("guest::7.3::programs"), parts);
    }

    #[test]
    fn a_test_that_was_skipped_was_there() {
        assert!(!tally(&["nothing"]).close());
        let tally = tally(&["bench::cold"]);
        let why = Outcome::Skipped("known to be missed".into());
        tally.add("bench::cold", Duration::ZERO, why);
        assert!(tally.close());
    }
}
