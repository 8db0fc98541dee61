//! What all plots are drawn on: texts, lines and the kinds' colours.

use anyhow::{Result, anyhow};
use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontStyle, FontTransform, IntoFont as _, RGBColor, TextStyle, WHITE,
};

use super::super::report::{KINDS, TITLES};

/// Width of all plots in pixels.
pub const WIDTH: i32 = 720;
/// The letters' height.
const LETTER: i32 = 13;
/// Colours that the colour-blind can tell apart (Okabe and Ito), one for each kind.
const COLOURS: [RGBColor; 5] = [
    RGBColor(175, 175, 175),
    RGBColor(90, 90, 90),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
];
pub const INK: RGBColor = RGBColor(40, 40, 40);
pub const GRID: RGBColor = RGBColor(220, 220, 220);

/// Where a text is held.
#[derive(Debug, Clone, Copy)]
pub enum Hold {
    Left,
    Centre,
    Right,
}

/// A picture that is being drawn.
pub struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl<'a> Canvas<'a> {
    /// An empty one that will be in `svg`.
    pub fn new(svg: &'a mut String, height: i32) -> Result<Self> {
        let size = (WIDTH as u32, height as u32);
        let area = SVGBackend::with_string(svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(cannot)?;
        Ok(Self(area))
    }

    /// Ends it.
    pub fn finish(self) -> Result<()> {
        self.0.present().map_err(cannot)
    }

    /// A text at a point, which is at its middle height.
    pub fn text(&self, text: &str, at: (i32, i32), hold: Hold) -> Result<()> {
        self.styled(text, at, hold, FontStyle::Normal, LETTER)
    }

    /// The plot's title, at the top left.
    pub fn title(&self, text: &str) -> Result<()> {
        self.styled(text, (12, 18), Hold::Left, FontStyle::Bold, LETTER + 3)
    }

    fn styled(
        &self,
        text: &str,
        at: (i32, i32),
        hold: Hold,
        style: FontStyle,
        size: i32,
    ) -> Result<()> {
        let across = match hold {
            Hold::Left => HPos::Left,
            Hold::Centre => HPos::Center,
            Hold::Right => HPos::Right,
        };
        let style = TextStyle::from(("sans-serif", size).into_font().style(style))
            .color(&INK)
            .pos(Pos::new(across, VPos::Center));
        self.0
            .draw(&Text::new(text.to_owned(), at, style))
            .map_err(cannot)
    }

    /// A text that reads upwards, its middle at a point.
    pub fn upwards(&self, text: &str, at: (i32, i32)) -> Result<()> {
        let font = ("sans-serif", LETTER)
            .into_font()
            .transform(FontTransform::Rotate270);
        let style = TextStyle::from(font)
            .color(&INK)
            .pos(Pos::new(HPos::Center, VPos::Center));
        self.0
            .draw(&Text::new(text.to_owned(), at, style))
            .map_err(cannot)
    }

    /// A line through points.
    pub fn line(&self, points: Vec<(i32, i32)>, colour: RGBColor, width: u32) -> Result<()> {
        let line = PathElement::new(points, colour.stroke_width(width));
        self.0.draw(&line).map_err(cannot)
    }

    /// A filled rectangle.
    pub fn rectangle(&self, corners: [(i32, i32); 2], colour: RGBColor) -> Result<()> {
        self.0
            .draw(&Rectangle::new(corners, colour.filled()))
            .map_err(cannot)
    }

    /// A kind's mark: each has a shape of its own beside its colour.
    pub fn mark(&self, mr: &str, (x, y): (i32, i32)) -> Result<()> {
        let colour = colour(mr);
        let polygon = |points: &[(i32, i32)]| {
            let points: Vec<_> = points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
            self.0
                .draw(&Polygon::new(points, colour.filled()))
                .map_err(cannot)
        };
        match mr {
            "pinned" => self.rectangle([(x - 4, y - 4), (x + 4, y + 4)], colour),
            "odp" => polygon(&[(-6, 5), (6, 5), (0, -6)]),
            "implicit" => polygon(&[(-6, 0), (0, -6), (6, 0), (0, 6)]),
            "emm" => self
                .0
                .draw(&Circle::new((x, y), 5, colour.filled()))
                .map_err(cannot),
            _ => self
                .0
                .draw(&Circle::new((x, y), 4, colour.stroke_width(2)))
                .map_err(cannot),
        }
    }

    /// The names of `kinds` in one line below the title.
    pub fn legend(&self, kinds: &[&str], shape: Shape) -> Result<()> {
        let mut x = 18;
        for mr in kinds {
            match shape {
                Shape::Points => self.mark(mr, (x, 40))?,
                Shape::Bars => self.rectangle([(x - 5, 35), (x + 5, 45)], colour(mr))?,
            }
            self.text(title(mr), (x + 11, 40), Hold::Left)?;
            x += 34 + text_width(title(mr));
        }
        Ok(())
    }
}

/// What a legend explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Points of curves.
    Points,
    /// Bars.
    Bars,
}

/// About how wide a text is in pixels.
pub fn text_width(text: &str) -> i32 {
    text.chars().count() as i32 * LETTER * 56 / 100
}

/// A kind's colour.
pub fn colour(mr: &str) -> RGBColor {
    let at = KINDS.iter().position(|kind| *kind == mr);
    at.map_or(INK, |at| COLOURS[at])
}

/// A kind's name.
pub fn title(mr: &str) -> &str {
    let at = KINDS.iter().position(|kind| *kind == mr);
    at.map_or(mr, |at| TITLES[at])
}

fn cannot(why: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {why}")
}
