//! Plots: one for each row and unit of a family, in SVG. Curves where the cases are points of one, bars elsewhere.

pub mod axis;
mod bars;
mod canvas;
mod curves;

use anyhow::Result;

use self::axis::Scale;
use super::report::{Case, FamilyReport, OF_PINNED};

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// The name for its file, without the ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The picture.
    pub svg: String,
}

/// Points that a curve has at least.
const POINTS: usize = 3;

/// What makes cases belong into one plot.
#[derive(PartialEq)]
struct Group<'a> {
    row: &'a str,
    unit: &'a str,
    clock: &'a str,
    series: Option<&'a str>,
}

impl<'a> Group<'a> {
    fn of(case: &'a Case, series: Option<&'a str>) -> Self {
        Self {
            row: &case.row,
            unit: &case.unit,
            clock: &case.clock,
            series,
        }
    }
}

/// All plots of a family.
///
/// # Errors
/// A picture can't be drawn, which is an error of this program.
pub fn plots(family: &FamilyReport) -> Result<Vec<Plot>> {
    let mut groups: Vec<(Group<'_>, Vec<&Case>)> = Vec::new();
    for case in &family.cases {
        let curve = case.series.as_deref().filter(|series| {
            let points = family.cases.iter().filter(|other| {
                other.row == case.row
                    && other.unit == case.unit
                    && other.series.as_deref() == Some(*series)
            });
            points.count() >= POINTS
        });
        let group = Group::of(case, curve);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, cases)) => cases.push(case),
            None => groups.push((group, vec![case])),
        }
    }
    let mut plots = Vec::new();
    for (group, cases) in groups {
        plots.extend(plot(&group, &cases)?);
        // What lies far off (a copy by the CPU, the longest messages) must not hide how the kinds differ.
        if matches!(
            (group.row, group.unit),
            ("throughput", _) | ("latency", "µs")
        ) {
            let ratios: Vec<Case> = cases.iter().filter_map(|case| of_pinned(case)).collect();
            if let Some(first) = ratios.first() {
                let group = Group::of(first, group.series);
                plots.extend(plot(&group, &ratios.iter().collect::<Vec<_>>())?);
            }
        }
    }
    Ok(plots)
}

/// One plot; None if there is nothing to draw: no value, or nothing but zeros.
fn plot(group: &Group<'_>, cases: &[&Case]) -> Result<Option<Plot>> {
    let mut medians = cases.iter().flat_map(|c| &c.kinds).map(|o| o.median);
    if medians.all(|median| median.is_none_or(|median| median == 0.0)) {
        return Ok(None);
    }
    let series = group.series.map_or(String::new(), |s| format!(": {s}"));
    let name = format!("{}{series}", group.row);
    let unit = super::table::unit(cases[0]);
    let title = format!("{name}, {unit}");
    let svg = match group.series {
        Some(_) => curves::draw(&title, unit, x_axis(group.row), cases)?,
        None => bars::draw(&title, unit, cases)?,
    };
    Ok(svg.map(|svg| Plot {
        name: file_name(&format!("{name} {}", group.unit)),
        title,
        svg,
    }))
}

/// The same case with all values divided by the pinned median; None without one.
fn of_pinned(case: &Case) -> Option<Case> {
    let pinned = case.median("pinned").filter(|pinned| *pinned > 0.0)?;
    let mut ratio = case.clone();
    ratio.unit = OF_PINNED.to_owned();
    ratio.kinds.retain(|outcome| outcome.mr != "none");
    for outcome in &mut ratio.kinds {
        for value in [&mut outcome.median, &mut outcome.q1, &mut outcome.q3] {
            *value = value.map(|value| value / pinned);
        }
        outcome.noise /= pinned;
    }
    Some(ratio)
}

/// What a row's curves run along.
fn x_axis(row: &str) -> (&'static str, Scale) {
    match row {
        "many" | "munmap" | "regions" => ("regions", Scale::Decades),
        "overcommit" => (
            "bytes of the region, times its owner's limit",
            Scale::Doublings,
        ),
        "qps" => ("queue pairs", Scale::Doublings),
        "storm" => ("invalidations a second that were asked for", Scale::Decades),
        "registration" | "deregistration" => ("length of the region", Scale::Bytes),
        _ => ("message size", Scale::Bytes),
    }
}

/// A name that is good for a file.
fn file_name(title: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = title.replace('µ', "u").chars().map(plain).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::super::report::tests::{case, report};
    use super::*;

    fn points(count: u32) -> Vec<Case> {
        let point = |n: u32| {
            let mut point = case(&[("pinned", &[9.0, 10.0]), ("emm", &[f64::from(n); 2])]);
            point.series = Some("WRITE".to_owned());
            point.x = Some(f64::from(64 << n));
            point
        };
        (1..=count).map(point).collect()
    }

    #[test]
    fn many_points_are_a_curve_and_few_are_bars() {
        let curve = plots(&report(points(3)).families[0]).unwrap();
        assert_eq!(curve.len(), 1);
        assert_eq!(curve[0].name, "cold-write-ms-added");
        assert!(curve[0].svg.contains("128 B"), "a tick at each point");
        assert!(curve[0].svg.starts_with("<svg"));
        let bars = plots(&report(points(2)).families[0]).unwrap();
        assert_eq!(bars.len(), 1);
        assert_eq!(bars[0].name, "cold-ms-added");
    }

    #[test]
    fn ratios_are_those_to_pinned() {
        let both = case(&[("none", &[99.0]), ("pinned", &[10.0]), ("emm", &[8.0])]);
        let ratio = of_pinned(&both).unwrap();
        assert_eq!(
            (ratio.median("emm"), ratio.median("none")),
            (Some(0.8), None)
        );
        assert!(of_pinned(&case(&[("emm", &[1.0])])).is_none());
    }

    #[test]
    fn nothing_measured_is_not_drawn() {
        let mut lost = case(&[("emm", &[1.0])]);
        lost.kinds[0] = Outcome {
            mr: "emm".to_owned(),
            why: Some("EINVAL".to_owned()),
            ..Outcome::default()
        };
        assert!(plots(&report(vec![lost]).families[0]).unwrap().is_empty());
        let zeros = case(&[("odp", &[0.0, 0.0]), ("emm", &[0.0, 0.0])]);
        assert!(plots(&report(vec![zeros]).families[0]).unwrap().is_empty());
    }
}
