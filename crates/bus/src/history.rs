//! The last hour of each source and service, in intervals of 10 s, in shared memory.
//!
//! An interval holds the *counters* as they were seen last in it, not differences: a consumer that dies in the
//! middle of a store leaves numbers that the next one overwrites, and nothing is added twice or lost. Intervals
//! in which nothing happened are not begun, so a quiet source keeps more than an hour.
//!
//! Ordering pair H1, `begun`: Release by the consumer after the first words of an interval -> Acquire by the
//! reader, who looks again and reads anew where an interval was begun meanwhile.

use std::os::fd::OwnedFd;

use crate::control::Control;
use crate::layout::{HISTORIES_OFFSET, HistoryBlock, INTERVALS_MAX, IntervalSlot, SOURCES_MAX};
use crate::object;
use crate::stats::{ServiceStats, SourceStats, Stats};
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// The length of an interval.
pub(crate) const INTERVAL_NS: u64 = 10_000_000_000;

/// What a source or a service did in one interval, or in several.
///
/// ```
/// use millpond_bus::Interval;
/// let mut sum = Interval { published: 2, lag_bytes_max: 10, ..Interval::default() };
/// sum.add(&Interval { published: 3, lag_bytes_max: 7, ..Interval::default() });
/// assert_eq!((sum.published, sum.lag_bytes_max), (5, 10));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// When it began, real time in ns: a multiple of 10 s.
    pub start_ns: u64,
    /// Events offered by publishers.
    pub published: u64,
    /// Events taken by the consumer and committed.
    pub delivered: u64,
    /// Of these, events in a log file. Of a service: lines, those that the consumer wrote itself included.
    pub written: u64,
    /// Of those delivered, events refused for what they are.
    pub rejected: u64,
    /// Events dropped, for any cause.
    pub dropped: u64,
    /// Of those delivered, events that a later one or an aggregate stands for.
    pub coalesced: u64,
    /// Of those delivered, events that a rate limit or sampling kept out of the log.
    pub suppressed: u64,
    /// Payload bytes delivered. Of a service: bytes of text in its log.
    pub bytes: u64,
    /// The most bytes that waited in one lane.
    pub lag_bytes_max: u64,
}

impl Interval {
    /// Adds the counts; of the lag it keeps the larger. `start_ns` stays.
    pub fn add(&mut self, other: &Interval) {
        for (sum, more) in self.counts_mut().into_iter().zip(other.counts()) {
            *sum = sum.saturating_add(more);
        }
        self.lag_bytes_max = self.lag_bytes_max.max(other.lag_bytes_max);
    }

    fn counts(&self) -> [u64; 8] {
        [
            self.published,
            self.delivered,
            self.written,
            self.rejected,
            self.dropped,
            self.coalesced,
            self.suppressed,
            self.bytes,
        ]
    }

    fn counts_mut(&mut self) -> [&mut u64; 8] {
        [
            &mut self.published,
            &mut self.delivered,
            &mut self.written,
            &mut self.rejected,
            &mut self.dropped,
            &mut self.coalesced,
            &mut self.suppressed,
            &mut self.bytes,
        ]
    }

    /// What happened between `before` and this, both counters.
    fn since(&self, before: &Interval) -> Interval {
        let mut difference = *self;
        for (now, then) in difference.counts_mut().into_iter().zip(before.counts()) {
            // A publisher that was killed while it counted a drop may have counted one too many.
            *now = now.saturating_sub(then);
        }
        difference
    }

    pub(crate) fn of_source(source: &SourceStats) -> Self {
        Interval {
            start_ns: 0,
            published: source.published,
            delivered: source.delivered,
            written: source.written,
            rejected: source.rejected,
            dropped: source.dropped.total(),
            coalesced: source.coalesced,
            suppressed: source.suppressed,
            bytes: source.delivered_bytes,
            lag_bytes_max: 0,
        }
    }

    fn of_service(service: &ServiceStats) -> Self {
        Interval {
            written: service.lines,
            bytes: service.bytes,
            ..Interval::default()
        }
    }
}

/// The history of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHistory {
    /// The publishers' label.
    pub label: String,
    /// Pattern of the rule.
    pub pattern: String,
    /// Intervals in which something happened, in the order in which they were counted.
    pub intervals: Vec<Interval>,
}

