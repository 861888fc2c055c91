//! The run as SVG: strips over one axis of time, with a mark for each fault.

use std::fmt::Write;

use super::faults::Played;
use super::samples::Sample;
use crate::plot::{COLOURS, escaped};

const WIDTH: f64 = 980.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 58.0;
const STRIP: f64 = 96.0;
const GAP: f64 = 34.0;
const POINTS_MAX: usize = 900;
const MIB: f64 = (1 << 20) as f64;

struct Strip<'a> {
    name: &'a str,
    value: &'a dyn Fn(&Sample, Option<&Sample>) -> Option<f64>,
}

/// What has no process to be of has no value.
fn alive(sample: &Sample, value: f64) -> Option<f64> {
    (sample.handles > 0).then_some(value)
}

/// The picture.
pub(super) fn svg(samples: &[Sample], faults: &[Played], title: &str) -> String {
    let strips = [
        Strip {
            name: "memory of the consumer's process, its own (MiB)",
            value: &|sample, _| alive(sample, sample.anonymous_bytes as f64 / MIB),
        },
        Strip {
            name: "file handles of the consumer's process",
            value: &|sample, _| alive(sample, sample.handles as f64),
        },
        Strip {
            name: "objects of the bus in shared memory",
            value: &|sample, _| Some(sample.objects as f64),
        },
        Strip {
            name: "lag: committed and not yet taken, all lanes (KiB)",
            value: &|sample, _| Some(sample.lag_bytes as f64 / 1024.0),
        },
        Strip {
            name: "disk of the log (MiB)",
            value: &|sample, _| Some(sample.log_bytes as f64 / MIB),
        },
        Strip {
            name: "events published in a second",
            value: &|sample, before| {
                let before = before?;
                let seconds = sample.time_s - before.time_s;
                let events = sample.published.saturating_sub(before.published) as f64;
                (seconds > 0.0).then_some(events / seconds)
            },
        },
    ];
    let end_s = samples.last().map_or(1.0, |sample| sample.time_s).max(1.0);
    let width = WIDTH - LEFT - RIGHT;
    let height = TOP + strips.len() as f64 * (STRIP + GAP) + 30.0;
    let x_of = |time_s: f64| LEFT + width * (time_s / end_s).min(1.0);
    let bottom = height - GAP - 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#666\">A mark for each fault; red: the consumer was killed or \
         stopped.</text>\n",
        escaped(title)
    );
    // Writing to a String cannot fail.
    for (colour, is_of_consumer) in [("#bbb", false), (COLOURS[2], true)] {
        let mut marks = String::new();
        for fault in faults {
            if fault.fault.is_of_consumer() == is_of_consumer {
                let _ = write!(marks, "M{:.1} {:.0}v6", x_of(fault.time_s), TOP - 12.0);
            }
        }
        let _ = writeln!(
            svg,
            "<path d=\"{marks}\" stroke=\"{colour}\" stroke-width=\"0.8\"/>"
        );
    }
    let step_s = [5.0, 15.0, 60.0, 300.0, 600.0, 1800.0]
        .into_iter()
        .find(|step| end_s / step <= 12.0)
        .unwrap_or(3600.0);
    let mut time_s = 0.0;
    while time_s <= end_s {
        let x = x_of(time_s);
        let text = match step_s >= 60.0 {
            true => format!("{} min", (time_s / 60.0).round()),
            false => format!("{time_s} s"),
        };
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{bottom:.1}\" stroke=\"#eee\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
            bottom + 16.0
        );
        time_s += step_s;
    }
    for (index, strip) in strips.iter().enumerate() {
        let top = TOP + index as f64 * (STRIP + GAP);
        let values: Vec<_> = samples
            .iter()
            .enumerate()
            .map(|(at, sample)| {
                let before = at.checked_sub(1).and_then(|before| samples.get(before));
                (sample, (strip.value)(sample, before))
            })
            .collect();
        let high = values
            .iter()
            .filter_map(|(_, value)| *value)
            .fold(0.0, f64::max);
        let high = round_up(high);
        let y_of = |value: f64| top + STRIP * (1.0 - value / high);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>\
             <path d=\"M{LEFT} {top:.1}V{:.1}H{:.1}\" fill=\"none\" stroke=\"#888\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{high}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">0</text>",
            top - 5.0,
            escaped(strip.name),
            top + STRIP,
            LEFT + width,
            LEFT - 6.0,
            top + 8.0,
            LEFT - 6.0,
            top + STRIP
        );
        // A line for each consumer: where there is none, there is none. Of more looks than the picture has points
        // for, the highest of each few.
        let few = samples.len().div_ceil(POINTS_MAX).max(1);
        let mut path = String::new();
        let mut last = None;
        for values in values.chunks(few) {
            let highest = values
                .iter()
                .filter_map(|&(sample, value)| Some((sample, value?)))
                .max_by(|(_, one), (_, other)| one.total_cmp(other));
            match highest {
                Some((sample, value)) => {
                    let word = if last == Some(sample.consumer) {
                        'L'
                    } else {
                        'M'
                    };
                    let _ = write!(path, "{word}{:.1} {:.1}", x_of(sample.time_s), y_of(value));
                    last = Some(sample.consumer);
                }
                None => last = None,
            }
        }
        let colour = COLOURS[0];
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1\"/>"
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round number that is not below.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * decade >= value);
    step.unwrap_or(10.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strip_is_drawn() {
        let samples: Vec<_> = (0..5)
            .map(|number| Sample {
                time_s: f64::from(number),
                handles: 1,
                ..Sample::default()
            })
            .collect();
        let svg = svg(&samples, &[], "a < b");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("stroke-width=\"1\"").count(), 6);
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("a &lt; b"));
        assert_eq!([0.0, 7.1, 42.0].map(round_up), [1.0, 8.0, 50.0]);
    }
}
