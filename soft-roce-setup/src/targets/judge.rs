//! Whether what was measured reaches a target.

use super::facts::Facts;
use super::rows::Check;

/// What a measured value is held against.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// At most so many times what a peer needs in the same case.
    AtMostTimes(f64, &'static str),
    /// At most what a peer needs in the same case, and what its rounds lie apart (`UNIT, spread`).
    WithinSpread(&'static str),
    /// At most so many times what a peer needs in another case.
    AtMostTimesCase(f64, &'static str, &'static str),
    /// At least so many times what a peer reaches in the same case.
    AtLeastTimes(f64, &'static str),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Bound {
    /// The limit in numbers, and whether it is an upper one.
    fn limit(self, facts: &Facts, case: &str, unit: &str) -> Result<(f64, bool), String> {
        let peer = |case, mr| facts.value(case, unit, mr);
        Ok(match self {
            Self::AtMostTimes(factor, mr) => (factor * peer(case, mr)?, true),
            Self::WithinSpread(mr) => {
                let spread = facts.value(case, &format!("{unit}, spread"), mr)?;
                (peer(case, mr)? + spread, true)
            }
            Self::AtMostTimesCase(factor, mr, other) => (factor * peer(other, mr)?, true),
            Self::AtLeastTimes(factor, mr) => (factor * peer(case, mr)?, false),
            Self::AtMost(limit) => (limit, true),
            Self::AtLeast(limit) => (limit, false),
        })
    }
}

/// How a case came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every bound is met.
    Reached,
    /// Some bound is not met.
    Missed,
    /// It could not be said, for this reason.
    Unknown(String),
}

/// A case against its bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The limits in numbers: `≤ 17.1, ≥ 12`.
    pub limits: String,
    /// How it came out.
    pub verdict: Verdict,
}

/// Holds a case against all bounds that the row's checks have for it; None if there are none.
pub fn judge(checks: &[Check], facts: &Facts, case: &str, unit: &str) -> Option<Judged> {
    let mut limits = Vec::new();
    let mut verdict = None;
    let value = facts.value(case, unit, "emm");
    for check in checks.iter().filter(|c| c.concerns(case, unit)) {
        let outcome = match (check.bound.limit(facts, case, unit), &value) {
            (Ok((limit, upper)), value) => {
                let sign = if upper { '≤' } else { '≥' };
                limits.push(format!("{sign} {}", number(limit)));
                match value {
                    Ok(value) if upper && *value <= limit => Verdict::Reached,
                    Ok(value) if !upper && *value >= limit => Verdict::Reached,
                    Ok(_) => Verdict::Missed,
                    Err(why) => Verdict::Unknown(why.clone()),
                }
            }
            (Err(why), _) => Verdict::Unknown(why),
        };
        if matches!(verdict, None | Some(Verdict::Reached)) || outcome == Verdict::Missed {
            verdict = Some(outcome);
        }
    }
    verdict.map(|verdict| Judged {
        limits: limits.join(", "),
        verdict,
    })
}

/// A number with as many digits as it deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"odp","value":10}"#);
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"emm","value":11}"#);
        facts.take(r#"{"row":"r","case":"b","unit":"µs","mr":"odp","why":"EINVAL"}"#);
        facts.take(r#"{"row":"r","case":"b","unit":"µs","mr":"emm","value":12}"#);
        facts
    }

    #[test]
    fn a_peer_is_met_within_its_own_spread() {
        let mut facts = facts();
        let judged = |facts: &Facts| {
            let checks = [Check::new("", "µs", Bound::WithinSpread("odp"))];
            judge(&checks, facts, "a", "µs").map(|j| j.verdict)
        };
        assert!(matches!(judged(&facts), Some(Verdict::Unknown(_))));
        facts.take(r#"{"row":"r","case":"a","unit":"µs, spread","mr":"odp","value":1.5}"#);
        assert_eq!(judged(&facts), Some(Verdict::Reached));
    }

    fn verdict(bounds: &[Bound], case: &str) -> Option<Verdict> {
        let checks: Vec<Check> = bounds.iter().map(|b| Check::new("", "µs", *b)).collect();
        judge(&checks, &facts(), case, "µs").map(|j| j.verdict)
    }

    #[test]
    fn every_bound_counts() {
        use Bound::{AtLeast, AtMost, AtMostTimes, AtMostTimesCase};
        assert_eq!(verdict(&[], "a"), None);
        assert_eq!(
            verdict(&[AtMostTimes(1.1, "odp")], "a"),
            Some(Verdict::Reached)
        );
        assert_eq!(
            verdict(&[AtMost(20.0), AtLeast(11.5)], "a"),
            Some(Verdict::Missed)
        );
        assert_eq!(
            verdict(&[AtMostTimesCase(1.2, "odp", "a")], "b"),
            Some(Verdict::Reached)
        );
    }

    #[test]
    fn without_a_peer_nothing_is_reached() {
        let unknown = verdict(&[Bound::AtMost(20.0), Bound::AtMostTimes(1.1, "odp")], "b");
        assert_eq!(unknown, Some(Verdict::Unknown("odp: EINVAL".into())));
        let missed = verdict(&[Bound::AtMostTimes(1.1, "odp"), Bound::AtMost(1.0)], "b");
        assert_eq!(missed, Some(Verdict::Missed));
    }

    #[test]
    fn digits() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(0.98712), "0.987");
        assert_eq!(number(14.04), "14.04");
        assert_eq!(number(123_456.7), "123457");
    }
}
