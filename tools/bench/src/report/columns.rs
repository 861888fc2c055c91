//! What is told of those who did a piece of work, column by column.

use super::verdict::trouble;
use super::words::{TIME, number, ratio, three, unit};
use super::works::{Side, Work, side, spread};
use crate::row::{Figure, LatencyNs, Round, Row, Spread};

/// Columns in the order in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Who,
    Median,
    Range,
    Ratio,
    P50,
    P99,
    P999,
    Max,
    Cpu,
    Memory,
    Disk,
    Lost,
    Promises,
    Version,
}

impl Column {
    const ALL: [Column; 14] = [
        Column::Who,
        Column::Median,
        Column::Range,
        Column::Ratio,
        Column::P50,
        Column::P99,
        Column::P999,
        Column::Max,
        Column::Cpu,
        Column::Memory,
        Column::Disk,
        Column::Lost,
        Column::Promises,
        Column::Version,
    ];

    /// Those that say something of this work.
    pub(super) fn of(work: &Work<'_>) -> Vec<Column> {
        let says = |column: &Column| {
            let is_needed = matches!(column, Column::Who | Column::Median | Column::Lost);
            let is_twice = work.figure == Figure::Latency && *column == Column::P50;
            let mut cells = work.rows.iter().map(|row| column.cell(work, row));
            is_needed || (!is_twice && cells.any(|cell| !cell.is_empty()))
        };
        Self::ALL.into_iter().filter(says).collect()
    }

    /// Its head.
    pub(super) fn title(self, figure: Figure) -> &'static str {
        match self {
            Column::Who => "who",
            Column::Median => "median",
            Column::Range => "range",
            Column::Ratio => "vs millpond",
            Column::P50 => "p50",
            Column::P99 => "p99",
            Column::P999 => "p99.9",
            Column::Max => "max",
            Column::Cpu => match figure {
                Figure::Bandwidth => "CPU s/GB",
                Figure::Time => "CPU ms",
                _ => "CPU s/M",
            },
            Column::Memory => "MiB",
            Column::Disk => match figure {
                Figure::Bandwidth => "disk B/B",
                Figure::Time => "disk MB",
                _ => "disk B/event",
            },
            Column::Lost => "lost",
            Column::Promises => "promises",
            Column::Version => "version",
        }
    }

    /// Whether it holds words and no figures.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Column::Who | Column::Promises | Column::Version)
    }

    /// What it says of a row; nothing where there is nothing to say.
    pub(super) fn cell(self, work: &Work<'_>, row: &Row) -> String {
        let spread = spread(row);
        let latency = |of: fn(&LatencyNs) -> u64| {
            let figures = row.rounds.iter().filter_map(|round| round.latency_ns);
            let spread = Spread::of(figures.map(|latency| of(&latency) as f64).collect());
            spread.map_or(String::new(), |spread| TIME.text(spread.median))
        };
        let median = |of: &dyn Fn(&Round) -> Option<f64>| {
            let spread = Spread::of(row.rounds.iter().filter_map(of).collect());
            spread.map_or(String::new(), |spread| three(spread.median))
        };
        match self {
            Column::Who if row.is_floor => format!("{} (floor)", row.peer),
            Column::Who => row.peer.clone(),
            Column::Median => spread.map_or_else(
                || trouble(row).unwrap_or_else(|| "-".to_owned()),
                |spread| unit(row.figure).text(spread.median),
            ),
            Column::Range => spread
                .filter(|_| row.rounds.len() > 1)
                .map_or(String::new(), |spread| unit(row.figure).range(spread)),
            Column::Ratio => {
                let is_reference = work.reference.is_some_and(|of| std::ptr::eq(of, row));
                match work.ratio(row).filter(|_| spread.is_some()) {
                    Some(_) if is_reference => "1".to_owned(),
                    Some(factor) => ratio(factor),
                    None => String::new(),
                }
            }
            Column::P50 => latency(|latency| latency.p50),
            Column::P99 => latency(|latency| latency.p99),
            Column::P999 => latency(|latency| latency.p999),
            // The greatest of all rounds: a median of greatest ones would hide it.
            Column::Max => {
                let latencies = row.rounds.iter().filter_map(|round| round.latency_ns);
                let max = latencies.map(|latency| latency.max).max();
                max.map_or(String::new(), |max| TIME.text(max as f64))
            }
            Column::Cpu => median(&|round| {
                let events = round.events.max(1) as f64;
                match work.figure {
                    Figure::Bandwidth => Some(round.cpu_seconds * 1e9 / events),
                    Figure::Time => Some(round.cpu_seconds * 1e3),
                    _ => Some(round.cpu_seconds * 1e6 / events),
                }
                // Floors that are not asked for it have none.
                .filter(|&cpu| cpu > 0.0)
            }),
            Column::Memory => {
                median(&|round| Some(round.memory_bytes? as f64 / f64::from(1 << 20)))
            }
            Column::Disk => median(&|round| {
                let bytes = round.disk_bytes? as f64;
                Some(match work.figure {
                    Figure::Time => bytes / 1e6,
                    _ => bytes / round.events.max(1) as f64,
                })
            }),
            Column::Lost => match super::verdict::lost(row) {
                Some(lost) => lost,
                None if row.rounds.is_empty() => String::new(),
                None => number(0),
            },
            // What is measured to know how far there is to go promises nothing, and neither does a question.
            Column::Promises if side(row) == Side::Floor || work.figure == Figure::Time => {
                String::new()
            }
            Column::Promises => row.guarantees.to_string(),
            Column::Version => row.version.clone(),
        }
    }
}
