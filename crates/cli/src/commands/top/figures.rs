//! What the daemon says of its own work, as shared memory has it. The only place that knows how it is stored there.

use std::time::Duration;

use millpond_bus::{ConsumerFigures, Histogram, ServiceStats, Stats};

use super::table::{Column, Kind, Row, Table, Tone, Value, column};

/// What rates and spreads of the daemon are over: a second may have one group, or none.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

pub(super) const COLUMNS: &[Column] = &[
    column("figure", "daemon", Kind::Text(24), 0),
    column("per_s", "/s", Kind::Number, 2),
    column("p50", "p50", Kind::Number, 1),
    column("p90", "p90", Kind::Number, 3),
    column("p99", "p99", Kind::Number, 1),
    column("mean", "mean", Kind::Number, 4),
    column("ever", "ever", Kind::Number, 2),
    column("p50_ever", "p50 ever", Kind::Number, 5),
    column("p99_ever", "p99 ever", Kind::Number, 5),
];

/// The figures of a bus; `None` where no daemon has said any.
pub(super) fn of(stats: &Stats) -> Option<&ConsumerFigures> {
    stats.consumer.as_ref().map(|consumer| &consumer.figures)
}

/// Of the last minute, for the head of the screen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Brief {
    /// Percentile 50 and 99 of a write, in seconds; `None` where nothing was written.
    pub(super) write_seconds: Option<(f64, f64)>,
    pub(super) sync_seconds: Option<(f64, f64)>,
    /// Events in a group of the log, percentile 50 and 99.
    pub(super) group_events: Option<(u64, u64)>,
    /// Events in a consolidated record, percentile 50 and 99.
    pub(super) batch_events: Option<(u64, u64)>,
    /// Percent of one core.
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory_bytes: u64,
    pub(super) disk: Option<Disk>,
    pub(super) failures: u64,
}

/// The log on the disk, against what it may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Disk {
    pub(super) bytes: u64,
    pub(super) bytes_limit: Option<u64>,
    pub(super) free_bytes: u64,
    pub(super) keep_free_bytes: u64,
}

/// `then`: an earlier reading, and how many seconds ago it was.
pub(super) fn brief(now: &ConsumerFigures, then: Option<(&ConsumerFigures, f64)>) -> Brief {
    let recent = |of: fn(&ConsumerFigures) -> &Histogram| match then {
        Some((then, _)) => of(now).since(of(then)),
        None => of(now).clone(),
    };
    let seconds = |spread: &Histogram| {
        let at = |percent| spread.percentile(percent) as f64 / 1e9;
        (spread.count > 0).then(|| (at(50.0), at(99.0)))
    };
    let counts = |spread: &Histogram| {
        (spread.count > 0).then(|| (spread.percentile(50.0), spread.percentile(99.0)))
    };
    let used = then.and_then(|(then, seconds)| {
        // Of another process it is a new count.
        let used_ns = now.cpu_ns.checked_sub(then.cpu_ns)?;
        (seconds > 0.0 && now.cpu_ns > 0).then(|| used_ns as f64 / 1e7 / seconds)
    });
    Brief {
        write_seconds: seconds(&recent(|of| &of.write_ns)),
        sync_seconds: seconds(&recent(|of| &of.sync_ns)),
        group_events: counts(&recent(|of| &of.group_events)),
        batch_events: counts(&recent(|of| &of.batch_events)),
        cpu_percent: used,
        memory_bytes: now.memory_bytes,
        disk: now.disk.map(|disk| Disk {
            bytes: disk.bytes,
            bytes_limit: disk.bytes_limit,
            free_bytes: disk.free_bytes,
            keep_free_bytes: disk.keep_free_bytes,
        }),
        failures: now.upkeep.write_failures,
    }
}

