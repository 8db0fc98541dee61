//! How a cost grows: curves of a report, and the power of `n` that they end with.

use super::report::{KINDS, Report};
use crate::measure::stats;

/// A curve of one kind of region, and its growth.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    pub row: String,
    pub series: String,
    pub unit: String,
    pub mr: String,
    /// Places and medians, in order.
    pub points: Vec<(f64, f64)>,
    /// The exponent `e` of the power law `n^e` through the two last points: at the first ones, what every call costs hides it.
    pub exponent: f64,
}

/// An exponent of less is flat: a factor of 1.4 over three decades.
const FLAT: f64 = 0.05;

impl Growth {
    /// In words: `flat`, `n^0.98`.
    pub fn words(&self) -> String {
        if self.exponent.abs() < FLAT {
            "flat".to_owned()
        } else {
            format!("n^{:.2}", self.exponent)
        }
    }

    /// What is to be expected at `x`: the last value if it is flat, else the straight line through the two last points.
    pub fn at(&self, x: f64) -> Option<f64> {
        let [.., before, last] = self.points[..] else {
            return None;
        };
        if self.exponent.abs() < FLAT {
            return Some(last.1);
        }
        let (at_zero, slope) = stats::line(&[before, last])?;
        Some(at_zero + slope * x)
    }
}

/// The curves of a row, each kind's by itself.
pub fn growths(report: &Report, row: &str) -> Vec<Growth> {
    let mut growths: Vec<Growth> = Vec::new();
    for case in report.cases().filter(|case| case.row == row) {
        let (Some(series), Some(x)) = (&case.series, case.x) else {
            continue;
        };
        for mr in KINDS {
            let Some(value) = case.median(mr).filter(|value| *value > 0.0) else {
                continue;
            };
            let known = growths
                .iter_mut()
                .find(|g| &g.series == series && g.unit == case.unit && g.mr == mr);
            match known {
                Some(growth) => growth.points.push((x, value)),
                None => growths.push(Growth {
                    row: row.to_owned(),
                    series: series.clone(),
                    unit: case.unit.clone(),
                    mr: mr.to_owned(),
                    points: vec![(x, value)],
                    exponent: 0.0,
                }),
            }
        }
    }
    growths.retain_mut(|growth| {
        growth.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let logs: Vec<(f64, f64)> = growth
            .points
            .iter()
            .map(|(x, y)| (x.ln(), y.ln()))
            .collect();
        let slope = stats::line(&logs[logs.len().saturating_sub(2)..]);
        growth.exponent = slope.map_or(0.0, |(_, slope)| slope);
        slope.is_some()
    });
    growths
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn powers_are_found() {
        let point = |n: f64| {
            let mut case = case(&[("pinned", &[100.0 + 3.0 * n]), ("emm", &[12.0])]);
            case.series = Some("resident".to_owned());
            case.x = Some(n);
            case
        };
        let report = report([1.0, 1e6, 1e7].map(point).to_vec());
        let found = growths(&report, "cold");
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].words(), found[1].words()),
            ("n^1.00".into(), "flat".into())
        );
        assert!((found[0].at(1e8).unwrap() / (100.0 + 3e8) - 1.0).abs() < 1e-9);
        assert_eq!(found[1].at(1e9), Some(12.0));
        assert!(growths(&report, "many").is_empty());
    }
}
