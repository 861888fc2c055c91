//! The first lines of `stats`: the totals.

use std::io::{self, Write};

use millpond_bus::{SourceStats, Stats};

use super::problems::{rough, wrap};
use crate::print::{BOLD, GREEN, RED, YELLOW};
use crate::units::{human_count, human_size};

/// What is published and what became of it, who consumes, and how much memory it takes, within `width` columns.
pub(super) fn print(stats: &Stats, width: usize, out: &mut dyn Write) -> io::Result<()> {
    let sum = |of: fn(&SourceStats) -> u64| {
        let sources = stats.sources.iter().map(of);
        sources.fold(0, u64::saturating_add)
    };
    let shown = |of: fn(&SourceStats) -> u64| human_count(sum(of) as f64);
    let lost = sum(|source| source.dropped.total().saturating_add(source.rejected));
    let (style, lost) = match lost {
        0 => (GREEN, "0 lost".to_owned()),
        count => (RED, format!("{} LOST", human_count(count as f64))),
    };
    wrap(out, "bus      ", BOLD, &stats.bus, width)?;
    let events = format!(
        "{} published, {style}{lost}{style:#}, {} in flight, {} delivered",
        shown(|source| source.published),
        shown(|source| source.in_flight),
        shown(|source| source.delivered),
    );
    wrap(out, "events   ", BOLD, &events, width)?;
    let log = format!(
        "{} written, {} coalesced, {} suppressed",
        shown(|source| source.written),
        shown(|source| source.coalesced),
        shown(|source| source.suppressed),
    );
    wrap(out, "log      ", BOLD, &log, width)?;
    let consumer = match &stats.consumer {
        Some(consumer) if consumer.alive => {
            let since_ns = stats.time_ns.saturating_sub(consumer.started_ns);
            // The reason why it is io_uring or not is for `doctor`.
            let backend = consumer.backend.split(' ').next().unwrap_or_default();
            format!(
                "process {}, for {}, {backend}, logs {}",
                consumer.pid,
                rough(since_ns),
                consumer.logs_dir
            )
        }
        _ => format!("{YELLOW}none{YELLOW:#}"),
    };
    wrap(out, "consumer ", BOLD, &consumer, width)?;
    let memory = format!(
        "{} lanes, {} of {}; {} subscribers",
        stats.lanes.len(),
        human_size(stats.lanes_bytes),
        human_size(stats.lanes_bytes_limit),
        stats.subscribers.len(),
    );
    wrap(out, "memory   ", BOLD, &memory, width)
}
