//! Curves: a line for each kind of region, with the noise at each point.

use anyhow::Result;

use super::super::report::{Case, KINDS, Outcome};
use super::axis::{Axis, Scale};
use super::canvas::{Canvas, GRID, Hold, INK, Shape, WIDTH, colour};

const HEIGHT: i32 = 400;
const LEFT: i32 = 96;
const RIGHT: i32 = WIDTH - 24;
const TOP: i32 = 62;
const BOTTOM: i32 = HEIGHT - 58;

/// Draws the curves; None if there is nothing to draw.
pub fn draw(
    title: &str,
    unit: &str,
    (x_title, scale): (&str, Scale),
    cases: &[&Case],
) -> Result<Option<String>> {
    let places: Vec<f64> = cases.iter().filter_map(|case| case.x).collect();
    let values: Vec<f64> = cases
        .iter()
        .flat_map(|case| case.kinds.iter())
        .filter_map(Outcome::between)
        .flat_map(|(low, high)| [low, (low + high) / 2.0, high])
        .collect();
    let (Some(x), Some(y)) = (
        Axis::of_places(&places, scale),
        Axis::of_values(&values, unit),
    ) else {
        return Ok(None);
    };
    let across = |value: f64| LEFT + (x.place(value) * f64::from(RIGHT - LEFT)) as i32;
    let up = |value: f64| BOTTOM - (y.place(value) * f64::from(BOTTOM - TOP)) as i32;
    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, HEIGHT)?;
    canvas.title(title)?;
    for (value, label) in &y.ticks {
        canvas.line(vec![(LEFT, up(*value)), (RIGHT, up(*value))], GRID, 1)?;
        canvas.text(label, (LEFT - 8, up(*value)), Hold::Right)?;
    }
    for (value, label) in &x.ticks {
        let at = across(*value);
        canvas.line(vec![(at, TOP), (at, BOTTOM)], GRID, 1)?;
        canvas.text(label, (at, BOTTOM + 16), Hold::Centre)?;
    }
    canvas.line(vec![(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 1)?;
    canvas.text(x_title, ((LEFT + RIGHT) / 2, HEIGHT - 18), Hold::Centre)?;
    let scale = if y.is_logarithmic() {
        format!("{unit} (logarithmic)")
    } else {
        unit.to_owned()
    };
    canvas.upwards(&scale, (18, (TOP + BOTTOM) / 2))?;
    let mut drawn = Vec::new();
    for (lane, mr) in KINDS.into_iter().enumerate() {
        // Kinds that are equal would hide each other: each is moved a little.
        let aside = 3 * (lane as i32 - 2);
        let mut points = Vec::new();
        for case in cases {
            let outcome = case.kind(mr);
            let (Some(place), Some(outcome)) = (case.x, outcome) else {
                continue;
            };
            let Some(median) = outcome.median else {
                continue;
            };
            let at = across(place) + aside;
            if let Some((low, high)) = outcome.between() {
                canvas.line(vec![(at, up(low)), (at, up(high))], colour(mr), 2)?;
            }
            points.push((at, up(median)));
        }
        points.sort_unstable();
        if points.is_empty() {
            continue;
        }
        drawn.push(mr);
        canvas.line(points.clone(), colour(mr), 2)?;
        for point in points {
            canvas.mark(mr, point)?;
        }
    }
    canvas.legend(&drawn, Shape::Points)?;
    canvas.finish()?;
    Ok(Some(svg))
}
