//! Plots: one for each row and unit of a family, in SVG. Curves where the cases are points of one, bars elsewhere.

pub mod axis;
mod bars;
mod canvas;
mod curves;

use anyhow::Result;

use self::axis::Scale;
use super::report::{Case, FamilyReport};

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
        let mut title = group.row.to_owned();
        if let Some(series) = group.series {
            title += &format!(": {series}");
        }
        let unit = super::table::unit(cases[0]);
        let svg = match group.series {
            Some(_) => curves::draw(&title, unit, x_axis(group.row), &cases)?,
            None => bars::draw(&title, unit, &cases)?,
        };
        let Some(svg) = svg else { continue };
        plots.push(Plot {
            name: file_name(&format!("{title} {}", group.unit)),
            title,
            svg,
        });
    }
    Ok(plots)
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
        "storm" => ("invalidations a second", Scale::Decades),
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
    fn nothing_measured_is_not_drawn() {
        let mut lost = case(&[("emm", &[1.0])]);
        lost.kinds[0] = Outcome {
            mr: "emm".to_owned(),
            why: Some("EINVAL".to_owned()),
            ..Outcome::default()
        };
        assert!(plots(&report(vec![lost]).families[0]).unwrap().is_empty());
    }
}
