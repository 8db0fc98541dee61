//! The files of a run: JSON, CSV, plots and the page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::page;
use super::plot::{self, Plot};
use super::report::Report;

/// Makes sure that a directory can be written to, before anything is measured.
pub fn writable(dir: &Path) -> Result<()> {
    let plots = dir.join("plots");
    fs::create_dir_all(&plots).with_context(|| {
        format!(
            "cannot make {}: choose another directory with --out",
            plots.display()
        )
    })
}

/// Writes everything to `dir`. Returns the page's place.
pub fn write(dir: &Path, report: &Report) -> Result<PathBuf> {
    writable(dir)?;
    put(&dir.join("bench.json"), report.json()?)?;
    put(&dir.join("bench.csv"), csv(report)?)?;
    let mut drawn: Vec<Vec<Plot>> = Vec::new();
    for family in &report.families {
        let plots = plot::plots(family)?;
        for plot in &plots {
            let name = format!("{}-{}.svg", family.name, plot.name);
            put(&dir.join("plots").join(name), &plot.svg)?;
        }
        drawn.push(plots);
    }
    let page = dir.join("index.html");
    put(&page, page::html(report, &drawn))?;
    Ok(page)
}

fn put(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// One line for each case and kind of region.
fn csv(report: &Report) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "family", "row", "case", "unit", "better", "clock", "cpus", "series", "x", "mr", "rounds",
        "median", "q1", "q3", "p99", "p999", "worst", "aa", "noise", "why",
    ])?;
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for family in &report.families {
        for case in &family.cases {
            for outcome in &case.kinds {
                writer.write_record([
                    &family.name,
                    &case.row,
                    &case.case,
                    &case.unit,
                    &case.better,
                    &case.clock,
                    &case.cpus.to_string(),
                    case.series.as_deref().unwrap_or(""),
                    &number(case.x),
                    &outcome.mr,
                    &outcome.rounds.len().to_string(),
                    &number(outcome.median),
                    &number(outcome.q1),
                    &number(outcome.q3),
                    &number(outcome.p99),
                    &number(outcome.p999),
                    &number(outcome.worst),
                    &number(outcome.aa),
                    &number(Some(outcome.noise)),
                    outcome.why.as_deref().unwrap_or(""),
                ])?;
            }
        }
    }
    writer.into_inner().context("cannot finish the CSV")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn everything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let report = report(vec![case(&[("pinned", &[1.0, 2.0]), ("emm", &[3.0, 3.0])])]);
        let page = write(dir, &report).unwrap();
        let html = fs::read_to_string(page).unwrap();
        assert!(html.contains("<svg"));
        assert_eq!(Report::read(&dir.join("bench.json")).unwrap(), report);
        let csv = fs::read_to_string(dir.join("bench.csv")).unwrap();
        assert_eq!(csv.lines().count(), 3);
        assert!(dir.join("plots/registration-cold-ms-added.svg").is_file());
    }
}
