//! What was measured: one JSON object a line on standard output.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::who::Kind;

/// A thing that is measured for several kinds of region.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The row of the table.
    pub row: &'a str,
    /// Which of the row's cases.
    pub case: &'a str,
    /// What the number counts.
    pub unit: &'a str,
    /// Where the case lies on a curve: the curve's name, and the place in bytes or in pieces.
    pub at: Option<(&'a str, f64)>,
}

impl<'a> Subject<'a> {
    /// A case that is no point of a curve.
    pub const fn new(row: &'a str, case: &'a str, unit: &'a str) -> Self {
        let at = None;
        Self {
            row,
            case,
            unit,
            at,
        }
    }

    /// A point of the curve `series`, at `x`.
    pub fn on(self, series: &'a str, x: usize) -> Self {
        let at = Some((series, x as f64));
        Self { at, ..self }
    }

    /// The same case, counted in another unit.
    pub const fn in_unit(self, unit: &'a str) -> Self {
        Self { unit, ..self }
    }

    /// Says what came out in a round for regions of kind `mr`: a number, or why there is none.
    pub fn tell(&self, mr: &str, round: u32, outcome: Result<f64>) {
        self.tell_all(mr, round, outcome.map(|value| vec![value]));
    }

    /// The same for a round that gives several numbers of the same kind: the times of its operations.
    pub fn tell_all(&self, mr: &str, round: u32, outcome: Result<Vec<f64>>) {
        let mut fact = json!({"row": self.row, "case": self.case, "unit": self.unit, "mr": mr, "round": round});
        if let Some((series, x)) = self.at {
            fact["series"] = json!(series);
            fact["x"] = json!(x);
        }
        match outcome {
            Ok(values) => fact["values"] = values.into_iter().map(short).collect::<Vec<_>>().into(),
            Err(why) => fact["why"] = json!(format!("{why:#}")),
        }
        println!("{fact}");
    }
}

/// A number with six digits: more are not measured, and a line may hold hundreds.
fn short(value: f64) -> Value {
    let rounded = format!("{value:.5e}").parse::<f64>().unwrap_or(value);
    json!(rounded)
}

/// The same failure for another unit.
pub fn again<T>(outcome: &Result<T>) -> Result<&T> {
    outcome.as_ref().map_err(|why| anyhow::anyhow!("{why:#}"))
}

/// Says what came out in each round for each kind of region, and each one's ratio to the pinned one of the same round: on the wall
/// clock, what disturbs a round disturbs all in it.
pub fn tell_of_pinned(subject: &Subject<'_>, outcomes: &[(u32, Kind, Result<f64>)]) {
    for (round, kind, outcome) in outcomes {
        subject.tell(kind.label(), *round, again(outcome).copied());
        let pinned = outcomes
            .iter()
            .find(|o| (o.0, o.1) == (*round, Kind::Pinned));
        let ratio = again(outcome).and_then(|own| {
            let (.., pinned) = pinned.context("there is no pinned region in this round")?;
            Ok(own / again(pinned)?)
        });
        subject
            .in_unit("of pinned")
            .tell(kind.label(), *round, ratio);
    }
}

/// Whether a line is a fact about `subject` in `round`.
pub fn is_about(line: &str, subject: &Subject<'_>, round: u32) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|fact| {
        fact["row"] == subject.row
            && fact["case"] == subject.case
            && fact["unit"] == subject.unit
            && fact["round"] == round
    })
}

/// The median of measured values.
pub fn median_of(values: &[f64]) -> Result<f64> {
    median(values).context("nothing was measured")
}

/// The median; None of nothing.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_recognised() {
        let subject = Subject::new("cold", "untouched", "ms");
        let line = r#"{"row":"cold","case":"untouched","unit":"ms","round":1,"why":"x"}"#;
        assert!(is_about(line, &subject, 1));
        assert!(!is_about(line, &subject, 2));
        assert!(!is_about(
            r#"{"row":"cold","case":"hot","unit":"ms"}"#,
            &subject,
            1
        ));
        assert!(!is_about("cold", &subject, 1));
    }

    #[test]
    fn digits_that_are_not_measured_are_left_out() {
        assert_eq!(short(1.234_567_89).to_string(), "1.23457");
        assert_eq!(short(123_456_789.0).to_string(), "123457000.0");
        assert_eq!(short(0.0).to_string(), "0.0");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
