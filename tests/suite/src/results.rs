//! Results of one or more runs, as a file: `test --json FILE`.
//!
//! A run takes the place of what the file has of the same tests and leaves the others, so that what takes hours can be run in
//! parts, or go on after an interruption.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::said::Said;
use super::tally::{Outcome, Tally};

/// One call of `test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its command line.
    pub command: String,
    /// The day, in UTC: `2026-11-25`.
    pub date: String,
    /// Releases of the kernels that it was to boot.
    pub kernels: Vec<String>,
}

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Its name, as the filter takes it.
    pub name: String,
    /// The time it took.
    pub seconds: f64,
    /// `{"result": "passed"}`, or `failed` or `skipped` with the reason in `why`.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Index of its run.
    pub run: usize,
}

/// All results.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Runs, the oldest first.
    pub runs: Vec<Run>,
    /// Tests, in the order they came.
    pub tests: Vec<Test>,
    /// What guests printed, by the names of their tests.
    pub outputs: BTreeMap<String, String>,
}

impl Results {
    /// Those of the file `path`; none if it is not there.
    ///
    /// # Errors
    ///
    /// It can't be read, or is no file of results.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} has no results of `test --json`; give another file or remove it",
                path.display()
            )
        })
    }

    /// Takes the results of `run` in.
    pub fn add(&mut self, run: Run, said: Said, tally: &Tally) {
        let index = self.runs.len();
        self.runs.push(run);
        for (name, took, outcome) in tally.results().iter() {
            let test = Test {
                name: name.clone(),
                seconds: took.as_secs_f64(),
                outcome: outcome.clone(),
                run: index,
            };
            match self.tests.iter_mut().find(|known| known.name == *name) {
                Some(known) => *known = test,
                None => self.tests.push(test),
            }
        }
        self.outputs.extend(said.into_outputs());
        self.drop_runs();
    }

    /// Forgets runs that have no result left.
    fn drop_runs(&mut self) {
        let kept: Vec<usize> = (0..self.runs.len())
            .filter(|i| self.tests.iter().any(|test| test.run == *i))
            .collect();
        for test in &mut self.tests {
            test.run = kept.partition_point(|i| *i < test.run);
        }
        self.runs = kept.iter().map(|i| self.runs[*i].clone()).collect();
    }

    /// The tests, without a skipped group of which there are results.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.tests.iter().filter(|test| {
            let group = format!("{}::", test.name);
            let inside = |other: &Test| other.name.starts_with(&group);
            !(matches!(test.outcome, Outcome::Skipped(_)) && self.tests.iter().any(inside))
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        let part = path.with_extension("part");
        std::fs::write(&part, text + "\n")
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_roce_setup::ui::Ui;
    use std::time::Duration;

    fn results(all: &mut Results, command: &str, tests: &[(&str, Outcome)]) {
        let tally = Tally::new(Vec::new(), Ui::quiet());
        for (name, outcome) in tests {
            tally.add(name, Duration::from_secs(2), outcome.clone());
        }
        let run = Run {
            command: command.into(),
            date: "2026-11-25".into(),
            kernels: Vec::new(),
        };
        all.add(run, Said::default(), &tally);
    }

    #[test]
    fn runs_add_up() {
        let skipped = |why: &str| Outcome::Skipped(why.into());
        let mut all = Results::default();
        results(
            &mut all,
            "first",
            &[
                ("a::x", Outcome::Failed("1".into())),
                ("b", skipped("no kernel")),
            ],
        );
        results(&mut all, "second", &[("a::y", Outcome::Passed)]);
        results(
            &mut all,
            "third",
            &[("a::x", Outcome::Passed), ("b::z", Outcome::Passed)],
        );
        let commands: Vec<_> = all.runs.iter().map(|run| run.command.as_str()).collect();
        assert_eq!(commands, ["first", "second", "third"]);
        let shown: Vec<_> = all.tests().map(|t| (t.name.as_str(), t.run)).collect();
        assert_eq!(shown, [("a::x", 2), ("a::y", 1), ("b::z", 2)]);
        results(&mut all, "fourth", &[("b", skipped("no kernel"))]);
        let commands: Vec<_> = all.runs.iter().map(|run| run.command.as_str()).collect();
        assert_eq!(commands, ["second", "third", "fourth"]);
        assert!(
            all.tests()
                .all(|test| all.runs[test.run].command != "first")
        );
    }

    #[test]
    fn files_hold_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let path = dir.join("results.json");
        let mut all = Results::read(&path).unwrap();
        results(&mut all, "x", &[("a", Outcome::Failed("w".into()))]);
        all.write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap().tests, all.tests);
        std::fs::write(&path, "{}").unwrap();
        let problem = format!("{:#}", Results::read(&path).unwrap_err());
        assert!(problem.contains("no results of `test --json`"), "{problem}");
    }
}
