//! What repeated runs differ by: measured for each value by itself, where a few rounds say little, and for all of a row together.
//!
//! Two halves of few rounds lie close together by chance often enough. Those of all the row's values of one kind and unit don't: what
//! four of five of them lie apart is what each may be off by, or more if its own lie farther.

use super::report::Case;
use crate::measure::stats;

/// The share of a row's values that lie closer together than their noise says.
const MOST: f64 = 0.8;
/// Values of one kind that say enough of it; of fewer, the row's other kinds are asked too.
const ENOUGH: usize = 3;

/// What a unit's values are off by whatever their size: one piece of what is counted, a page, what a clock can't tell. Values near
/// zero differ by this, not by a share of themselves.
pub fn grain(unit: &str) -> Option<f64> {
    Some(match unit {
        // The difference of two times of some 30 ms.
        "ms added" => 0.1,
        "fault calls" | "fault calls a MiB" | "packets sent again" => 1.0,
        "pages swapped in" => 32.0,
        "% resident" => 1.0,
        "KiB a GiB" => 16.0,
        "B of slab" => 16.0,
        "MiB VmRSS more" | "MiB charged" | "MiB charged after the reaper" => 0.25,
        _ => return None,
    })
}

/// How far one kind's halves lie apart in one case: as a share, or in the unit where that has a [`grain`].
struct Apart {
    case: usize,
    kind: usize,
    by: f64,
}

/// Raises the noise of each value to that of its row.
pub fn pool(cases: &mut [Case]) {
    let mut apart = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        for (kind, outcome) in case.kinds.iter().enumerate() {
            let (Some(aa), Some(median)) = (outcome.aa, outcome.median) else {
                continue;
            };
            let by = match grain(&case.unit) {
                Some(_) => aa,
                None if median != 0.0 => aa / median.abs(),
                None => continue,
            };
            apart.push(Apart { case: at, kind, by });
        }
    }
    let pooled: Vec<Vec<f64>> = cases
        .iter()
        .map(|case| {
            let of = |mr: Option<&str>| {
                let own = |a: &&Apart| {
                    let other = &cases[a.case];
                    same_row(case, other) && mr.is_none_or(|mr| other.kinds[a.kind].mr == mr)
                };
                let all: Vec<f64> = apart.iter().filter(own).map(|a| a.by).collect();
                all
            };
            let noise = |mr: &str| {
                let own = of(Some(mr));
                let enough = if own.len() < ENOUGH { of(None) } else { own };
                stats::quantile(&enough, MOST).unwrap_or(0.0)
            };
            case.kinds.iter().map(|o| noise(&o.mr)).collect()
        })
        .collect();
    for (case, pooled) in cases.iter_mut().zip(pooled) {
        let grain = grain(&case.unit);
        for (outcome, pooled) in case.kinds.iter_mut().zip(pooled) {
            let Some(median) = outcome.median else {
                continue;
            };
            let of_row = match grain {
                Some(grain) => pooled.max(grain),
                None => pooled * median.abs(),
            };
            outcome.noise = outcome.noise.max(of_row);
        }
    }
}

fn same_row(one: &Case, other: &Case) -> bool {
    (&one.row, &one.unit, &one.clock, one.cpus)
        == (&other.row, &other.unit, &other.clock, other.cpus)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::case;
    use super::*;

    fn latency(name: &str, unit: &str, kinds: &[(&str, &[f64])]) -> Case {
        let mut case = case(kinds);
        case.case = name.to_owned();
        case.unit = unit.to_owned();
        case
    }

    fn noise(case: &Case, mr: &str) -> f64 {
        case.kind(mr).unwrap().noise
    }

    #[test]
    fn who_agrees_by_chance_has_the_noise_of_its_row() {
        let mut cases = vec![
            latency(
                "2 B",
                "µs",
                &[("emm", &[10.0, 10.0]), ("odp", &[10.0, 10.0])],
            ),
            latency(
                "8 B",
                "µs",
                &[("emm", &[20.0, 22.0]), ("odp", &[20.0, 20.0])],
            ),
            latency(
                "1 KiB",
                "µs",
                &[("emm", &[30.0, 33.0]), ("odp", &[30.0, 30.0])],
            ),
        ];
        pool(&mut cases);
        assert!(noise(&cases[0], "emm") > 0.8, "{}", noise(&cases[0], "emm"));
        assert!(
            noise(&cases[0], "odp") < 0.2,
            "another kind's is not its own"
        );
        assert!(noise(&cases[2], "emm") >= 3.0, "its own is kept");
    }

    #[test]
    fn few_values_have_that_of_all_kinds() {
        let kinds: [(&str, &[f64]); 2] = [("emm", &[10.0, 10.0]), ("odp", &[10.0, 12.0])];
        let mut cases = vec![latency("8 B", "µs", &kinds)];
        pool(&mut cases);
        assert!(noise(&cases[0], "emm") > 1.0);
    }

    #[test]
    fn what_is_counted_has_a_grain() {
        let mut cases = vec![latency("x", "packets sent again", &[("emm", &[0.0, 0.0])])];
        pool(&mut cases);
        assert_eq!(noise(&cases[0], "emm"), 1.0);
    }
}
