//! What a run has measured so far, in a file: who interrupts it, or whose machine goes down, loses one row. `--resume` goes on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Facts;

const NAME: &str = "measured.jsonl";

/// What must be the same for results to belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub schema: String,
    pub kernel: String,
    pub commit: String,
    pub quick: bool,
}

/// A row in one guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub row: String,
    pub machine: String,
    pub boot: u32,
    pub accel: Option<String>,
    pub seconds: f64,
    pub facts: Facts,
    /// Seconds since the run began, without what lay between an interruption and `--resume`.
    #[serde(default)]
    pub elapsed: f64,
}

/// The file, and what was in it.
pub struct Kept {
    path: PathBuf,
    file: Mutex<File>,
    before: Vec<Measured>,
    begun: Instant,
}

impl Kept {
    /// A new file in `dir`.
    pub fn begin(dir: &Path, run: &Run) -> Result<Self> {
        let path = dir.join(NAME);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let kept = Self {
            path,
            file: Mutex::new(file),
            before: Vec::new(),
            begun: Instant::now(),
        };
        kept.line(run)?;
        Ok(kept)
    }

    /// The one that an interrupted run left in `dir`; a new one if there is none.
    ///
    /// # Errors
    /// It is of another run: another kernel, commit, or length.
    pub fn resume(dir: &Path, run: &Run) -> Result<Self> {
        let path = dir.join(NAME);
        let shown = path.display();
        let Ok(text) = fs::read_to_string(&path) else {
            return Self::begin(dir, run);
        };
        // A line that was cut short is measured again.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = whole.lines();
        let head: Option<Run> = lines.next().and_then(|l| serde_json::from_str(l).ok());
        let Some(head) = head else {
            return Self::begin(dir, run);
        };
        anyhow::ensure!(
            head == *run,
            "{shown} is of a run on kernel {}, commit {} (quick: {}), which this one can't go on with: start without --resume",
            head.kernel,
            head.commit,
            head.quick
        );
        let before = lines
            .map(serde_json::from_str)
            .collect::<Result<Vec<Measured>, _>>()
            .with_context(|| format!("{shown} is damaged: start without --resume"))?;
        let file = File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| {
                file.set_len(whole.len() as u64)?;
                std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
                Ok(file)
            })
            .with_context(|| format!("cannot write {shown}"))?;
        Ok(Self {
            path,
            file: Mutex::new(file),
            before,
            begun: Instant::now(),
        })
    }

    /// A row that was measured before.
    pub fn find(&self, row: &str, machine: &str, boot: u32) -> Option<&Measured> {
        let mut before = self.before.iter();
        before.find(|m| (m.row.as_str(), m.machine.as_str(), m.boot) == (row, machine, boot))
    }

    /// What it took before it was interrupted.
    pub fn earlier(&self) -> Duration {
        let last = self.before.iter().map(|m| m.elapsed).fold(0.0, f64::max);
        Duration::try_from_secs_f64(last).unwrap_or_default()
    }

    /// Keeps a row, and when it was done.
    pub fn add(&self, mut measured: Measured) -> Result<()> {
        measured.elapsed = (self.earlier() + self.begun.elapsed()).as_secs_f64();
        self.line(&measured)
    }

    fn line(&self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Everything is in the report: the file goes.
    pub fn done(self) -> Result<()> {
        fs::remove_file(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            schema: "1".into(),
            kernel: "7.3".into(),
            commit: "abc".into(),
            quick: true,
        }
    }

    fn measured(row: &str) -> Measured {
        let mut facts = Facts::default();
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"emm","values":[2.5]}"#);
        Measured {
            row: row.into(),
            machine: "m".into(),
            boot: 1,
            accel: None,
            seconds: 1.5,
            facts,
            elapsed: 0.0,
        }
    }

    #[test]
    fn an_interrupted_run_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let kept = Kept::begin(dir, &run()).unwrap();
        kept.add(measured("cold")).unwrap();
        drop(kept);
        // Interrupted in the middle of a line.
        let path = dir.join(NAME);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"row\":\"half");
        fs::write(&path, text).unwrap();
        let kept = Kept::resume(dir, &run()).unwrap();
        assert_eq!(kept.find("cold", "m", 1).unwrap().facts.all().len(), 1);
        assert!(kept.find("cold", "m", 0).is_none());
        let earlier = kept.earlier();
        assert!(earlier > Duration::ZERO);
        kept.add(measured("hot")).unwrap();
        drop(kept);
        let again = Kept::resume(dir, &run()).unwrap();
        assert!(again.earlier() > earlier, "both parts count");
        assert!(again.find("cold", "m", 1).is_some() && again.find("hot", "m", 1).is_some());
        let other = Run {
            commit: "def".into(),
            ..run()
        };
        let Err(error) = Kept::resume(dir, &other) else {
            panic!("another commit's results were taken");
        };
        assert!(error.to_string().contains("without --resume"), "{error}");
        again.done().unwrap();
        assert!(!path.exists());
    }
}
