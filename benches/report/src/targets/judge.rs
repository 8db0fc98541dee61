//! Whether what was measured reaches a target.

use crate::measure::{Facts, Key, number};

/// What a measured value is held against.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// At most so many times what a peer needs in the same case.
    AtMostTimes(f64, &'static str),
    /// At most what a peer needs in the same case, and what its rounds lie apart (the least from the most).
    WithinSpread(&'static str),
    /// At most so many times what a peer needs in another case.
    AtMostTimesCase(f64, &'static str, &'static str),
    /// At least so many times what a peer reaches in the same case.
    AtLeastTimes(f64, &'static str),
    /// At least this.
    AtLeast(f64),
    /// At most this, in each round: what is counted has no noise.
    EachAtMost(f64),
    /// At least this, in each round.
    EachAtLeast(f64),
}

impl Bound {
    /// The limit in numbers, and whether it is an upper one.
    fn limit(self, facts: &Facts, key: Key<'_>) -> Result<(f64, bool), String> {
        let peer = |case, mr| facts.value(Key { case, ..key }, mr);
        Ok(match self {
            Self::AtMostTimes(factor, mr) => (factor * peer(key.case, mr)?, true),
            Self::WithinSpread(mr) => {
                let spread = facts.spread(key, mr).unwrap_or(0.0);
                (peer(key.case, mr)? + spread, true)
            }
            Self::AtMostTimesCase(factor, mr, other) => (factor * peer(other, mr)?, true),
            Self::AtLeastTimes(factor, mr) => (factor * peer(key.case, mr)?, false),
            Self::EachAtMost(limit) => (limit, true),
            Self::AtLeast(limit) | Self::EachAtLeast(limit) => (limit, false),
        })
    }

    /// What is held against the limit, and how much it may be off by.
    fn value(
        self,
        facts: &Facts,
        key: Key<'_>,
        noise: &dyn Fn(&str) -> f64,
    ) -> Result<(f64, f64), String> {
        match self {
            Self::EachAtMost(_) => Ok((facts.worst(key, "emm", f64::max)?, 0.0)),
            Self::EachAtLeast(_) => Ok((facts.worst(key, "emm", f64::min)?, 0.0)),
            _ => Ok((facts.value(key, "emm")?, noise("emm") + self.slack(noise))),
        }
    }

    /// How much of the limit is the noise of the peer that it comes from. Each kind's own is in the unit of the values.
    fn slack(self, noise: &dyn Fn(&str) -> f64) -> f64 {
        match self {
            Self::AtMostTimes(factor, mr) | Self::AtLeastTimes(factor, mr) => factor * noise(mr),
            // The spread is in the limit already; the others have no peer in the same case.
            _ => 0.0,
        }
    }
}

/// A bound for some of a row's cases.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// What the names of the cases contain.
    case: &'static str,
    /// Names that contain one of these are not meant.
    except: &'static [&'static str],
    unit: &'static str,
    /// What they are held against.
    pub bound: Bound,
}

impl Check {
    /// Holds the cases whose names contain `case` against `bound`.
    pub const fn new(case: &'static str, unit: &'static str, bound: Bound) -> Self {
        let except = &[];
        Self {
            case,
            except,
            unit,
            bound,
        }
    }

    /// The same, but not for cases whose names contain one of `except`: a row may measure more than the target names.
    pub const fn except(self, except: &'static [&'static str]) -> Self {
        Self { except, ..self }
    }

    /// Whether this bound is for that case.
    pub fn concerns(&self, key: Key<'_>) -> bool {
        let excepted = self.except.iter().any(|part| key.case.contains(part));
        key.case.contains(self.case) && !excepted && key.unit == self.unit
    }
}

/// How a case came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every bound is met.
    Reached,
    /// Some bound is not met, by no more than the noise of what is compared.
    Close,
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

