//! `millpond query --histogram`: how many lines there are over time, by level.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use millpond_logfile::{Histogram, HistogramBucket, Level, Query, QueryProgress, Reader};
use serde_json::{Map, Value, json};

use crate::Run;
use crate::args::Settings;
use crate::commands::query::conclude;
use crate::flags::{Color, QueryFlags};
use crate::outcome::Outcome;
use crate::print::hits::{level_style, local_time};
use crate::print::progress::Progress;
use crate::print::table::Table;
use crate::print::{self, BOLD, DIM, PLAIN, columns, stdout};
use crate::units::{format_duration, human_count, utc};

/// As many bars as a screen shows, where nobody says how long one is.
const BARS_MAX: u64 = 40;
const COLUMNS_DEFAULT: usize = 80;
const SECOND_NS: u64 = 1_000_000_000;

/// What is drawn alike: the gravest first, as they stand in a bar; a letter where there is no colour.
const PARTS: [(&[Level], char, &str); 4] = [
    (&[Level::Fatal, Level::Error], 'E', "error"),
    (&[Level::Warn], 'W', "warn"),
    (&[Level::Info], '=', "info"),
    (&[Level::Debug, Level::Trace], '.', "debug"),
];

pub(crate) fn run(reader: &Reader, query: &Query, flags: &QueryFlags, settings: &Settings) -> Run {
    let query_progress = Arc::new(QueryProgress::default());
    let query = &query.clone().progress(&query_progress);
    let progress = Progress::of_query(&query_progress);
    let bucket_ns = match flags.bucket {
        Some(bucket) => u64::try_from(bucket.as_nanos()).unwrap_or(u64::MAX),
        None => match reader.time_span(query)? {
            Some((first_ns, last_ns)) => Histogram::bucket_ns_for(last_ns - first_ns, BARS_MAX),
            None => SECOND_NS,
        },
    };
    let histogram = reader.histogram(query, bucket_ns)?;
    progress.finish();
    let mut out = stdout(settings.color);
    let zone = match flags.utc {
        true => TimeZone::UTC,
        false => TimeZone::system(),
    };
    if settings.json {
        writeln!(out, "{}", to_json(&histogram))?;
    } else if io::stdout().is_terminal() || settings.color == Color::Always {
        let coloured = print::is_coloured(settings.color);
        draw(
            &histogram,
            &zone,
            columns(COLUMNS_DEFAULT),
            coloured,
            &mut out,
        )?;
    } else {
        numbers(&histogram, &zone).print(&mut out)?;
    }
    out.flush()?;
    let outcome = conclude(&histogram.report, reader, settings)?;
    Ok(match histogram.buckets.is_empty() {
        true => Outcome::Nothing,
        false => outcome,
    })
}

/// Every bucket from the first to the last: those without lines, too.
fn rows(histogram: &Histogram) -> Vec<(u64, Option<&HistogramBucket>)> {
    let mut rows = Vec::new();
    for bucket in &histogram.buckets {
        while let Some(&(last_ns, _)) = rows.last()
            && last_ns + histogram.bucket_ns < bucket.start_ns
        {
            rows.push((last_ns + histogram.bucket_ns, None));
        }
        rows.push((bucket.start_ns, Some(bucket)));
    }
    rows
}

/// For programs: a header, then a row per bucket.
fn numbers(histogram: &Histogram, zone: &TimeZone) -> Table {
    let mut table = Table::new(&[
        "time", "lines", "fatal", "error", "warn", "info", "debug", "trace",
    ]);
    for (start_ns, bucket) in rows(histogram) {
        let levels = Level::ALL.into_iter().rev();
        let counts = levels.map(|level| bucket.map_or(0, |bucket| bucket.level(level)));
        let mut row = vec![
            local_time(start_ns, zone).unwrap_or_else(|| utc(start_ns)),
            bucket.map_or(0, HistogramBucket::total).to_string(),
        ];
        row.extend(counts.map(|count| count.to_string()));
        table.row(row);
    }
    table
}

fn to_json(histogram: &Histogram) -> Value {
    let levels = |bucket: &HistogramBucket| -> Map<String, Value> {
        Level::ALL
            .into_iter()
            .map(|level| (level.name().to_owned(), bucket.level(level).into()))
            .collect()
    };
    let buckets: Vec<Value> = histogram
        .buckets
        .iter()
        .map(|bucket| {
            json!({
                "time": utc(bucket.start_ns),
                "time_ns": bucket.start_ns,
                "total": bucket.total(),
                "levels": levels(bucket),
            })
        })
        .collect();
    json!({
        "version": 1,
        "bucket_ns": histogram.bucket_ns,
        "total": histogram.report.matched,
        "buckets": buckets,
    })
}

