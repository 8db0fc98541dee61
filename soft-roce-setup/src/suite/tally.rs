//! Results, a line each.

use std::time::{Duration, Instant};

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
    start: Instant,
}

impl Tally {
    /// Nothing run yet. Only tests whose name contains `filter` are wanted.
    pub fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            passed: 0,
            failed: Vec::new(),
            skipped: 0,
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
                || !["host::", "guest::", "tool::"]
                    .iter()
                    .any(|other| filter.starts_with(other))
        })
    }

    /// Prints and counts one result.
    pub fn add(&mut self, name: &str, took: Duration, outcome: Outcome) {
        let secs = took.as_secs_f64();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("test {name} ... ok ({secs:.1} s)");
            }
            Outcome::Failed(why) => {
                self.failed.push(name.to_owned());
                println!("test {name} ... FAILED ({secs:.1} s)");
                for line in why.lines() {
                    println!("    {line}");
                }
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("test {name} ... skipped: {why}");
            }
        }
    }

    /// Prints the sum. Returns whether all held, and at least one was run.
    pub fn close(self) -> bool {
        if self.passed + self.failed.len() == 0 {
            println!(
                "no test has a name with `{}`",
                self.filter.unwrap_or_default()
            );
            return false;
        }
        println!("tests took {:.0} s", self.start.elapsed().as_secs_f64());
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        );
        self.failed.is_empty()
    }
}
