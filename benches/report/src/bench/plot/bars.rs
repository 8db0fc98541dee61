//! Bars: a group for each case, a bar for each kind of region with its value beside it.

use anyhow::Result;

use super::super::report::{Case, KINDS, Outcome};
use super::super::table::cell;
use super::axis::Axis;
use super::canvas::{
    Canvas, GRID, Hold, INK, Shape, WIDTH, colour, text_width, title as kind_title,
};

const TOP: i32 = 62;
/// Height of a bar with its gap, and of the gap between groups.
const BAR: i32 = 17;
const GAP: i32 = 12;
/// Room for the values beside the bars.
const VALUES: i32 = 120;

/// Draws the bars; None if there is nothing to draw.
pub fn draw(title: &str, unit: &str, cases: &[&Case]) -> Result<Option<String>> {
    let values: Vec<f64> = cases
        .iter()
        .flat_map(|case| case.kinds.iter())
        .filter_map(Outcome::between)
        .flat_map(|(low, high)| [(low + high) / 2.0, high])
        .collect();
    let Some(axis) = Axis::of_values(&values, unit) else {
        return Ok(None);
    };
    let kinds: Vec<&str> = KINDS
        .into_iter()
        .filter(|mr| cases.iter().any(|case| case.median(mr).is_some()))
        .collect();
    let bars: usize = cases.iter().map(|case| case.kinds.len()).sum();
    let bottom = TOP + bars as i32 * BAR + cases.len() as i32 * GAP;
    let name = |case: &Case| match case.clock.as_str() {
        "wall" if !case.case.contains("CPU") => format!("{}, {} CPUs", case.case, case.cpus),
        _ => case.case.clone(),
    };
    let widest = cases.iter().map(|case| text_width(&name(case))).max();
    let left = (widest.unwrap_or(0) + 24).min(WIDTH / 2);
    let right = WIDTH - VALUES;
    let across = |value: f64| left + (axis.place(value) * f64::from(right - left)) as i32;

    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, bottom + 52)?;
    canvas.title(title)?;
    canvas.legend(&kinds, Shape::Bars)?;
    for (value, label) in &axis.ticks {
        let at = across(*value);
        canvas.line(vec![(at, TOP), (at, bottom)], GRID, 1)?;
        canvas.text(label, (at, bottom + 14), Hold::Centre)?;
    }
    let scale = if axis.is_logarithmic() {
        format!("{unit} (logarithmic)")
    } else {
        unit.to_owned()
    };
    canvas.text(&scale, ((left + right) / 2, bottom + 36), Hold::Centre)?;
    let mut y = TOP + GAP / 2;
    for case in cases {
        let height = case.kinds.len() as i32 * BAR;
        canvas.text(&name(case), (left - 10, y + height / 2), Hold::Right)?;
        for outcome in &case.kinds {
            let middle = y + BAR / 2;
            let mut end = left;
            if let Some(median) = outcome.median {
                end = across(median).max(left + 1);
                let corners = [(left, y + 1), (end, y + BAR - 1)];
                canvas.rectangle(corners, colour(&outcome.mr))?;
                if let Some((low, high)) = outcome.between() {
                    whisker(&canvas, (across(low), across(high)), middle)?;
                    end = end.max(across(high));
                }
            }
            let value = cell(case, &outcome.mr);
            let text = match outcome.median {
                Some(_) => value,
                // No bar's colour says whose it is.
                None => format!("{}: {value}", kind_title(&outcome.mr)),
            };
            canvas.text(&text, (end + 6, middle), Hold::Left)?;
            y += BAR;
        }
        y += GAP;
    }
    canvas.line(vec![(left, TOP), (left, bottom)], INK, 1)?;
    canvas.finish()?;
    Ok(Some(svg))
}

/// The noise, if it is wide enough to be seen.
fn whisker(canvas: &Canvas<'_>, (from, to): (i32, i32), y: i32) -> Result<()> {
    if to - from < 3 {
        return Ok(());
    }
    canvas.line(vec![(from, y), (to, y)], INK, 1)?;
    canvas.line(vec![(from, y - 4), (from, y + 4)], INK, 1)?;
    canvas.line(vec![(to, y - 4), (to, y + 4)], INK, 1)
}