/// How a time is written beside its bar: what the bars do not share.
fn label_form(histogram: &Histogram, zone: &TimeZone) -> &'static str {
    let date = |time_ns: u64| {
        let time = Timestamp::from_nanosecond(time_ns.into()).ok()?;
        Some(time.to_zoned(zone.clone()).date())
    };
    let (first, last) = (histogram.buckets.first(), histogram.buckets.last());
    let day = |bucket: Option<&HistogramBucket>| bucket.and_then(|bucket| date(bucket.start_ns));
    match histogram.bucket_ns {
        bucket_ns if bucket_ns.is_multiple_of(86_400 * SECOND_NS) => "%Y-%m-%d",
        bucket_ns if bucket_ns.is_multiple_of(60 * SECOND_NS) => match day(first) == day(last) {
            true => "%H:%M",
            false => "%m-%d %H:%M",
        },
        bucket_ns if bucket_ns.is_multiple_of(SECOND_NS) => match day(first) == day(last) {
            true => "%H:%M:%S",
            false => "%m-%d %H:%M:%S",
        },
        bucket_ns if bucket_ns.is_multiple_of(1_000_000) => "%H:%M:%S%.3f",
        _ => "%H:%M:%S%.6f",
    }
}

/// For people: a bar per bucket, its parts by level.
fn draw(
    histogram: &Histogram,
    zone: &TimeZone,
    columns: usize,
    coloured: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let form = label_form(histogram, zone);
    let label = |time_ns: u64| match Timestamp::from_nanosecond(time_ns.into()) {
        Ok(time) => time.to_zoned(zone.clone()).strftime(form).to_string(),
        Err(_) => utc(time_ns),
    };
    let Some(first) = histogram.buckets.first() else {
        return Ok(());
    };
    let styled = |style: Style| if coloured { style } else { PLAIN };
    let (bold, dim) = (styled(BOLD), styled(DIM));
    let length = std::time::Duration::from_nanos(histogram.bucket_ns);
    write!(
        out,
        "{bold}{} lines{bold:#} {dim}from {}, {} a bar{dim:#}",
        histogram.report.matched,
        local_time(first.start_ns, zone)
            .unwrap_or_else(|| utc(first.start_ns))
            .get(..19)
            .unwrap_or_default(),
        format_duration(length)
    )?;
    writeln!(out)?;
    for (number, (levels, letter, name)) in PARTS.into_iter().enumerate() {
        let style = styled(level_style(levels[0]));
        let cell = cell(letter, coloured);
        let gap = if number == 0 { "" } else { "  " };
        write!(out, "{gap}{style}{cell}{style:#} {name}")?;
    }
    writeln!(out)?;
    let rows = rows(histogram);
    let label_width = label(first.start_ns).chars().count();
    let count_width = rows
        .iter()
        .map(|(_, bucket)| count_text(*bucket).chars().count())
        .max()
        .unwrap_or(1);
    let bar_width = columns.saturating_sub(label_width + count_width + 2).max(1);
    let most = histogram
        .buckets
        .iter()
        .map(HistogramBucket::total)
        .max()
        .unwrap_or(1);
    for (start_ns, bucket) in rows {
        let count = count_text(bucket);
        write!(out, "{dim}{}{dim:#} {count:>count_width$}", label(start_ns))?;
        if let Some(bucket) = bucket {
            write!(out, " ")?;
            let parts =
                PARTS.map(|(levels, ..)| levels.iter().map(|&level| bucket.level(level)).sum());
            for ((levels, letter, _), cells) in PARTS.into_iter().zip(cells(parts, most, bar_width))
            {
                if cells > 0 {
                    let style = styled(level_style(levels[0]));
                    let bar: String = std::iter::repeat_n(cell(letter, coloured), cells).collect();
                    write!(out, "{style}{bar}{style:#}")?;
                }
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn cell(letter: char, coloured: bool) -> char {
    if coloured { '█' } else { letter }
}

fn count_text(bucket: Option<&HistogramBucket>) -> String {
    bucket.map_or_else(
        || "0".to_owned(),
        |bucket| human_count(bucket.total() as f64),
    )
}

/// How many cells of a bar each part takes. What is there at all is seen: a part has at least a cell, at the cost of
/// the largest one.
fn cells(parts: [u64; 4], most: u64, bar_width: usize) -> [usize; 4] {
    let total: u64 = parts.iter().sum();
    let share =
        |count: u64| (count as f64 / most.max(1) as f64 * bar_width as f64).round() as usize;
    let present = parts.iter().filter(|&&count| count > 0).count();
    let bar = share(total).max(present).min(bar_width);
    let mut cells = parts.map(|count| share(count).max(usize::from(count > 0)));
    // Rounding: the largest part gives or takes.
    let largest = (0..parts.len())
        .max_by_key(|&part| parts[part])
        .unwrap_or(0);
    let others: usize = cells.iter().sum::<usize>() - cells[largest];
    cells[largest] = bar.saturating_sub(others).max(usize::from(total > 0));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fit_their_width_and_show_every_part() {
        for width in [10, 23, 60] {
            for parts in [
                [0, 0, 0, 0],
                [1, 0, 0, 0],
                [1, 1, 100_000, 3],
                [500, 500, 0, 0],
                [1, 2, 3, 4],
            ] {
                let total = parts.iter().sum::<u64>();
                let cells = cells(parts, 100_005.max(total), width);
                assert!(cells.iter().sum::<usize>() <= width, "{parts:?} {cells:?}");
                for (count, cells) in parts.into_iter().zip(cells) {
                    assert_eq!(count > 0, cells > 0, "{parts:?} {cells}");
                }
            }
        }
        assert_eq!(cells([0, 0, 50, 50], 100, 60), [0, 0, 30, 30]);
    }
}
