//! Lines by time and level.
//!
//! A block that matches as a whole and lies within one bucket is counted by its index entry; of the others the lines
//! are read. Chunks are taken from one queue by as many threads as pay, each counts into buckets of its own, and
//! these are added up in the end.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::plan::{Plan, SIFTED_SERVICES, Stream, new_streams, sift_ahead};
use super::scan::{Chunk, Scanner};
use super::{Histogram, HistogramBucket, QueryReport};
use crate::error::Error;
use crate::index::IndexEntry;
use crate::level::Level;
use crate::time::{NS_PER_SECOND, format_time};

/// More threads than this wait for the memory, not for the processor.
const THREADS_MAX: usize = 8;
const MINUTE_NS: u64 = 60 * NS_PER_SECOND;
const HOUR_NS: u64 = 60 * MINUTE_NS;
const DAY_NS: u64 = 24 * HOUR_NS;
/// Lengths of buckets that people can read, in ns.
const NICE_NS: [u64; 26] = [
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    NS_PER_SECOND,
    2 * NS_PER_SECOND,
    5 * NS_PER_SECOND,
    10 * NS_PER_SECOND,
    30 * NS_PER_SECOND,
    MINUTE_NS,
    2 * MINUTE_NS,
    5 * MINUTE_NS,
    10 * MINUTE_NS,
    30 * MINUTE_NS,
    HOUR_NS,
    2 * HOUR_NS,
    6 * HOUR_NS,
    12 * HOUR_NS,
    DAY_NS,
    7 * DAY_NS,
    28 * DAY_NS,
    364 * DAY_NS,
    3640 * DAY_NS,
    36_400 * DAY_NS,
];

type LevelCounts = [u64; Level::COUNT];

impl Histogram {
    /// The shortest length of a bucket, in ns, out of those that people can read (1 s, 10 s, 1 min, ..), with which
    /// a stretch of time takes at most `buckets_max` buckets wherever it begins.
    ///
    /// ```
    /// let minute_ns = 60_000_000_000;
    /// assert_eq!(millpond_logfile::Histogram::bucket_ns_for(60 * minute_ns, 40), 2 * minute_ns);
    /// ```
    pub fn bucket_ns_for(span_ns: u64, buckets_max: u64) -> u64 {
        let fits = |&bucket_ns: &u64| span_ns / bucket_ns + 2 <= buckets_max.max(2);
        NICE_NS.into_iter().find(fits).unwrap_or(u64::MAX)
    }
}

/// What is counted, and how it is asked whether the index alone will do.
pub(super) trait Count: Send {
    /// Counts a block that matches as a whole, if its lines need not be read for that.
    fn block(&mut self, entry: &IndexEntry, counts: &LevelCounts) -> Result<bool, Error>;
    /// Counts a line.
    fn line(&mut self, time_ns: u64, level: Level) -> Result<(), Error>;
    /// Another thread's part.
    fn add(&mut self, other: Self) -> Result<(), Error>;
}

/// The earliest and the latest time.
#[derive(Debug, Clone, Default)]
pub(super) struct Span {
    pub(super) times: Option<(u64, u64)>,
}

impl Span {
    fn extend(&mut self, first_ns: u64, last_ns: u64) {
        let (first, last) = self.times.unwrap_or((first_ns, last_ns));
        self.times = Some((first.min(first_ns), last.max(last_ns)));
    }
}

impl Count for Span {
    fn block(&mut self, entry: &IndexEntry, counts: &LevelCounts) -> Result<bool, Error> {
        // The times are those of all its lines: they may be of another level than was asked for.
        let is_all = counts.iter().sum::<u64>() == entry.line_count();
        if is_all {
            self.extend(entry.time_min_ns(), entry.time_max_ns());
        }
        Ok(is_all)
    }

    fn line(&mut self, time_ns: u64, _level: Level) -> Result<(), Error> {
        self.extend(time_ns, time_ns);
        Ok(())
    }

    fn add(&mut self, other: Self) -> Result<(), Error> {
        if let Some((first_ns, last_ns)) = other.times {
            self.extend(first_ns, last_ns);
        }
        Ok(())
    }
}

/// Buckets that hold lines, by number: time divided by length.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    bucket_ns: u64,
    counts: BTreeMap<u64, LevelCounts>,
    /// The bucket of the line before, which is mostly that of the next one too.
    last: Option<(u64, LevelCounts)>,
}

impl Buckets {
    pub(super) fn new(bucket_ns: u64) -> Self {
        Buckets {
            bucket_ns,
            counts: BTreeMap::new(),
            last: None,
        }
    }

    fn add_to(&mut self, number: u64, counts: &LevelCounts) -> Result<(), Error> {
        let sums = self.counts.entry(number).or_default();
        sums.iter_mut()
            .zip(counts)
            .for_each(|(sum, count)| *sum += count);
        let first = self.counts.keys().next().copied().unwrap_or(number);
        let last = self.counts.keys().next_back().copied().unwrap_or(number);
        let buckets = last - first + 1;
        if buckets <= Histogram::BUCKETS_MAX {
            return Ok(());
        }
        let time = |number: u64| {
            String::from_utf8_lossy(&format_time(number * self.bucket_ns)).into_owned()
        };
        let suggested_ns = Histogram::bucket_ns_for(
            (last - first).saturating_mul(self.bucket_ns),
            Histogram::BUCKETS_MAX,
        );
        Err(Error::invalid(format!(
            "a histogram from {} to {} in buckets of {} has {buckets} or more buckets, and the limit is {}: use \
             buckets of {} or more, or a shorter time",
            time(first),
            time(last),
            duration(self.bucket_ns),
            Histogram::BUCKETS_MAX,
            duration(suggested_ns)
        )))
    }

