//! Counting without reading: whole blocks are counted from the index.

use super::filter::Filter;
use super::segment::{Run, Service};
use super::{Query, QueryReport};
use crate::error::Error;
use crate::index::IndexEntry;
use crate::level::Level;

/// Lines of the answer, by service and level.
///
/// ```
/// let counts = millpond_logfile::Counts::default();
/// assert_eq!(counts.total(), 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Each service with its counts by level number, sorted by name.
    pub services: Vec<(String, [u64; Level::COUNT])>,
}

impl Counts {
    /// All lines.
    pub fn total(&self) -> u64 {
        self.services.iter().flat_map(|(_, levels)| levels).sum()
    }

    /// Lines of one level, over all services.
    pub fn of_level(&self, level: Level) -> u64 {
        self.services
            .iter()
            .map(|(_, levels)| levels[level as usize])
            .sum()
    }
}

pub(super) fn run(
    services: &[Service],
    query: &Query,
    report: &mut QueryReport,
) -> Result<Counts, Error> {
    let filter = Filter::new(query);
    let mut counts = Counts::default();
    for service in services {
        let levels = count_service(service, query, &filter, report)?;
        report.matched += levels.iter().sum::<u64>();
        counts.services.push((service.name.clone(), levels));
    }
    Ok(counts)
}

fn count_service(
    service: &Service,
    query: &Query,
    filter: &Filter<'_>,
    report: &mut QueryReport,
) -> Result<[u64; Level::COUNT], Error> {
    let mut levels = [0; Level::COUNT];
    let by_line = filter.has_text() || !query.sources.is_empty();
    let mut text = Vec::new();
    for segment in &service.segments {
        for run in segment.block_runs()? {
            let at = segment
                .blocks
                .partition_point(|entry| entry.offset() < run.offset);
            let entry = segment
                .blocks
                .get(at)
                .filter(|entry| entry.offset() == run.offset);
            if let Some(entry) = entry
                && !by_line
                && is_within(entry, query)
            {
                add_entry(&mut levels, entry, query);
            } else {
                count_lines(&mut levels, segment, run, filter, &mut text, report)?;
            }
        }
    }
    Ok(levels)
}

fn is_within(entry: &IndexEntry, query: &Query) -> bool {
    query
        .since_ns
        .is_none_or(|since| entry.time_min_ns() >= since)
        && query
            .until_ns
            .is_none_or(|until| entry.time_max_ns() < until)
}

fn add_entry(levels: &mut [u64; Level::COUNT], entry: &IndexEntry, query: &Query) {
    for level in Level::ALL {
        if query.levels.contains(level) {
            levels[level as usize] += entry.level_count(level);
        }
    }
}

fn count_lines(
    levels: &mut [u64; Level::COUNT],
    segment: &super::segment::Segment,
    run: Run,
    filter: &Filter<'_>,
    text: &mut Vec<u8>,
    report: &mut QueryReport,
) -> Result<(), Error> {
    segment.read(run, text)?;
    report.text_bytes_read += text.len() as u64;
    report.damage.extend(segment.checksum_damage(run, text));
    filter.each_match(text, |_, _, line| {
        levels[line.level as usize] += 1;
        true
    });
    Ok(())
}
