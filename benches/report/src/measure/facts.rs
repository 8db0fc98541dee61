//! What `emm-bench` measured, line by line.

use serde::{Deserialize, Serialize};

use super::stats;

/// The kinds of region, the one without first, as facts name them.
pub const KINDS: [&str; 5] = ["none", "pinned", "odp", "emm", "implicit"];
/// What the kinds' columns are called.
pub const TITLES: [&str; 5] = ["no MR", "pinned", "in-tree ODP", "EMM", "EMM implicit"];

/// One outcome of one round, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The row it belongs to.
    pub row: String,
    /// The case in the row.
    pub case: String,
    /// What the values count.
    pub unit: String,
    /// The kind of region: `none`, `pinned`, `odp`, `emm` or `implicit`.
    pub mr: String,
    /// The round's number.
    #[serde(default)]
    pub round: u32,
    /// The curve that the case is a point of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Its place on the curve: bytes, or how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// The measured values: one, or the round's single operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f64>,
    /// Why there are no values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a value is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// The row.
    pub row: &'a str,
    /// The case in the row.
    pub case: &'a str,
    /// What the values count.
    pub unit: &'a str,
}

impl Fact {
    /// What it is about.
    pub fn key(&self) -> Key<'_> {
        Key {
            row: &self.row,
            case: &self.case,
            unit: &self.unit,
        }
    }
}

/// The measurements of one row.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Facts(Vec<Fact>);

impl Facts {
    /// Takes a line of output. Returns the fact, if it was one.
    pub fn take(&mut self, line: &str) -> Option<&Fact> {
        self.0.push(serde_json::from_str(line).ok()?);
        self.0.last()
    }

    /// Takes over what another guest measured.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps those that `stays` says, and returns the others.
    #[must_use]
    pub fn split(&mut self, stays: impl Fn(&Fact) -> bool) -> Self {
        let (kept, others) = std::mem::take(&mut self.0).into_iter().partition(stays);
        self.0 = kept;
        Self(others)
    }

    /// All, in the order in which they came.
    pub fn all(&self) -> &[Fact] {
        &self.0
    }

    /// Each case with its unit, once, in the order in which they came.
    pub fn cases(&self) -> Vec<Key<'_>> {
        let mut cases = Vec::new();
        for fact in &self.0 {
            let case = fact.key();
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }

    /// What was said of one kind of region in one case.
    pub fn of<'a>(&'a self, key: Key<'a>, mr: &'a str) -> impl Iterator<Item = &'a Fact> {
        self.0.iter().filter(move |f| f.key() == key && f.mr == mr)
    }

    /// The median of each round.
    pub fn rounds(&self, key: Key<'_>, mr: &str) -> Vec<f64> {
        self.of(key, mr)
            .filter_map(|fact| stats::median(&fact.values))
            .collect()
    }

    /// The median of the rounds; None if nothing was measured, whether tried or not.
    pub fn median(&self, key: Key<'_>, mr: &str) -> Option<f64> {
        stats::median(&self.rounds(key, mr))
    }

    /// The median of the rounds, or why there is none.
    pub fn value(&self, key: Key<'_>, mr: &str) -> Result<f64, String> {
        if let Some(value) = self.median(key, mr) {
            return Ok(value);
        }
        let why = self.of(key, mr).find_map(|fact| fact.why.as_deref());
        Err(format!("{mr}: {}", why.unwrap_or("no measurement")))
    }

    /// Why some rounds of this kind have no value, and how many; None if all have.
    pub fn failure(&self, key: Key<'_>, mr: &str) -> Option<String> {
        let failed: Vec<&str> = self
            .of(key, mr)
            .filter_map(|fact| fact.why.as_deref())
            .collect();
        let (why, all) = (failed.first()?, self.of(key, mr).count());
        Some(format!("{mr}: {why} (in {} of {all} rounds)", failed.len()))
    }

    /// The worst of all values, as `pick` of two says; or why there is none.
    pub fn worst(&self, key: Key<'_>, mr: &str, pick: fn(f64, f64) -> f64) -> Result<f64, String> {
        let all = self
            .of(key, mr)
            .flat_map(|fact| fact.values.iter().copied());
        all.reduce(pick).map_or_else(|| self.value(key, mr), Ok)
    }

    /// How far the rounds lie apart: the distance between the least and the most.
    pub fn spread(&self, key: Key<'_>, mr: &str) -> Option<f64> {
        let rounds = self.rounds(key, mr);
        let least = rounds.iter().copied().reduce(f64::min)?;
        let most = rounds.iter().copied().reduce(f64::max)?;
        Some(most - least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_facts() {
        let mut facts = Facts::default();
        assert_eq!(facts.take("modprobe: not found"), None);
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"emm","values":[2.5]}"#);
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"emm","round":1,"values":[3,4,9]}"#);
        facts.take(r#"{"row":"a","case":"x","unit":"µs","mr":"odp","why":"EINVAL"}"#);
        let key = Key {
            row: "a",
            case: "x",
            unit: "µs",
        };
        assert_eq!(facts.cases(), [key]);
        assert_eq!(facts.value(key, "emm"), Ok(3.25));
        assert_eq!(facts.spread(key, "emm"), Some(1.5));
        assert_eq!(facts.value(key, "odp"), Err("odp: EINVAL".into()));
        assert!(facts.value(key, "pinned").is_err());
        let others = facts.split(|fact| fact.mr == "emm");
        assert_eq!((facts.all().len(), others.all().len()), (2, 1));
    }
}
