//! How a cost grows: curves of a report, and the power of `n` that they follow.

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
    /// The exponent `e` of the power law `n^e` that fits best (least squares of the logarithms).
    pub exponent: f64,
}

/// Points that a fit has at least.
const POINTS: usize = 3;
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

    /// What the power law says at `x`, starting from the last point.
    pub fn at(&self, x: f64) -> Option<f64> {
        let (last, value) = self.points.last()?;
        let exponent = if self.exponent.abs() < FLAT {
            0.0
        } else {
            self.exponent
        };
        Some(value * (x / last).powf(exponent))
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
        match stats::line(&logs) {
            Some((_, slope)) if logs.len() >= POINTS => {
                growth.exponent = slope;
                true
            }
            _ => false,
        }
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
            let mut case = case(&[("pinned", &[3.0 * n]), ("emm", &[12.0])]);
            case.series = Some("resident".to_owned());
            case.x = Some(n);
            case
        };
        let report = report([1.0, 8.0, 64.0].map(point).to_vec());
        let found = growths(&report, "cold");
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].words(), found[1].words()),
            ("n^1.00".into(), "flat".into())
        );
        assert!((found[0].at(640.0).unwrap() - 1920.0).abs() < 1e-6);
        assert_eq!(found[1].at(1e9), Some(12.0));
        assert!(growths(&report, "many").is_empty());
    }
}