/// The history of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHistory {
    /// The service.
    pub name: String,
    /// As [`SourceHistory::intervals`]; only `written` and `bytes` are counted.
    pub intervals: Vec<Interval>,
}

/// What each source and service did in the last hour, by intervals of 10 s.
///
/// Its intervals add up to the counters in [`Stats`], as long as nothing older than an hour has been
/// overwritten. The consumer writes it once a second; what has been counted since, and drops that publishers
/// counted while no consumer ran, stand in the interval in which they are first seen.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, Level};
/// let bus = Bus::attach(&format!("doc-history-{}", std::process::id()), &BusOptions::default())?;
/// let mut publisher = bus.publisher("indexer")?;
/// let topic = publisher.topic("data:users:created")?;
/// publisher.publish(topic, Level::Info, b"{}")?;
/// let history = bus.history();
/// assert_eq!(history.sources[0].label, "indexer");
/// assert_eq!(history.sources[0].intervals[0].published, 1);
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// When it was read, real time in ns.
    pub time_ns: u64,
    /// The length of an interval, in ns.
    pub interval_ns: u64,
    /// Sources, in the order of [`Stats::sources`].
    pub sources: Vec<SourceHistory>,
    /// Services, in the order of [`Stats::services`].
    pub services: Vec<ServiceHistory>,
}

/// The sum of the intervals that ended after `since_ns`, real time in ns. `start_ns` is that of the first.
///
/// ```
/// use millpond_bus::{Interval, sum_since};
/// let at = |start_ns, published| Interval { start_ns, published, ..Interval::default() };
/// let intervals = [at(0, 5), at(10_000_000_000, 7)];
/// assert_eq!(sum_since(&intervals, 15_000_000_000).published, 7);
/// ```
pub fn sum_since(intervals: &[Interval], since_ns: u64) -> Interval {
    let mut sum = Interval::default();
    let late = |interval: &&Interval| interval.start_ns.saturating_add(INTERVAL_NS) > since_ns;
    for (index, interval) in intervals.iter().filter(late).enumerate() {
        if index == 0 {
            sum.start_ns = interval.start_ns;
        }
        sum.add(interval);
    }
    sum
}

impl History {
    pub(crate) fn read(control: &Control) -> Self {
        // Blocks first: the counters are not older than what they say.
        let mut stored: Vec<_> = (0..control.histories.len())
            .map(|index| read_block(control, index))
            .collect();
        let stats = Stats::read(control);
        let services = stored.split_off(SOURCES_MAX);
        let now_ns = stats.time_ns;
        let nothing = Stored::default();
        let sources = stats.sources.iter().enumerate().map(|(index, source)| {
            let counters = Interval::of_source(source);
            let stored = stored.get(index).unwrap_or(&nothing);
            SourceHistory {
                label: source.label.clone(),
                pattern: source.pattern.clone(),
                intervals: stored.up_to(&counters, now_ns),
            }
        });
        let services = stats.services.iter().zip(&services);
        let services = services.map(|(service, stored)| ServiceHistory {
            name: service.name.clone(),
            intervals: stored.up_to(&Interval::of_service(service), now_ns),
        });
        History {
            time_ns: now_ns,
            interval_ns: INTERVAL_NS,
            sources: sources.collect(),
            services: services.collect(),
        }
    }
}

/// A block as it was read: differences, and the counters that the last one stands for.
#[derive(Debug, Default)]
struct Stored {
    intervals: Vec<Interval>,
    last: Interval,
}

impl Stored {
    /// The intervals, with what has been counted since the consumer wrote the last one.
    fn up_to(&self, counters: &Interval, now_ns: u64) -> Vec<Interval> {
        let mut intervals = self.intervals.clone();
        let mut rest = counters.since(&self.last);
        if rest.counts() != [0; 8] {
            rest.start_ns = now_ns - now_ns % INTERVAL_NS;
            match intervals.last_mut() {
                Some(last) if last.start_ns == rest.start_ns => last.add(&rest),
                _ => intervals.push(rest),
            }
        }
        intervals
    }
}

fn read_block(control: &Control, index: usize) -> Stored {
    // ORDERING: Acquire; the memory was there before the mark.
    let is_allocated = control.history_marks[index]
        .allocated
        .load(Ordering::Acquire)
        == 1;
    match is_allocated {
        true => read_intervals(&control.histories[index]),
        false => Stored::default(),
    }
}

