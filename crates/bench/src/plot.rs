//! Bar charts.

use std::path::Path;

use plotters::prelude::{
    ChartBuilder, Color, EmptyElement, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
    SVGBackend, SeriesLabelPosition, WHITE,
};

use super::{
    report::whole,
    results::{Figure, float},
};

/// Distinguishable with colour blindness; payonce has the first.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 110, 50),
    RGBColor(150, 150, 150),
    RGBColor(90, 90, 90),
    RGBColor(150, 190, 230),
    RGBColor(70, 150, 120),
];
const INK: RGBColor = RGBColor(30, 30, 30);

/// The share of a group that its bars fill.
const FILLED: f64 = 0.8;

/// The share of its place that a bar fills.
const WIDTH: f64 = 0.92;

/// Room for the legend above the highest bar.
const HEADROOM: f64 = 1.35;

/// Groups of bars, each with a whisker from the lowest to the highest round.
pub struct Bars<'a> {
    pub title: &'a str,
    /// The names of the groups, below them.
    pub groups: &'a [String],
    pub below: &'a str,
    /// A name, and a figure for each group.
    pub series: Vec<(&'a str, Vec<Option<Figure>>)>,
}

impl Bars<'_> {
    /// Draws an SVG file.
    pub fn draw(&self, file: &Path) {
        let root = SVGBackend::new(file, (860, 420)).into_drawing_area();
        root.fill(&WHITE).unwrap();
        let figures = self.series.iter().flat_map(|(_, figures)| figures).flatten();
        let highest = figures.map(|figure| figure.highest).fold(1.0, f64::max);
        let groups = float(self.groups.len());
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18).into_font().color(&INK))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.5..groups - 0.5, 0.0..highest * HEADROOM)
            .unwrap();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .axis_style(INK)
            .x_desc(self.below)
            .x_labels(self.groups.len() * 2 + 1)
            .x_label_formatter(&|place| self.group_at(*place))
            .y_label_formatter(&|rate| whole(*rate))
            .draw()
            .unwrap();
        for (place, (name, _)) in self.series.iter().enumerate() {
            let (colour, bars) = (COLOURS[place % COLOURS.len()], self.bars(place));
            let boxes = bars.iter().map(|(left, right, figure)| {
                Rectangle::new([(*left, 0.0), (*right, figure.median)], colour.filled())
            });
            let legend = move |(x, y): (i32, i32)| {
                EmptyElement::at((x, y)) + Rectangle::new([(2, -5), (14, 5)], colour.filled())
            };
            chart.draw_series(boxes).unwrap().label(*name).legend(legend);
            let whiskers = bars.iter().map(|(left, right, figure)| {
                let middle = f64::midpoint(*left, *right);
                PathElement::new(vec![(middle, figure.lowest), (middle, figure.highest)], INK)
            });
            chart.draw_series(whiskers).unwrap();
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.filled())
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .draw()
            .unwrap();
        root.present().unwrap();
    }

    /// The bars of the series at this place: left end, right end and figure.
    fn bars(&self, place: usize) -> Vec<(f64, f64, Figure)> {
        let width = FILLED / float(self.series.len());
        let figures = self.series[place].1.iter().enumerate();
        figures
            .filter_map(|(group, figure)| {
                let left = float(group) - FILLED / 2.0 + float(place) * width;
                figure.map(|figure| (left, left + width * WIDTH, figure))
            })
            .collect()
    }

    /// The name of the group with its middle here.
    fn group_at(&self, place: f64) -> String {
        let group =
            (0..).zip(self.groups).find(|(number, _)| (float(*number) - place).abs() < 0.01);
        group.map(|(_, group)| group.clone()).unwrap_or_default()
    }
}