/// Everything, a figure a row.
pub(super) fn table(now: Option<&ConsumerFigures>, then: Option<(&ConsumerFigures, f64)>) -> Table {
    let mut table = Table {
        columns: COLUMNS,
        rows: Vec::new(),
    };
    let Some(now) = now else {
        return table;
    };
    let seconds: fn(f64) -> Value = |ns| Value::Seconds(ns / 1e9);
    let count: fn(f64) -> Value = |number| Value::Count(number.round() as u64);
    let bytes: fn(f64) -> Value = |number| Value::Bytes(number.round() as u64);
    type Of = fn(&ConsumerFigures) -> &Histogram;
    type Shown = fn(f64) -> Value;
    let spreads: [(&str, Of, Shown); 6] = [
        ("write", |of| &of.write_ns, seconds),
        ("sync", |of| &of.sync_ns, seconds),
        ("line to log", |of| &of.commit_delay_ns, seconds),
        ("group, events", |of| &of.group_events, count),
        ("group, text", |of| &of.group_bytes, bytes),
        ("batch, events", |of| &of.batch_events, count),
    ];
    for (name, of, shown) in spreads {
        let ever = of(now);
        let recent = then.map(|(then, seconds)| (ever.since(of(then)), seconds));
        let at = |spread: Option<&Histogram>, percent: f64| {
            let spread = spread.filter(|spread| spread.count > 0);
            Value::number(
                spread.map(|spread| spread.percentile(percent) as f64),
                shown,
            )
        };
        let late = recent.as_ref().map(|(spread, _)| spread);
        let per_second = recent.as_ref().filter(|(_, seconds)| *seconds > 0.0);
        let mean = late.filter(|spread| spread.count > 0).map(Histogram::mean);
        table.rows.push(Row {
            cells: vec![
                Value::text(name),
                Value::number(
                    per_second.map(|(spread, seconds)| spread.count as f64 / seconds),
                    Value::Rate,
                ),
                at(late, 50.0),
                at(late, 90.0),
                at(late, 99.0),
                Value::number(mean, shown),
                Value::Count(ever.count),
                at(Some(ever), 50.0),
                at(Some(ever), 99.0),
            ],
            tone: Tone::Plain,
        });
    }
    let upkeep = &now.upkeep;
    let before = then.map(|(then, seconds)| (then.upkeep, seconds));
    type Counted = fn(&millpond_bus::UpkeepFigures) -> u64;
    let counted: [(&str, Counted, Shown, Tone); 6] = [
        ("failed writes", |of| of.write_failures, count, Tone::Bad),
        ("failed seals", |of| of.seal_failures, count, Tone::Warn),
        (
            "sealed segments",
            |of| of.sealed_segments,
            count,
            Tone::Plain,
        ),
        (
            "sealed, saved",
            |of| of.sealed_saved_bytes,
            bytes,
            Tone::Plain,
        ),
        (
            "removed segments",
            |of| of.trimmed_segments,
            count,
            Tone::Plain,
        ),
        ("removed, bytes", |of| of.trimmed_bytes, bytes, Tone::Plain),
    ];
    for (name, of, shown, tone) in counted {
        let ever = of(upkeep);
        let recent = before.filter(|(_, seconds)| *seconds > 0.0);
        let per_second =
            recent.map(|(then, seconds)| ever.saturating_sub(of(&then)) as f64 / seconds);
        let mut cells = vec![Value::Missing; COLUMNS.len()];
        cells[0] = Value::text(name);
        cells[1] = Value::number(per_second, Value::Rate);
        cells[6] = shown(ever as f64);
        let is_now = per_second.is_some_and(|rate| rate > 0.0);
        table.rows.push(Row {
            cells,
            tone: if is_now { tone } else { Tone::Plain },
        });
    }
    table
}

/// What the files of a service occupy, and its own limit on that.
pub(super) fn disk_of_service(service: &ServiceStats) -> (Option<u64>, Option<u64>) {
    let disk = service.disk.as_ref();
    (
        disk.map(|disk| disk.bytes),
        disk.and_then(|disk| disk.bytes_limit),
    )
}
