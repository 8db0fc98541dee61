//! Axes: where a value lies, and where the ticks are.

use crate::measure::number;

/// What the numbers of an axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps, from 0.
    Linear,
    /// Powers of ten.
    Decades,
    /// Powers of two, which are lengths in bytes.
    Bytes,
    /// Powers of two, which count something.
    Doublings,
}

/// An axis: the values at its ends, and its ticks with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values and what is written there.
    pub ticks: Vec<(f64, String)>,
}

/// Values spread over more than so many times need a logarithmic axis.
const WIDE: f64 = 20.0;
/// More ticks than this are thinned out.
const MOST_TICKS: usize = 8;

impl Axis {
    /// An axis for values measured in `unit`, from 0 or logarithmic; shares are shown from 0. None without a positive value.
    pub fn of_values(values: &[f64], unit: &str) -> Option<Self> {
        let (least, most) = ends(values)?;
        if most / least > WIDE && !unit.starts_with('%') {
            return Some(Self::decades(least, most));
        }
        let step = step(most);
        let count = (most * 1.04 / step).ceil();
        let ticks = (0..=count as u32)
            .map(|n| f64::from(n) * step)
            .map(|value| (value, label(value)))
            .collect();
        Some(Self {
            scale: Scale::Linear,
            low: 0.0,
            high: count * step,
            ticks,
        })
    }

    /// An axis for places on a curve: every one of them has a tick, if there is room. None without a positive one.
    pub fn of_places(places: &[f64], scale: Scale) -> Option<Self> {
        let (least, most) = ends(places)?;
        if scale == Scale::Decades {
            return Some(Self::decades(least, most));
        }
        let mut all: Vec<f64> = places.to_vec();
        all.sort_by(f64::total_cmp);
        all.dedup();
        let text = |value: f64| match scale {
            Scale::Bytes => bytes(value),
            _ => label(value),
        };
        let mut axis = Self {
            scale,
            low: least,
            high: most,
            ticks: Vec::new(),
        };
        axis.widen();
        // A label takes some room: what comes too close to the one before has none.
        for value in all {
            let near = axis
                .ticks
                .last()
                .is_some_and(|(last, _)| axis.place(value) - axis.place(*last) < 0.09);
            if !near {
                axis.ticks.push((value, text(value)));
            }
        }
        Some(axis)
    }

    fn decades(least: f64, most: f64) -> Self {
        let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let last = last.max(first + 1);
        let every = ((last - first) as usize).div_ceil(MOST_TICKS).max(1);
        let ticks = (first..=last)
            .step_by(every)
            .map(|power| 10f64.powi(power))
            .map(|value| (value, label(value)))
            .collect();
        Self {
            scale: Scale::Decades,
            low: 10f64.powi(first),
            high: 10f64.powi(last),
            ticks,
        }
    }

    /// Leaves some room at both ends of a logarithmic axis.
    fn widen(&mut self) {
        let margin = (self.high / self.low).powf(0.05).max(1.1);
        self.low /= margin;
        self.high *= margin;
    }

    /// Where a value lies, from 0 to 1; what is outside lies at the end.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            _ if value <= 0.0 => 0.0,
            _ => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Whether equal distances are equal factors.
    pub fn is_logarithmic(&self) -> bool {
        self.scale != Scale::Linear
    }
}

/// The least and the greatest positive value.
fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let positive = || values.iter().copied().filter(|v| *v > 0.0 && v.is_finite());
    Some((positive().reduce(f64::min)?, positive().reduce(f64::max)?))
}

/// A round step that divides `most` into about five.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0];
    let fits = factor.into_iter().find(|f| f * power >= rough);
    fits.unwrap_or(10.0) * power
}

/// A length: `64 KiB`.
pub fn bytes(value: f64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = f64::from(2).powi(shift);
        if value >= one {
            return format!("{} {unit}", label(value / one));
        }
    }
    format!("{} B", label(value))
}

/// A tick's number, without digits that say nothing.
fn label(value: f64) -> String {
    if value.abs() >= 1e5 || (value != 0.0 && value.abs() < 1e-3) {
        let power = value.abs().log10().floor() as i32;
        let mantissa = value / 10f64.powi(power);
        let super_script: String = power.to_string().chars().map(raised).collect();
        return if (mantissa - 1.0).abs() < 1e-9 {
            format!("10{super_script}")
        } else {
            format!("{}·10{super_script}", trimmed(&number(mantissa)))
        };
    }
    trimmed(&format!("{value:.4}"))
}

fn trimmed(number: &str) -> String {
    if !number.contains('.') {
        return number.to_owned();
    }
    number
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

fn raised(digit: char) -> char {
    match digit {
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        _ => '⁻',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn close_values_are_shown_from_zero() {
        let axis = Axis::of_values(&[31.0, 47.0], "ms").unwrap();
        assert_eq!(labels(&axis), ["0", "10", "20", "30", "40", "50"]);
        assert!((axis.place(25.0) - 0.5).abs() < 1e-9);
        let axis = Axis::of_values(&[0.97, 1.0], "of pinned").unwrap();
        assert_eq!(labels(&axis)[..3], ["0", "0.2", "0.4"]);
        assert!(!axis.is_logarithmic());
    }

    #[test]
    fn shares_are_shown_from_zero() {
        let axis = Axis::of_values(&[3.7, 100.0], "% resident").unwrap();
        assert_eq!(labels(&axis), ["0", "20", "40", "60", "80", "100", "120"]);
    }

    #[test]
    fn wide_values_are_shown_in_decades() {
        let axis = Axis::of_values(&[11.0, 546_000.0], "µs").unwrap();
        assert_eq!(labels(&axis), ["10", "100", "1000", "10000", "10⁵", "10⁶"]);
        assert!(axis.place(11.0) < 0.02 && axis.place(546_000.0) > 0.9);
        assert_eq!(axis.place(0.0), 0.0);
    }

    #[test]
    fn places_have_their_own_ticks() {
        let sizes = [64.0, 4096.0, 65_536.0, 1_048_576.0];
        let axis = Axis::of_places(&sizes, Scale::Bytes).unwrap();
        assert_eq!(labels(&axis), ["64 B", "4 KiB", "64 KiB", "1 MiB"]);
        let axis = Axis::of_places(&[1.0, 1.01, 16.0], Scale::Doublings).unwrap();
        assert_eq!(labels(&axis), ["1", "16"]);
        let axis = Axis::of_places(&[100.0, 1e4], Scale::Decades).unwrap();
        assert_eq!(labels(&axis), ["100", "1000", "10000"]);
    }

    #[test]
    fn nothing_has_no_axis() {
        assert_eq!(Axis::of_values(&[], "ms"), None);
        assert_eq!(Axis::of_values(&[0.0], "ms"), None);
        assert_eq!(label(0.0), "0");
        assert_eq!(label(0.0005), "5·10⁻⁴");
        assert_eq!(bytes(f64::from(1 << 20)), "1 MiB");
    }
}
