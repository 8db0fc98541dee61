//! What `emm-bench` measured, line by line.

use serde::{Deserialize, Serialize};

/// One measurement, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The row it belongs to.
    pub row: String,
    /// The case in the row.
    pub case: String,
    /// What the value counts.
    pub unit: String,
    /// The kind of region: `none`, `pinned`, `odp` or `emm`.
    pub mr: String,
    /// The measured value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The measurements of one row.
#[derive(Debug, Clone, Default)]
pub struct Facts(Vec<Fact>);

impl Facts {
    /// Takes a line of output. Returns whether it was a fact.
    pub fn take(&mut self, line: &str) -> Option<&Fact> {
        self.0.push(serde_json::from_str(line).ok()?);
        self.0.last()
    }

    /// All, in the order in which they came.
    pub fn all(&self) -> &[Fact] {
        &self.0
    }

    /// Each case with its unit, once, in the order in which they came.
    pub fn cases(&self) -> Vec<(&str, &str)> {
        let mut cases = Vec::new();
        for fact in &self.0 {
            let case = (fact.case.as_str(), fact.unit.as_str());
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }

    /// What was said of one kind of region in one case.
    pub fn get(&self, case: &str, unit: &str, mr: &str) -> Option<&Fact> {
        self.0
            .iter()
            .rfind(|f| f.case == case && f.unit == unit && f.mr == mr)
    }

    /// The measured value, or why there is none.
    pub fn value(&self, case: &str, unit: &str, mr: &str) -> Result<f64, String> {
        match self.get(case, unit, mr) {
            None => Err(format!("{mr}: no measurement")),
            Some(Fact {
                value: Some(value), ..
            }) => Ok(*value),
            Some(fact) => Err(format!("{mr}: {}", fact.why.as_deref().unwrap_or("?"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_facts() {
        let mut facts = Facts::default();
        assert_eq!(facts.take("modprobe: not found"), None);
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"emm","value":2.5}"#);
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"odp","why":"EINVAL"}"#);
        assert_eq!(facts.cases(), [("x", "µs")]);
        assert_eq!(facts.value("x", "µs", "emm"), Ok(2.5));
        assert_eq!(facts.value("x", "µs", "odp"), Err("odp: EINVAL".into()));
        assert!(facts.value("x", "µs", "pinned").is_err());
    }
}