/// So often an hour is read anew that changes while it is read.
const READS_MAX: u32 = 1000;

fn read_intervals(block: &HistoryBlock) -> Stored {
    let mut tries = READS_MAX;
    loop {
        // ORDERING: Acquire (H1).
        let begun = block.begun.load(Ordering::Acquire);
        // The consumer may be at work on the place behind the newest: that one is left out.
        let kept = begun.min(INTERVALS_MAX as u64 - 1);
        let counters: Vec<Interval> = (begun - kept..begun)
            .map(|number| block.intervals[number as usize % INTERVALS_MAX].load())
            .collect();
        // ORDERING: Acquire fence; the copies above come before the second look.
        fence(Ordering::Acquire);
        // ORDERING: Relaxed; ordered by the fence.
        if block.begun.load(Ordering::Relaxed) != begun && tries > 0 {
            // An interval is begun every 10 s. Only a member that writes there without end comes here again and again.
            tries -= 1;
            continue;
        }
        // What lies before has been overwritten: the oldest that is left is only there to count from.
        let first = counters.first().filter(|_| begun > kept).copied();
        let mut before = first.unwrap_or_default();
        let mut intervals = Vec::with_capacity(counters.len());
        for now in &counters[usize::from(first.is_some())..] {
            intervals.push(now.since(&before));
            before = *now;
        }
        return Stored {
            intervals,
            last: before,
        };
    }
}

impl IntervalSlot {
    fn words(&self) -> [&AtomicU64; 8] {
        [
            &self.published,
            &self.delivered,
            &self.written,
            &self.rejected,
            &self.dropped,
            &self.coalesced,
            &self.suppressed,
            &self.bytes,
        ]
    }

    fn load(&self) -> Interval {
        // ORDERING: Relaxed throughout; after the Acquire of `begun` (H1). Newer words of the running interval
        // are as good.
        let mut interval = Interval {
            start_ns: start_ns(self.number.load(Ordering::Relaxed)),
            lag_bytes_max: self.lag_bytes_max.load(Ordering::Relaxed).into(),
            ..Interval::default()
        };
        for (count, word) in interval.counts_mut().into_iter().zip(self.words()) {
            // ORDERING: Relaxed; as above.
            *count = word.load(Ordering::Relaxed);
        }
        interval
    }

    fn store(&self, number: u32, counters: &Interval, lag_bytes_max: u32) {
        // ORDERING: Relaxed throughout; a new interval is published by the Release of `begun` (H1).
        self.number.store(number, Ordering::Relaxed);
        self.lag_bytes_max.store(lag_bytes_max, Ordering::Relaxed);
        for (word, count) in self.words().into_iter().zip(counters.counts()) {
            // ORDERING: Relaxed; as above.
            word.store(count, Ordering::Relaxed);
        }
    }
}

/// Consumer only: notes the counters of source or service `index` as they are at `now_ns`. `descriptor` is one of
/// the control segment.
///
/// Costs some 20 loads and stores; the first time of each source one system call and the clearing of 28 KiB.
/// Where shared memory is full then, it has no history yet.
pub(crate) fn record(
    control: &Control,
    descriptor: &OwnedFd,
    index: usize,
    counters: &Interval,
    now_ns: u64,
) {
    let mark = &control.history_marks[index].allocated;
    // ORDERING: Relaxed; the consumer is the only writer.
    if mark.load(Ordering::Relaxed) != 1 {
        let name = object::control_name(&control.bus);
        let offset = HISTORIES_OFFSET + index * size_of::<HistoryBlock>();
        if object::allocate(descriptor, &name, offset, size_of::<HistoryBlock>()).is_err() {
            return;
        }
        // ORDERING: Release; the memory before the mark.
        mark.store(1, Ordering::Release);
    }
    record_in(&control.histories[index], counters, now_ns);
}

/// When the interval of this number starts; the numbers that a clock gives all fit.
fn start_ns(number: u32) -> u64 {
    u64::from(number).saturating_mul(INTERVAL_NS)
}

