//! rdma-core's own tests: what `runner.py` says of a run, and what has to hold between two of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It was not run, for this reason.
    Skipped(String),
    /// It failed, or ended its process.
    Failed(String),
}

/// A line of the runner.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum Line {
    Start {
        id: String,
    },
    Test {
        id: String,
        result: String,
        why: String,
    },
    End {
        module: String,
        status: i32,
    },
}

/// A run of some modules.
#[derive(Debug, Default)]
pub struct Run {
    /// Tests by name.
    pub tests: BTreeMap<String, Verdict>,
    /// Regions that the shim made on-demand ones.
    pub on_demand: u64,
}

impl Run {
    /// Reads what the runner and the shim printed.
    pub fn parse(text: &str) -> Self {
        let mut run = Self::default();
        let mut running: Option<String> = None;
        for line in text.lines() {
            if let Some(count) = line
                .strip_prefix("verbs-shim: ")
                .and_then(|rest| rest.split_once(" MRs on demand"))
                .and_then(|(count, _)| count.parse::<u64>().ok())
            {
                run.on_demand += count;
            }
            match serde_json::from_str(line) {
                Ok(Line::Start { id }) => running = Some(id),
                Ok(Line::Test { id, result, why }) => {
                    running = None;
                    run.end(id, &result, why);
                }
                Ok(Line::End { module, status }) => {
                    // A process that ends in a test takes the rest of its module along.
                    if let Some(id) = running.take() {
                        let why = format!("the process of {module} ended: {}", ending(status));
                        run.tests.insert(id, Verdict::Failed(why));
                    }
                }
                Err(_) => {}
            }
        }
        run
    }

    fn end(&mut self, id: String, result: &str, why: String) {
        let verdict = match result {
            "passed" => Verdict::Passed,
            "skipped" => Verdict::Skipped(why),
            _ => Verdict::Failed(why),
        };
        // A subtest that failed counts, whatever is said of the whole test afterwards.
        match self.tests.get(&id) {
            Some(Verdict::Failed(_)) => {}
            _ => {
                self.tests.insert(id, verdict);
            }
        }
    }

    /// The tests that passed.
    pub fn passed(&self) -> BTreeSet<&str> {
        let passed = self.tests.iter().filter(|t| *t.1 == Verdict::Passed);
        passed.map(|(id, _)| id.as_str()).collect()
    }

    /// Those that did not, with the reason.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests.iter().filter_map(|(id, verdict)| match verdict {
            Verdict::Passed => None,
            Verdict::Skipped(why) | Verdict::Failed(why) => Some((id.as_str(), why.as_str())),
        })
    }

    /// `23 tests, 22 passed, 1 skipped, 0 failed`
    pub fn counts(&self) -> String {
        let skipped = self
            .tests
            .values()
            .filter(|v| matches!(v, Verdict::Skipped(_)));
        let failed = self
            .tests
            .values()
            .filter(|v| matches!(v, Verdict::Failed(_)));
        format!(
            "{} tests, {} passed, {} skipped, {} failed",
            self.tests.len(),
            self.passed().len(),
            skipped.count(),
            failed.count()
        )
    }

    /// Tests that passed in `other` and did not here, each with what became of it.
    pub fn lost<'a>(&self, other: &'a Self) -> Vec<(&'a str, String)> {
        let lost = other.passed().into_iter().filter_map(|id| {
            let why = match self.tests.get(id) {
                Some(Verdict::Passed) => return None,
                Some(Verdict::Skipped(why)) => format!("skipped: {why}"),
                Some(Verdict::Failed(why)) => why.clone(),
                None => "was not run".to_owned(),
            };
            Some((id, why))
        });
        lost.collect()
    }
}

/// A process's status, as Python gives it: signals are negative.
fn ending(status: i32) -> String {
    match status {
        -14 => "it took too long".to_owned(),
        ..0 => format!("signal {}", -status),
        _ => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"t\": \"start\", \"id\": \"a\"}\nnoise\n\
        {\"t\": \"test\", \"id\": \"a\", \"result\": \"passed\", \"why\": \"\"}\n\
        {\"t\": \"start\", \"id\": \"b\"}\n\
        {\"t\": \"test\", \"id\": \"b\", \"result\": \"skipped\", \"why\": \"no XRC\"}\n\
        verbs-shim: 3 MRs on demand (12 bytes), 0 on demand by themselves\n\
        {\"t\": \"start\", \"id\": \"c\"}\nverbs-shim: 4 MRs on demand (12 bytes)\n\
        {\"t\": \"end\", \"module\": \"m\", \"status\": -11}\n";

    #[test]
    fn lines_of_the_runner() {
        let run = Run::parse(TEXT);
        assert_eq!(run.counts(), "3 tests, 1 passed, 1 skipped, 1 failed");
        assert_eq!(run.on_demand, 7);
        assert_eq!(
            run.tests["c"],
            Verdict::Failed("the process of m ended: signal 11".into())
        );
        assert_eq!(ending(-14), "it took too long");
    }

    #[test]
    fn what_passed_there_and_not_here() {
        let all = TEXT.replace("skipped", "passed");
        let (fewer, more) = (Run::parse(TEXT), Run::parse(&all));
        assert_eq!(fewer.lost(&more), [("b", "skipped: no XRC".to_owned())]);
        assert!(more.lost(&fewer).is_empty());
        let none = Run::parse("");
        assert_eq!(none.lost(&fewer), [("a", "was not run".to_owned())]);
    }

    #[test]
    fn a_failed_subtest_fails_the_test() {
        let line = |result: &str| {
            format!("{{\"t\":\"test\",\"id\":\"a\",\"result\":\"{result}\",\"why\":\"w\"}}\n")
        };
        let run = Run::parse(&(line("failed") + &line("passed")));
        assert_eq!(run.tests["a"], Verdict::Failed("w".into()));
    }
}
