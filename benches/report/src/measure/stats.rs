//! Medians, quantiles, and how much of a difference is noise.

/// The median; None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the share `at` of the values lies (0 to 1), between neighbours in proportion; None of nothing.
pub fn quantile(values: &[f64], at: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    let share = place - place.floor();
    Some(sorted[low] + (sorted[high] - sorted[low]) * share)
}

/// The distance between the quartiles.
pub fn iqr(values: &[f64]) -> Option<f64> {
    Some(quantile(values, 0.75)? - quantile(values, 0.25)?)
}

/// A/A: how far the medians of two halves of the same kind's rounds lie apart. The halves are
/// `first` and the rest, or every other round if all are `first`. None with fewer than two rounds.
pub fn aa(rounds: &[f64], first: &[bool]) -> Option<f64> {
    let split: Vec<bool> = if first.contains(&false) && first.contains(&true) {
        first.to_vec()
    } else {
        (0..rounds.len()).map(|at| at % 2 == 0).collect()
    };
    let half = |want: bool| -> Option<f64> {
        let of: Vec<f64> = rounds
            .iter()
            .zip(&split)
            .filter(|(_, in_first)| **in_first == want)
            .map(|(value, _)| *value)
            .collect();
        median(&of)
    };
    Some((half(true)? - half(false)?).abs())
}

/// The uncertainty of a median of rounds: 1.57 IQR/√n, the notch of a box plot, which holds the true
/// median 95 times of 100. None with fewer than two rounds.
pub fn notch(rounds: &[f64]) -> Option<f64> {
    if rounds.len() < 2 {
        return None;
    }
    Some(1.57 * iqr(rounds)? / (rounds.len() as f64).sqrt())
}

/// A straight line through points, by least squares: its value at 0 and its slope. None if it isn't one.
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let across: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let along: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if points.len() < 2 || along == 0.0 {
        return None;
    }
    let slope = across / along;
    Some((y - slope * x, slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-9)
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert!(near(quantile(&values, 0.99), 99.0));
        assert!(near(iqr(&values), 50.0));
        assert_eq!(quantile(&values, 2.0), Some(100.0));
    }

    #[test]
    fn halves_that_agree_have_no_noise() {
        assert_eq!(aa(&[], &[]), None);
        assert_eq!(aa(&[1.0], &[true]), None);
        assert_eq!(aa(&[2.0, 2.0], &[true, true]), Some(0.0));
        // Two guests: what differs between them counts, although each agrees with itself.
        let rounds = [10.0, 10.0, 12.0, 12.0];
        assert!(near(aa(&rounds, &[true, true, false, false]), 2.0));
        assert_eq!(aa(&[0.0, 0.0], &[true, false]), Some(0.0));
        assert!(near(aa(&[1.0, 3.0, 1.0, 3.0], &[true; 4]), 2.0));
    }

    #[test]
    fn notches_narrow_with_rounds() {
        assert_eq!(notch(&[1.0]), None);
        let few = notch(&[9.0, 10.0, 11.0]).unwrap();
        let many = notch(&[9.0, 9.0, 9.0, 10.0, 10.0, 10.0, 11.0, 11.0, 11.0]).unwrap();
        assert!(few > 0.8 && many < 2.0 * few);
        assert_eq!(notch(&[5.0; 4]), Some(0.0));
    }

    #[test]
    fn lines_are_fitted() {
        assert_eq!(line(&[(1.0, 1.0)]), None);
        assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), None);
        let (at_zero, slope) = line(&[(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]).unwrap();
        assert!((at_zero - 1.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
    }
}