impl Verdict {
    /// Whether nothing says that a bound is missed.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Reached | Self::Close)
    }

    /// In words.
    pub fn words(&self) -> &str {
        match self {
            Self::Reached => "reached",
            Self::Close => "within its noise",
            Self::Missed => "missed",
            Self::Unknown(why) => why,
        }
    }

    /// Of two, the one that says less good.
    fn and(self, other: Self) -> Self {
        let rank = |verdict: &Self| match verdict {
            Self::Reached => 0,
            Self::Close => 1,
            Self::Unknown(_) => 2,
            Self::Missed => 3,
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

/// Holds a case against all bounds that the row's checks have for it; None if there are none. What misses a limit by no more
/// than the noise of what is compared has not missed it, except by what is counted; `noise` gives each kind's, in the unit of the
/// values. A round in which EMM failed is not made good by the others.
pub fn judge(
    checks: &[Check],
    facts: &Facts,
    key: Key<'_>,
    noise: &dyn Fn(&str) -> f64,
) -> Option<Judged> {
    let mut limits = Vec::new();
    let mut verdict: Option<Verdict> = None;
    let failed = facts.failure(key, "emm");
    for check in checks.iter().filter(|c| c.concerns(key)) {
        let limit = check.bound.limit(facts, key);
        if let Ok((limit, upper)) = limit {
            let sign = if upper { '≤' } else { '≥' };
            limits.push(format!("{sign} {}", number(limit)));
        }
        let value = limit.and_then(|l| Ok((l, check.bound.value(facts, key, noise)?)));
        let outcome = match (value, &failed) {
            (Err(why), _) => Verdict::Unknown(why),
            (_, Some(why)) => Verdict::Unknown(why.clone()),
            (Ok(((limit, upper), (value, slack))), None) => {
                let over = if upper { value - limit } else { limit - value };
                match over {
                    ..=0.0 => Verdict::Reached,
                    over if over <= slack => Verdict::Close,
                    _ => Verdict::Missed,
                }
            }
        };
        verdict = Some(match verdict {
            Some(verdict) => verdict.and(outcome),
            None => outcome,
        });
    }
    verdict.map(|verdict| Judged {
        limits: limits.join(", "),
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"odp","values":[10]}"#);
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"emm","values":[11]}"#);
        facts.take(r#"{"row":"r","case":"b","unit":"µs","mr":"odp","why":"EINVAL"}"#);
        facts.take(r#"{"row":"r","case":"b","unit":"µs","mr":"emm","values":[12]}"#);
        facts
    }

    fn key(case: &str) -> Key<'_> {
        Key {
            row: "r",
            case,
            unit: "µs",
        }
    }

    #[test]
    fn a_peer_is_met_within_its_own_spread() {
        let mut facts = facts();
        let judged = |facts: &Facts| {
            let checks = [Check::new("", "µs", Bound::WithinSpread("odp"))];
            judge(&checks, facts, key("a"), &|_| 0.0).map(|j| j.verdict)
        };
        assert_eq!(judged(&facts), Some(Verdict::Missed));
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"odp","round":1,"values":[11.5]}"#);
        assert_eq!(judged(&facts), Some(Verdict::Reached));
    }

    fn verdict(bounds: &[Bound], case: &str) -> Option<Verdict> {
        let checks: Vec<Check> = bounds.iter().map(|b| Check::new("", "µs", *b)).collect();
        judge(&checks, &facts(), key(case), &|_| 0.0).map(|j| j.verdict)
    }

    #[test]
    fn noise_is_no_miss() {
        let verdict = |bound, noise: f64| {
            let checks = [Check::new("", "µs", bound)];
            judge(&checks, &facts(), key("a"), &|_| noise).map(|j| j.verdict)
        };
        assert_eq!(verdict(Bound::AtLeast(11.2), 0.1), Some(Verdict::Missed));
        assert_eq!(verdict(Bound::AtLeast(11.2), 0.3), Some(Verdict::Close));
        // The peer has some too.
        let bound = Bound::AtMostTimes(1.0, "odp");
        assert_eq!(verdict(bound, 0.4), Some(Verdict::Missed));
        assert_eq!(verdict(bound, 0.6), Some(Verdict::Close));
    }

    #[test]
    fn a_round_that_failed_counts() {
        let mut facts = facts();
        facts.take(r#"{"row":"r","case":"a","unit":"µs","mr":"emm","round":1,"why":"status 1"}"#);
        for bound in [Bound::EachAtMost(20.0), Bound::AtMostTimes(2.0, "odp")] {
            let judged = judge(&[Check::new("", "µs", bound)], &facts, key("a"), &|_| 0.0);
            let why = "emm: status 1 (in 1 of 2 rounds)".to_owned();
            assert_eq!(judged.map(|j| j.verdict), Some(Verdict::Unknown(why)));
        }
    }

    #[test]
    fn a_count_has_no_noise_and_no_median() {
        let mut facts = facts();
        let judged = |facts: &Facts, bound| {
            let checks = [Check::new("", "µs", bound)];
            judge(&checks, facts, key("a"), &|_| 5.0).map(|j| j.verdict)
        };
        let (most, least) = (Bound::EachAtMost(11.0), Bound::EachAtLeast(11.0));
        assert_eq!(judged(&facts, most), Some(Verdict::Reached));
        assert_eq!(judged(&facts, least), Some(Verdict::Reached));
        for (round, value) in [(1, 11.0), (2, 12.0), (3, 10.0)] {
            facts.take(&format!(
                r#"{{"row":"r","case":"a","unit":"µs","mr":"emm","round":{round},"values":[{value}]}}"#
            ));
        }
        assert_eq!(judged(&facts, most), Some(Verdict::Missed));
        assert_eq!(judged(&facts, least), Some(Verdict::Missed));
    }

    #[test]
    fn every_bound_counts() {
        use Bound::{AtLeast, AtMostTimes, AtMostTimesCase, EachAtMost};
        assert_eq!(verdict(&[], "a"), None);
        assert_eq!(
            verdict(&[AtMostTimes(1.1, "odp")], "a"),
            Some(Verdict::Reached)
        );
        assert_eq!(
            verdict(&[EachAtMost(20.0), AtLeast(11.5)], "a"),
            Some(Verdict::Missed)
        );
        assert_eq!(
            verdict(&[AtMostTimesCase(1.2, "odp", "a")], "b"),
            Some(Verdict::Reached)
        );
    }

    #[test]
    fn without_a_peer_nothing_is_reached() {
        let unknown = verdict(
            &[Bound::EachAtMost(20.0), Bound::AtMostTimes(1.1, "odp")],
            "b",
        );
        assert_eq!(unknown, Some(Verdict::Unknown("odp: EINVAL".into())));
        let missed = verdict(
            &[Bound::AtMostTimes(1.1, "odp"), Bound::EachAtMost(1.0)],
            "b",
        );
        assert_eq!(missed, Some(Verdict::Missed));
    }
}