fn record_in(block: &HistoryBlock, counters: &Interval, now_ns: u64) {
    let number = (now_ns / INTERVAL_NS) as u32;
    let lag_bytes = counters.lag_bytes_max.min(u32::MAX.into()) as u32;
    // ORDERING: Relaxed; the consumer is the only writer.
    let begun = block.begun.load(Ordering::Relaxed);
    let slot = |begun: u64| &block.intervals[begun as usize % INTERVALS_MAX];
    let last = match begun {
        0 => Interval::default(),
        _ => slot(begun - 1).load(),
    };
    if last.counts() == counters.counts() && lag_bytes == 0 {
        return;
    }
    // Any other number, also a lower one: clocks are set back, and an hour must not be lost to that.
    if begun > 0 && last.start_ns == start_ns(number) {
        let lag_bytes = lag_bytes.max(last.lag_bytes_max as u32);
        slot(begun - 1).store(number, counters, lag_bytes);
        return;
    }
    // ORDERING: Release fence. Whoever sees a word of the overwritten interval change sees, when it looks
    // again, that others were begun before.
    fence(Ordering::Release);
    slot(begun).store(number, counters, lag_bytes);
    // ORDERING: Release (H1).
    block.begun.store(begun.wrapping_add(1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Pinned, Region};

    fn block() -> Pinned<HistoryBlock> {
        let region = Region::heap(size_of::<HistoryBlock>()).expect("heap");
        region.pin(0).expect("it fits")
    }

    fn counters(published: u64) -> Interval {
        Interval {
            published,
            bytes: 10 * published,
            ..Interval::default()
        }
    }

    fn published(stored: &Stored) -> Vec<(u64, u64)> {
        let of = |interval: &Interval| (interval.start_ns / INTERVAL_NS, interval.published);
        stored.intervals.iter().map(of).collect()
    }

    #[test]
    fn intervals_are_differences_and_quiet_ones_are_missing() {
        let block = block();
        record_in(&block, &counters(0), 5 * INTERVAL_NS);
        record_in(&block, &counters(3), 5 * INTERVAL_NS + 1);
        record_in(&block, &counters(4), 6 * INTERVAL_NS - 1);
        record_in(&block, &counters(4), 6 * INTERVAL_NS);
        record_in(&block, &counters(9), 8 * INTERVAL_NS);
        let stored = read_intervals(&block);
        assert_eq!(published(&stored), [(5, 4), (8, 5)]);
        assert_eq!(stored.last.bytes, 90);
        // Counted since: in the interval of the reading.
        let now = stored.up_to(&counters(11), 8 * INTERVAL_NS + 5);
        assert_eq!(now.last().map(|last| last.published), Some(7));
        let later = stored.up_to(&counters(11), 9 * INTERVAL_NS + 5);
        assert_eq!(later.last().map(|last| last.published), Some(2));
        assert_eq!(sum_since(&later, 9 * INTERVAL_NS).published, 2);
        assert_eq!(sum_since(&later, 0).published, 11);
    }

    #[test]
    fn an_hour_is_kept_and_the_sum_stays_right_when_it_wraps() {
        let block = block();
        for number in 1..=1000 {
            record_in(&block, &counters(number * number), number * INTERVAL_NS);
        }
        let stored = read_intervals(&block);
        assert_eq!(stored.intervals.len(), 360);
        let sum = sum_since(&stored.intervals, 0);
        assert_eq!(sum.published, 1000 * 1000 - 640 * 640);
        assert_eq!(published(&stored)[0], (641, 641 * 641 - 640 * 640));
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let block = block();
        record_in(&block, &counters(1), 500 * INTERVAL_NS);
        record_in(&block, &counters(3), 100 * INTERVAL_NS);
        record_in(&block, &counters(6), 101 * INTERVAL_NS);
        let stored = read_intervals(&block);
        assert_eq!(published(&stored), [(500, 1), (100, 2), (101, 3)]);
    }

    #[test]
    fn lag_keeps_an_interval_even_when_nothing_moves() {
        let block = block();
        let stuck = |lag_bytes_max| Interval {
            lag_bytes_max,
            ..counters(5)
        };
        record_in(&block, &stuck(10), INTERVAL_NS);
        record_in(&block, &stuck(7), INTERVAL_NS);
        record_in(&block, &stuck(8), 2 * INTERVAL_NS);
        let lags: Vec<u64> = read_intervals(&block)
            .intervals
            .iter()
            .map(|interval| interval.lag_bytes_max)
            .collect();
        assert_eq!(lags, [10, 8]);
    }
}
