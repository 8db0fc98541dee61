//! What was measured: one JSON object a line on standard output.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A thing that is measured for several kinds of region.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The row of the table.
    pub row: &'a str,
    /// Which of the row's cases.
    pub case: &'a str,
    /// What the number counts.
    pub unit: &'a str,
}

impl Subject<'_> {
    /// Says what came out for regions of kind `mr`: a number, or why there is none.
    pub fn tell(&self, mr: &str, outcome: Result<f64>) {
        let mut fact = json!({"row": self.row, "case": self.case, "unit": self.unit, "mr": mr});
        match outcome {
            Ok(value) => fact["value"] = json!(value),
            Err(why) => fact["why"] = json!(format!("{why:#}")),
        }
        println!("{fact}");
    }
}

/// Whether a line is a fact about `subject`.
pub fn is_about(line: &str, subject: &Subject<'_>) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|fact| {
        fact["row"] == subject.row && fact["case"] == subject.case && fact["unit"] == subject.unit
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
        let subject = Subject {
            row: "cold",
            case: "untouched",
            unit: "ms",
        };
        assert!(is_about(
            r#"{"row":"cold","case":"untouched","unit":"ms","why":"x"}"#,
            &subject
        ));
        assert!(!is_about(
            r#"{"row":"cold","case":"hot","unit":"ms"}"#,
            &subject
        ));
        assert!(!is_about("cold", &subject));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
