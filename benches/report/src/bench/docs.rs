//! docs/benchmarks.md, docs/scaling.md, docs/benchmarks.json and the README's plots, written from a run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::fit::{Growth, growths};
use super::plot::{axis, plots};
use super::report::{KINDS, Report, TITLES};
use super::table;
use crate::measure::{aligned, number};

/// The plots that the README shows: their files in docs/plots, and what they are called among all plots of their family.
const SHOWN: [(&str, &str, &str); 2] = [
    ("registration", "registration", "registration-untouched-us"),
    ("pressure", "pressure", "pressure-resident"),
];

/// Writes all of them to `dir`; a plot of a family that was not measured stays as it is.
///
/// # Errors
/// A file can't be written.
pub fn write(dir: &Path, report: &Report) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in [
        ("benchmarks.md", benchmarks(report)),
        ("scaling.md", scaling(report)),
        ("benchmarks.json", report.without_rounds().json()?),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = dir.join("plots");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (file, family, name) in SHOWN {
        let Some(family) = report.families.iter().find(|f| f.name == family) else {
            continue;
        };
        if let Some(plot) = plots(family)?.into_iter().find(|plot| plot.name == name) {
            let path = folder.join(format!("{file}.svg"));
            fs::write(&path, plot.svg)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn origin(report: &Report) -> String {
    format!(
        "Written by `{} --docs docs` on {}, in {:.0} s, on {} ({} CPUs, kernel {}); guest kernel {}.\n{}.\n",
        report.command,
        report.date,
        report.seconds,
        report.host.cpu,
        report.host.cpus,
        report.host.kernel,
        report.kernel,
        report.host.accel.join("; ")
    )
}

fn benchmarks(report: &Report) -> String {
    let mut out = format!("# Benchmarks\n\n{}\n", origin(report));
    out.push_str(
        "Each value is the median of rounds in which the kinds of region take turns; ± is its noise, the column *noise* EMM's: the\n\
         greatest of what two halves of its rounds lie apart (A/A; the halves are two boots in a full run), of what four of five of the\n\
         row's values lie apart so, of the median's uncertainty (1.57 IQR/√n), and of the clock: instructions 1 %, wall 3 %, which is\n\
         meant where no ± stands, and five times that for a single round. Kinds that differ by no more than the noise of both are\n\
         *equal*; a target is *within its noise* if it is missed by no more than that of its own rounds. Where no CPUs are named, the clock counts one\n\
         nanosecond an instruction: such times compare costs, and are no hardware's times. ✗: it can't be done, for the reason below.\n\
         The fields of bench.json are in [benchmarks-schema.md](benchmarks-schema.md), growth in [scaling.md](scaling.md).\n\
         A run of your own beside this one: `cargo run -r -- bench compare docs/benchmarks.json bench-out/bench.json`.\n\n",
    );
    out.push_str(&missed(report));
    for family in &report.families {
        let _ = writeln!(out, "## {}\n\n{}", family.title, family.about);
        if !family.none.is_empty() {
            let _ = writeln!(out, "\n*No MR*: {}.", family.none);
        }
        let _ = writeln!(out, "\n{}", table::markdown(family));
        let tails = table::tails(family);
        if tails.len() > 1 {
            let _ = writeln!(
                out,
                "Tails of single operations (median / 99 % / 99.9 % / worst):\n\n{}",
                aligned(&tails)
            );
        }
        let notes = table::notes(family);
        for note in &notes {
            let _ = writeln!(out, "- {note}");
        }
        if !notes.is_empty() {
            out.push('\n');
        }
    }
    out
}

/// The targets that are not reached, first of all.
fn missed(report: &Report) -> String {
    let all = report.cases().filter(|case| case.target.is_some()).count();
    let missed: Vec<String> = report
        .cases()
        .filter_map(|case| {
            let target = case.target.as_ref().filter(|t| !t.holds())?;
            let value = table::cell(case, "emm");
            Some(format!(
                "- {}, {}: {value} {}, limit {}\n",
                case.row, case.case, case.unit, target.limits
            ))
        })
        .collect();
    if missed.is_empty() {
        return format!(
            "All {all} cases with a target reach it, or miss it by less than their noise.\n\n"
        );
    }
    format!(
        "Of {all} cases with a target, {} miss it by more than their noise:\n\n{}\n",
        missed.len(),
        missed.concat()
    )
}

/// What is extrapolated to, in bytes.
const TERABYTE: f64 = (1u64 << 40) as f64;
/// And in regions.
const MILLION: f64 = 1e6;

fn scaling(report: &Report) -> String {
    let mut out = format!("# Scaling\n\n{}\n", origin(report));
    out.push_str(
        "How costs grow with the number of regions and with their length. The exponent is that of the power law through\n\
         the two last points, since what every call costs hides it in the first; below 0.05 it is called flat. Beyond the last point\n\
         a straight line through these two is assumed, and called the fit.\n\n## Number of regions\n\n",
    );
    let regions: Vec<Growth> = ["many", "munmap"]
        .into_iter()
        .flat_map(|row| growths(report, row))
        .collect();
    out.push_str(&curves(&regions, label));
    let _ = writeln!(out, "\n{}", most(&regions));
    for growth in &regions {
        if let Some(cost) = growth.at(MILLION) {
            let (what, who) = (&growth.series, title(&growth.mr));
            let _ = writeln!(
                out,
                "- {what}, with 10^6 regions, {who}: {} (by the fit)",
                seconds(cost)
            );
        }
    }
    out.push_str("\n## Length\n\n");
    let lengths: Vec<Growth> = ["registration", "deregistration"]
        .into_iter()
        .flat_map(|row| growths(report, row))
        .collect();
    out.push_str(&curves(&lengths, axis::bytes));
    out.push_str("\n## What that says for hosts with terabytes\n\n");
    for growth in lengths.iter().filter(|g| g.row == "registration") {
        if let Some(cost) = growth.at(TERABYTE) {
            let measured = growth.points.last().is_some_and(|(x, _)| *x >= TERABYTE);
            let how = if measured { "measured" } else { "by the fit" };
            let _ = writeln!(
                out,
                "- registering 1 TiB, {}, {}: {} ({how})",
                growth.series,
                title(&growth.mr),
                seconds(cost)
            );
        }
    }
    for case in report
        .cases()
        .filter(|c| c.row == "table" && c.unit == "KiB a GiB")
    {
        for outcome in &case.kinds {
            if let Some(kib) = outcome.median {
                let _ = writeln!(
                    out,
                    "- what the kernel keeps to translate 1 TiB, at the rate of {}, {}: {}",
                    case.case,
                    title(&outcome.mr),
                    axis::bytes(kib * 1024.0 * 1024.0)
                );
            }
        }
    }
    out
}

/// The curves in a table: a column for each place.
fn curves(growths: &[Growth], place: fn(f64) -> String) -> String {
    let mut places: Vec<f64> = growths
        .iter()
        .flat_map(|g| g.points.iter().map(|p| p.0))
        .collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut head: Vec<String> = ["row", "case", "unit", "kind"].map(str::to_owned).to_vec();
    head.extend(places.iter().map(|x| place(*x)));
    head.push("growth".to_owned());
    let mut lines = vec![head];
    for growth in growths {
        let mut line = vec![
            growth.row.clone(),
            growth.series.clone(),
            growth.unit.clone(),
            title(&growth.mr).to_owned(),
        ];
        line.extend(places.iter().map(|x| {
            let point = growth.points.iter().find(|point| point.0 == *x);
            point.map_or(String::new(), |point| number(point.1))
        }));
        line.push(growth.words());
        lines.push(line);
    }
    aligned(&lines)
}

/// How far the number of regions went, and why no farther.
fn most(growths: &[Growth]) -> String {
    let most = growths
        .iter()
        .flat_map(|g| g.points.iter().map(|p| p.0))
        .fold(0.0, f64::max);
    let out = format!(
        "Measured up to {} regions in one process. Soft-RoCE has 2^19 numbers for regions (`RXE_MAX_MR`), so a million can't be\n\
         registered on one device.\n",
        label(most)
    );
    out
}

fn label(count: f64) -> String {
    format!("{count:.0}")
}

fn title(mr: &str) -> &str {
    let at = KINDS.iter().position(|kind| *kind == mr);
    at.map_or(mr, |at| TITLES[at])
}

/// Microseconds in a unit that suits them.
fn seconds(micros: f64) -> String {
    match micros {
        m if m >= 1e6 => format!("{} s", number(m / 1e6)),
        m if m >= 1e3 => format!("{} ms", number(m / 1e3)),
        m => format!("{} µs", number(m)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn the_summary_can_be_compared() {
        let report = report(vec![case(&[("odp", &[10.0, 10.0]), ("emm", &[9.0, 9.0])])]);
        let text = report.without_rounds().json().unwrap();
        assert_eq!(text.lines().count(), 1 + report.families.len());
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read, report.without_rounds());
        let kinds = &read.families[0].cases[0].kinds;
        assert!(
            kinds
                .iter()
                .all(|o| o.rounds.is_empty() && o.median.is_some())
        );
    }

    #[test]
    fn both_documents_name_their_command() {
        let report = report(vec![case(&[("odp", &[10.0, 10.0]), ("emm", &[9.0, 9.0])])]);
        for text in [benchmarks(&report), scaling(&report)] {
            assert!(
                text.contains("`cargo run -r -- bench --docs docs`"),
                "{text}"
            );
        }
        assert!(benchmarks(&report).contains("1 miss it"));
        assert_eq!(seconds(1500.0), "1.500 ms");
    }
}
