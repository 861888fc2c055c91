//! How cost grows: where it leaves its least, and a picture.

use millpond_loadgen::plot::{self, Plot};

use super::verdict::{lost, trouble};
use super::words::{TIME, Unit, three, unit, varied, varied_value};
use super::works::{Curve, Series, spread, value};
use crate::row::{Figure, Row, Spread};

/// A cost of so many times its least is where a curve is said to rise.
const KNEE: f64 = 1.5;
/// What names of plots begin with.
pub(super) const PLOT_PREFIX: &str = "growth-";
/// What there is room for beside a plot.
const NAME_CHARS: usize = 30;
/// More lines than this in one plot cannot be told apart.
const SERIES_MAX: usize = 6;

/// What an event, a question or a byte costs, whatever the rows are about.
fn cost_of(figure: Figure, value: f64) -> f64 {
    match figure.is_better_high() {
        true => 1e9 / value,
        false => value,
    }
}

/// What [`cost_of`] is in.
fn cost_unit(figure: Figure) -> Unit {
    match figure.is_better_high() {
        true => TIME,
        false => unit(figure),
    }
}

/// In words.
pub(super) fn cost_words(figure: Figure) -> &'static str {
    match figure {
        Figure::Rate => "time per event at the rate that was reached",
        Figure::Cost => "time of an event",
        Figure::Latency => "median latency",
        Figure::Time => "time of the whole",
        Figure::Bandwidth => "time per byte at the rate that was reached",
    }
}

fn cost(row: &Row) -> Option<Spread> {
    let of = |value: f64| cost_of(row.figure, value);
    let spread = spread(row)?;
    let (one, other) = (of(spread.min), of(spread.max));
    Some(Spread {
        median: of(spread.median),
        min: one.min(other),
        max: one.max(other),
    })
    .filter(|cost| cost.median.is_finite())
}

/// What stands in the table at this place of the curve.
pub(super) fn cell(row: &Row) -> String {
    match cost(row) {
        Some(spread) => cost_unit(row.figure).spread(spread),
        None => trouble(row).unwrap_or_else(|| "-".to_owned()),
    }
}

/// The values that any of the series has, in order.
pub(super) fn values(curve: &Curve<'_>) -> Vec<u64> {
    let points = curve.series.iter().flat_map(|series| &series.points);
    let mut values: Vec<u64> = points.map(|row| value(row)).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// What each series is called: by what tells them apart.
pub(super) fn names(curve: &Curve<'_>) -> Vec<String> {
    let all_are = |of: &dyn Fn(&Series<'_>) -> String| {
        let mut names = curve.series.iter().map(of);
        let first = names.next();
        names.all(|name| Some(name) == first)
    };
    let same_words = all_are(&|series| series.words.to_owned());
    let same_peer = all_are(&|series| series.peer.to_owned());
    let name = |series: &Series<'_>| match (same_words, same_peer) {
        (true, _) => series.peer.to_owned(),
        (false, true) => series.words.to_owned(),
        (false, false) => format!("{}: {}", series.peer, series.words),
    };
    curve.series.iter().map(name).collect()
}

/// The work of all series, where it is the same: their names do not say it then.
pub(super) fn only_work<'r>(curve: &Curve<'r>) -> Option<&'r str> {
    let mut works = curve.series.iter().map(|series| series.words);
    let first = works.next()?;
    works.all(|work| work == first).then_some(first)
}

/// A sentence on each series: where its cost first leaves its least.
pub(super) fn sentences(curve: &Curve<'_>) -> Vec<String> {
    let mut said = Vec::new();
    for (series, name) in curve.series.iter().zip(names(curve)) {
        said.push(format!("{name}: {}.", knee(curve, series)));
        for row in &series.points {
            let at = varied(curve.name, value(row));
            said.extend(lost(row).map(|lost| format!("{name} at {at} lost {lost}.")));
            said.extend(trouble(row).map(|trouble| format!("{name} at {at} {trouble}.")));
        }
    }
    said
}