    fn settle(&mut self) -> Result<(), Error> {
        match self.last.take() {
            Some((number, counts)) => self.add_to(number, &counts),
            None => Ok(()),
        }
    }

    pub(super) fn into_histogram(mut self, report: QueryReport) -> Result<Histogram, Error> {
        self.settle()?;
        let bucket_ns = self.bucket_ns;
        let buckets: Vec<HistogramBucket> = self
            .counts
            .into_iter()
            .map(|(number, by_level)| HistogramBucket {
                start_ns: number * bucket_ns,
                by_level,
            })
            .collect();
        let mut histogram = Histogram {
            bucket_ns,
            buckets,
            report,
        };
        histogram.report.matched = histogram.buckets.iter().map(HistogramBucket::total).sum();
        Ok(histogram)
    }
}

impl Count for Buckets {
    fn block(&mut self, entry: &IndexEntry, counts: &LevelCounts) -> Result<bool, Error> {
        let number = entry.time_min_ns() / self.bucket_ns;
        if number != entry.time_max_ns() / self.bucket_ns {
            return Ok(false);
        }
        self.add_to(number, counts)?;
        Ok(true)
    }

    fn line(&mut self, time_ns: u64, level: Level) -> Result<(), Error> {
        let number = time_ns / self.bucket_ns;
        if self.last.is_none_or(|(last, _)| last != number) {
            self.settle()?;
        }
        let (_, counts) = self.last.get_or_insert((number, LevelCounts::default()));
        counts[level as usize] += 1;
        Ok(())
    }

    fn add(&mut self, mut other: Self) -> Result<(), Error> {
        self.settle()?;
        other.settle()?;
        for (number, counts) in &other.counts {
            self.add_to(*number, counts)?;
        }
        Ok(())
    }
}

/// A length of time in the largest unit that leaves no rest.
fn duration(ns: u64) -> String {
    let units = [
        (DAY_NS, "d"),
        (HOUR_NS, "h"),
        (MINUTE_NS, "m"),
        (NS_PER_SECOND, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    match units
        .into_iter()
        .find(|&(unit, _)| ns >= unit && ns.is_multiple_of(unit))
    {
        Some((unit, name)) => format!("{}{name}", ns / unit),
        None => format!("{ns} ns"),
    }
}

/// The chunks of all services, one service after the other: whoever counts takes the next one.
struct Queue<'q> {
    plan: &'q Plan,
    logs_dir: &'q Path,
    services: std::slice::Chunks<'q, &'q str>,
    streams: VecDeque<Stream>,
    report: QueryReport,
}

impl Queue<'_> {
    fn next(&mut self) -> Result<Option<Chunk>, Error> {
        loop {
            if let Some(stream) = self.streams.front_mut() {
                if let Some(chunk) = stream.next_chunk(self.plan, &mut self.report) {
                    return Ok(Some(chunk));
                }
                self.streams.pop_front();
                continue;
            }
            let Some(services) = self.services.next() else {
                return Ok(None);
            };
            let mut streams = new_streams(self.logs_dir, services, self.plan)?;
            sift_ahead(&mut streams, self.plan, &mut self.report);
            self.streams = streams.into();
        }
    }
}

/// Counts every line that matches, of every service, in no order.
pub(super) fn count<C: Count + Clone>(
    logs_dir: &Path,
    services: &[&str],
    plan: &Plan,
    scanner: Scanner,
    mut total: C,
) -> Result<(C, QueryReport), Error> {
    let queue = Mutex::new(Queue {
        plan,
        logs_dir,
        services: services.chunks(SIFTED_SERVICES),
        streams: VecDeque::new(),
        report: QueryReport::default(),
    });
    let helpers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX)
        - 1;
    let part = total.clone();
    let counted = thread::scope(|scope| {
        let workers: Vec<_> = (0..helpers)
            .map(|_| {
                let (queue, scanner, part) = (&queue, scanner.twin(), part.clone());
                scope.spawn(move || work(queue, scanner, part))
            })
            .collect();
        let mine = work(&queue, scanner, part.clone());
        let mut parts = vec![mine];
        for worker in workers {
            match worker.join() {
                Ok(part) => parts.push(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts
    });
    for part in counted {
        total.add(part?)?;
    }
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut report = queue.report;
    report
        .damage
        .sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
    Ok((total, report))
}

fn work<C: Count>(
    queue: &Mutex<Queue<'_>>,
    mut scanner: Scanner,
    mut counted: C,
) -> Result<C, Error> {
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let chunk = lock().next()?;
        let Some(chunk) = chunk else {
            return Ok(counted);
        };
        // Runs of blocks that have to be read, between those that need not.
        let mut run_start = chunk.blocks.start;
        for number in chunk.blocks.start..=chunk.blocks.end {
            let is_end = number == chunk.blocks.end;
            let is_counted = !is_end
                && match &chunk.segment.blocks[number].entry {
                    Some(entry) => match scanner.filter.tally(entry) {
                        Some(counts) => counted.block(entry, &counts)?,
                        None => false,
                    },
                    None => false,
                };
            if !is_counted && !is_end {
                continue;
            }
            if run_start < number {
                let part = Chunk {
                    blocks: run_start..number,
                    ..chunk.clone()
                };
                let hits = scanner.scan(part);
                for line in 0..hits.len() {
                    counted.line(hits.time_ns(line), hits.hit(line, "").level)?;
                }
                let mut queue = lock();
                queue.report.text_bytes_read += hits.text_bytes_read;
                hits.damage
                    .iter()
                    .for_each(|damage| queue.report.add_damage(damage.clone()));
                drop(queue);
                scanner.buffer = hits.into_buffer().unwrap_or_default();
            }
            run_start = number + 1;
        }
    }
}
