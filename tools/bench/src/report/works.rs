//! Rows put in order: a part has pieces of work, each with those who did it, and curves.

use crate::row::{Figure, Row, Spread};

/// What is special about a peer whose publisher and reader are threads of one process.
const IN_PROCESS: &str = ", in process";

/// A kind of work.
pub(super) struct PartOf<'r> {
    pub(super) name: &'r str,
    pub(super) works: Vec<Work<'r>>,
    pub(super) curves: Vec<Curve<'r>>,
}

/// One piece of it.
pub(super) struct Work<'r> {
    pub(super) words: &'r str,
    pub(super) figure: Figure,
    /// The best first; those without a figure last.
    pub(super) rows: Vec<&'r Row>,
    /// What ratios are to: the first row of millpond that was given, not its best, which may be another one next time.
    pub(super) reference: Option<&'r Row>,
}

/// How the cost of some grows with one thing.
pub(super) struct Curve<'r> {
    /// What it grows with.
    pub(super) name: &'r str,
    pub(super) figure: Figure,
    pub(super) series: Vec<Series<'r>>,
}

/// Of one peer and work.
pub(super) struct Series<'r> {
    pub(super) words: &'r str,
    pub(super) peer: &'r str,
    /// From the least of what varies to the most.
    pub(super) points: Vec<&'r Row>,
}

/// Who a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Millpond,
    Other,
    /// Threads of one process: no crash, no second process, and nothing that millpond could be replaced with.
    InProcess,
    Floor,
}

pub(super) fn side(row: &Row) -> Side {
    match row {
        row if row.is_floor => Side::Floor,
        row if row.peer.contains(IN_PROCESS) => Side::InProcess,
        row if row.peer == "millpond" || row.peer.starts_with("millpond,") => Side::Millpond,
        row if row.peer.starts_with("millpond ") => Side::Millpond,
        _ => Side::Other,
    }
}

/// Its spread, where there is one that means something.
pub(super) fn spread(row: &Row) -> Option<Spread> {
    row.spread().filter(|spread| spread.median.is_finite())
}

/// How good a figure is: more is better.
fn goodness(figure: Figure, value: f64) -> f64 {
    match figure.is_better_high() {
        true => value,
        false => value.recip(),
    }
}

impl Work<'_> {
    /// How many times as good as the reference: of each round the two that were measured one after the other, where both
    /// have as many; the median of that.
    pub(super) fn ratio(&self, row: &Row) -> Option<f64> {
        self.reference
            .and_then(|reference| ratio(row, reference, self.figure))
    }
}

/// How many times as good one is as the other.
pub(super) fn ratio(one: &Row, other: &Row, figure: Figure) -> Option<f64> {
    let of = |row: &Row| -> Vec<f64> {
        let rounds = row.rounds.iter();
        rounds
            .map(|round| goodness(figure, figure.of(round)))
            .collect()
    };
    let (ones, others) = (of(one), of(other));
    let factor = match ones.len() == others.len() {
        true => {
            let pairs = ones.iter().zip(&others);
            Spread::of(pairs.map(|(one, other)| one / other).collect())?.median
        }
        false => Spread::of(ones)?.median / Spread::of(others)?.median,
    };
    Some(factor).filter(|factor| factor.is_finite())
}

/// All rows, parts and their works in the order in which they come first.
pub(super) fn parts(rows: &[Row]) -> Vec<PartOf<'_>> {
    let mut parts: Vec<PartOf<'_>> = Vec::new();
    for row in rows {
        let at = position_or_push(
            &mut parts,
            |part| part.name == row.part,
            || PartOf {
                name: &row.part,
                works: Vec::new(),
                curves: Vec::new(),
            },
        );
        match &row.varied {
            None => add_to_works(&mut parts[at].works, row),
            Some(varied) => add_to_curves(&mut parts[at].curves, row, &varied.name),
        }
    }
    for part in &mut parts {
        for work in &mut part.works {
            let figure = work.figure;
            // Those without a figure are as good as nothing at all.
            let of =
                |row: &&Row| spread(row).map_or(-1.0, |spread| goodness(figure, spread.median));
            work.rows
                .sort_by(|one, other| of(other).total_cmp(&of(one)));
        }
        for series in part.curves.iter_mut().flat_map(|curve| &mut curve.series) {
            series.points.sort_by_key(|row| value(row));
        }
    }
    parts
}

/// How much of what varies.
pub(super) fn value(row: &Row) -> u64 {
    row.varied.as_ref().map_or(0, |varied| varied.value)
}

fn add_to_works<'r>(works: &mut Vec<Work<'r>>, row: &'r Row) {
    let at = position_or_push(
        works,
        |work| (work.words, work.figure) == (row.work.as_str(), row.figure),
        || Work {
            words: &row.work,
            figure: row.figure,
            rows: Vec::new(),
            reference: None,
        },
    );
    let work = &mut works[at];
    work.rows.push(row);
    if work.reference.is_none() && side(row) == Side::Millpond && spread(row).is_some() {
        work.reference = Some(row);
    }
}

fn add_to_curves<'r>(curves: &mut Vec<Curve<'r>>, row: &'r Row, name: &'r str) {
    let at = position_or_push(
        curves,
        |curve| (curve.name, curve.figure) == (name, row.figure),
        || Curve {
            name,
            figure: row.figure,
            series: Vec::new(),
        },
    );
    let series = &mut curves[at].series;
    let at = position_or_push(
        series,
        |series| (series.words, series.peer) == (row.work.as_str(), row.peer.as_str()),
        || Series {
            words: &row.work,
            peer: &row.peer,
            points: Vec::new(),
        },
    );
    series[at].points.push(row);
}

/// Where the one is that is looked for, made at the end where there was none.
fn position_or_push<T>(
    all: &mut Vec<T>,
    is_it: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> usize {
    all.iter().position(is_it).unwrap_or_else(|| {
        all.push(make());
        all.len() - 1
    })
}