fn knee(curve: &Curve<'_>, series: &Series<'_>) -> String {
    let points = series.points.iter();
    let points: Vec<(u64, f64)> = points
        .filter_map(|row| Some((value(row), cost(row)?.median)))
        .collect();
    let text = |cost: f64| cost_unit(curve.figure).text(cost);
    let at = |value: u64| varied(curve.name, value);
    let least = points
        .iter()
        .min_by(|(_, one), (_, other)| one.total_cmp(other));
    let (Some(&(least_at, least)), Some(&(last, last_cost))) = (least, points.last()) else {
        return "nothing was measured".to_owned();
    };
    if points.len() < 2 {
        return format!("{} at {}, the only point", text(last_cost), at(last));
    }
    // A cost that only falls towards its least has no knee there.
    let mut above = points
        .iter()
        .filter(|&&(value, cost)| value > least_at && cost > KNEE * least);
    match above.next() {
        None => {
            let behind = points.iter().filter(|&&(value, _)| value >= least_at);
            let most = behind.map(|&(_, cost)| cost).fold(least, f64::max);
            format!(
                "no knee up to {}, {} there; from the least ({} at {}) on it is at most {}x that",
                at(last),
                text(last_cost),
                text(least),
                at(least_at),
                // Never less than it was.
                three((most / least * 100.0).ceil() / 100.0)
            )
        }
        Some(&(knee_at, knee_cost)) => {
            let mut words = format!(
                "knee at {}, {}, which is {}x its least ({} at {})",
                at(knee_at),
                text(knee_cost),
                three(knee_cost / least),
                text(least),
                at(least_at)
            );
            if knee_at != last {
                words += &format!(
                    "; at {} it is {}, {}x",
                    at(last),
                    text(last_cost),
                    three(last_cost / least)
                );
            }
            words
        }
    }
}

/// Name of the file and picture. Several where there are too many lines for one: then one for each work.
pub(super) fn plots(part: &str, curve: &Curve<'_>) -> Vec<(String, String)> {
    let stem = format!(
        "{PLOT_PREFIX}{}-{}-{}",
        slug(part),
        slug(curve.name),
        slug(curve.figure.unit())
    );
    let names = names(curve);
    if curve.series.len() <= SERIES_MAX {
        let all: Vec<_> = curve.series.iter().zip(&names).collect();
        return vec![(format!("{stem}.svg"), picture(part, curve, &all))];
    }
    let mut works: Vec<&str> = Vec::new();
    for series in &curve.series {
        if !works.contains(&series.words) {
            works.push(series.words);
        }
    }
    let mut plots = Vec::new();
    for (number, words) in works.into_iter().enumerate() {
        let of_work = curve.series.iter().zip(&names);
        let of_work: Vec<_> = of_work
            .filter(|(series, _)| series.words == words)
            .collect();
        plots.push((
            format!("{stem}-{}.svg", number + 1),
            picture(part, curve, &of_work),
        ));
    }
    plots
}

fn picture(part: &str, curve: &Curve<'_>, series: &[(&Series<'_>, &String)]) -> String {
    let lines: Vec<plot::Series> = series
        .iter()
        .map(|(series, name)| {
            let points = series.points.iter();
            plot::Series {
                name: cut(name, NAME_CHARS),
                points: points
                    .filter_map(|row| Some((value(row) as f64, cost(row)?.median)))
                    .collect(),
            }
        })
        .collect();
    let title = format!("{part} by {}", curve.name);
    let plot = Plot {
        title: &title,
        x_name: curve.name,
        y_name: cost_words(curve.figure),
        series: &lines,
    };
    plot.svg(&|x| varied_value(curve.name, x as u64), &|y| {
        cost_unit(curve.figure).text(y)
    })
}

/// Takes what does not fit out of the middle.
pub(super) fn cut(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let head: String = text.chars().take(kept.div_ceil(2)).collect();
    let tail: String = text.chars().skip(length - kept / 2).collect();
    format!("{head}…{tail}")
}

/// Text as a part of a file's name, or of a link.
pub(super) fn slug(text: &str) -> String {
    let kept = text.chars().map(|character| match character {
        kept if kept.is_ascii_alphanumeric() => kept.to_ascii_lowercase(),
        _ => '-',
    });
    let slug: String = kept.collect();
    let words = slug.split('-').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}
