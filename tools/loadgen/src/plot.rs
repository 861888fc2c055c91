//! A plot with logarithmic axes as SVG, by hand: lines, their points, a legend.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
/// What lines are drawn in, in turn: told apart by people who see few colours, too.
pub const COLOURS: [&str; 6] = [
    "#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0", "#00b25d",
];

/// One line of the plot.
///
/// ```
/// let series = millpond_loadgen::plot::Series { name: "millpond".into(), points: vec![(1.0, 2.0), (10.0, 3.0)] };
/// assert_eq!(series.points.len(), 2);
/// ```
pub struct Series {
    /// What it is called in the legend.
    pub name: String,
    /// Its points, x and y, in the order of the line.
    pub points: Vec<(f64, f64)>,
}

/// Both axes are logarithmic; values must be above 0, others are left out.
///
/// ```
/// use millpond_loadgen::plot::{Plot, Series};
/// let series = [Series { name: "cost".into(), points: vec![(1.0, 2.0), (10.0, 3.0)] }];
/// let plot = Plot { title: "growth", x_name: "publishers", y_name: "ns", series: &series };
/// assert!(plot.svg(&|x| x.to_string(), &|y| y.to_string()).starts_with("<svg"));
/// ```
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the x axis, with its unit.
    pub x_name: &'a str,
    /// Beside the y axis, with its unit.
    pub y_name: &'a str,
    /// The lines.
    pub series: &'a [Series],
}

/// A range of whole decades.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let logs = values.filter(|&value| value > 0.0).map(f64::log10);
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for log in logs {
            (low, high) = (low.min(log.floor()), high.max(log.ceil()));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        Axis {
            low,
            high: high.max(low + 1.0),
        }
    }

    /// 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|decade| 10f64.powi(decade))
    }
}

impl Plot<'_> {
    /// The picture as SVG text. `x_text` and `y_text` say the values at the axes.
    pub fn svg(&self, x_text: &dyn Fn(f64) -> String, y_text: &dyn Fn(f64) -> String) -> String {
        let points = || {
            self.series
                .iter()
                .flat_map(|series| series.points.iter().copied())
        };
        let (x_axis, y_axis) = (
            Axis::of(points().map(|(x, _)| x)),
            Axis::of(points().map(|(_, y)| y)),
        );
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let x_of = |x: f64| LEFT + width * x_axis.place(x);
        let y_of = |y: f64| TOP + height * (1.0 - y_axis.place(y));
        let (right, bottom) = (LEFT + width, TOP + height);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escaped(self.title)
        );
        // Writing to a String cannot fail.
        for x in x_axis.decades() {
            let (at, text) = (x_of(x), escaped(&x_text(x)));
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{text}</text>",
                bottom + 18.0
            );
        }
        for y in y_axis.decades() {
            let (at, text) = (y_of(y), escaped(&y_text(y)));
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            LEFT + width / 2.0,
            HEIGHT - 14.0,
            escaped(self.x_name),
            TOP + height / 2.0,
            escaped(self.y_name)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let drawn = series.points.iter().filter(|&&(x, y)| x > 0.0 && y > 0.0);
            let places: Vec<_> = drawn.map(|&(x, y)| (x_of(x), y_of(y))).collect();
            let line: Vec<_> = places
                .iter()
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                line.join(" ")
            );
            for (x, y) in places {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
            let (x, y) = (right + 14.0, TOP + 8.0 + 20.0 * index as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{y}\">{}</text>",
                y - 6.0,
                x + 18.0,
                escaped(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Text that may stand in SVG and HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_drawn_and_named() {
        let series = [
            Series {
                name: "a < b".to_owned(),
                points: vec![(1e6, 2.0), (1e7, 3.0)],
            },
            Series {
                name: "c".to_owned(),
                points: vec![(1e6, 0.0)],
            },
        ];
        let plot = Plot {
            title: "t",
            x_name: "x",
            y_name: "y",
            series: &series,
        };
        let svg = plot.svg(&|x| format!("{x}"), &|y| format!("{y}"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b") && svg.matches("<polyline").count() == 2);
        assert_eq!(svg.matches("<circle").count(), 2, "what is 0 has no place");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
