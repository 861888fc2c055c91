//! What there is to see, made of two looks at the bus: no terminal, no bus, no clock.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use millpond_bus::{
    ConsumerFigures, ConsumerInfo, DropCounts, Interval, LaneStats, SourceStats, Stats,
};

use super::figures::{self, Brief};
use super::reading::Snapshot;
use super::table::{Column, Kind, Row, Sort, Table, Tone, Value, clean, column};
use crate::commands::heartbeat;

/// Parts of the history that are shown at most: forty minutes, on a very wide screen.
const PARTS: usize = 240;
/// A lane that is as full as this is told.
const FULL_PERCENT: f64 = 50.0;

/// The tables, by the keys that show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum View {
    Sources,
    Services,
    Rules,
    Subscribers,
    Gpus,
    Daemon,
}

impl View {
    pub(super) const ALL: [View; 6] = [
        View::Sources,
        View::Services,
        View::Rules,
        View::Subscribers,
        View::Gpus,
        View::Daemon,
    ];

    /// Its word on the screen and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            View::Sources => "sources",
            View::Services => "services",
            View::Rules => "rules",
            View::Subscribers => "subscribers",
            View::Gpus => "gpus",
            View::Daemon => "daemon",
        }
    }

    /// The column that its rows are sorted by, where nobody says.
    fn first_sort(self) -> Option<&'static str> {
        match self {
            View::Sources | View::Rules => Some("published_per_s"),
            View::Services => Some("lines_per_s"),
            View::Subscribers => Some("delivered_per_s"),
            // In the order in which they are made.
            View::Gpus | View::Daemon => None,
        }
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            View::Sources => SOURCES,
            View::Services => SERVICES,
            View::Rules => RULES,
            View::Subscribers => SUBSCRIBERS,
            View::Gpus => GPUS,
            View::Daemon => figures::COLUMNS,
        }
    }

    /// By this column, or by the one that says most.
    pub(super) fn sort(self, key: Option<&str>) -> Option<Sort> {
        let columns = self.columns();
        let find = |key: &str| columns.iter().position(|column| column.key == key);
        let column = match (key, self.first_sort()) {
            (Some(key), _) => find(key)?,
            (None, Some(key)) => find(key)?,
            (None, None) => columns.len(),
        };
        Some(Table::sort_by(columns, column))
    }
}

const SOURCES: &[Column] = &[
    column("source", "source", Kind::Text(28), 0),
    column("rule", "rule", Kind::Text(18), 2),
    column("published_per_s", "in/s", Kind::Number, 1),
    column("history", "last minutes", Kind::Picture, 7),
    column("bytes_per_s", "B/s", Kind::Number, 5),
    column("written_per_s", "log/s", Kind::Number, 6),
    column("lag_bytes", "lag", Kind::Number, 3),
    column("lane_fill_percent", "fill", Kind::Number, 4),
    column("dropped_per_s", "drop/s", Kind::Number, 1),
    column("dropped", "dropped", Kind::Number, 3),
    column("dropped_full", "full", Kind::Number, 8),
    column("dropped_deadline", "late", Kind::Number, 8),
    column("dropped_too_long", "long", Kind::Number, 8),
    column("dropped_other", "other", Kind::Number, 8),
    column("rejected", "refused", Kind::Number, 10),
    column("coalesced_per_s", "merged/s", Kind::Number, 11),
    column("suppressed_per_s", "limited/s", Kind::Number, 11),
    column("in_flight", "waiting", Kind::Number, 12),
    column("lag_bytes_max", "peak lag", Kind::Number, 12),
    column("published", "published", Kind::Number, 13),
    column("lanes", "lanes", Kind::Number, 13),
    column("pid", "process", Kind::Number, 9),
    column("executable", "executable", Kind::Text(32), 9),
];

const SERVICES: &[Column] = &[
    column("service", "service", Kind::Text(28), 0),
    column("lines_per_s", "lines/s", Kind::Number, 1),
    column("history", "last minutes", Kind::Picture, 5),
    column("bytes_per_s", "B/s", Kind::Number, 2),
    column("lines", "lines", Kind::Number, 3),
    column("bytes", "text", Kind::Number, 4),
    column("disk_bytes", "disk", Kind::Number, 2),
    column("disk_bytes_limit", "limit", Kind::Number, 3),
    column("segment_bytes", "open", Kind::Number, 6),
    column("segments", "segments", Kind::Number, 6),
    column("redacted", "redacted", Kind::Number, 7),
];

const RULES: &[Column] = &[
    column("rule", "rule", Kind::Text(28), 0),
    column("delivery", "delivery", Kind::Text(12), 3),
    column("sources", "sources", Kind::Number, 5),
    column("lanes", "lanes", Kind::Number, 6),
    column("published_per_s", "in/s", Kind::Number, 1),
    column("history", "last minutes", Kind::Picture, 7),
    column("bytes_per_s", "B/s", Kind::Number, 6),
    column("lag_bytes", "lag", Kind::Number, 4),
    column("dropped_per_s", "drop/s", Kind::Number, 1),
    column("dropped", "dropped", Kind::Number, 2),
    column("dropped_full", "full", Kind::Number, 3),
    column("dropped_deadline", "late", Kind::Number, 4),
    column("dropped_too_long", "long", Kind::Number, 4),
    column("dropped_other", "other", Kind::Number, 8),
    column("rejected", "refused", Kind::Number, 8),
    column("coalesced_per_s", "merged/s", Kind::Number, 9),
    column("suppressed_per_s", "limited/s", Kind::Number, 9),
    column("published", "published", Kind::Number, 10),
];

const SUBSCRIBERS: &[Column] = &[
    column("subscriber", "subscriber", Kind::Text(28), 0),
    column("pid", "process", Kind::Number, 3),
    column("pattern", "patterns", Kind::Text(48), 5),
    column("delivered_per_s", "got/s", Kind::Number, 1),
    column("filtered_per_s", "not its/s", Kind::Number, 6),
    column("lagged_per_s", "missed/s", Kind::Number, 1),
    column("lagged", "missed", Kind::Number, 2),
    column("wakes_per_s", "wakes/s", Kind::Number, 4),
    column("delivered", "got", Kind::Number, 7),
];

const GPUS: &[Column] = &[
    column("gpu", "gpu", Kind::Text(12), 0),
    column("utilization_percent", "busy", Kind::Number, 1),
    column("memory_used_bytes", "memory", Kind::Number, 1),
    column("memory_total_bytes", "of", Kind::Number, 3),
    column("temperature_celsius", "°C", Kind::Number, 1),
    column("power_watts", "W", Kind::Number, 1),
    column("power_limit_watts", "limit W", Kind::Number, 5),
    column("clock_sm_mhz", "SM MHz", Kind::Number, 4),
    column("clock_memory_mhz", "mem MHz", Kind::Number, 6),
    column("throttled", "throttled", Kind::Text(9), 5),
    column("pcie_rx_bytes_per_s", "PCIe in/s", Kind::Number, 7),
    column("pcie_tx_bytes_per_s", "PCIe out/s", Kind::Number, 7),
    column("ecc_uncorrected", "bad memory", Kind::Number, 8),
    column("processes", "processes", Kind::Number, 6),
    column("age_seconds", "age", Kind::Number, 2),
    column("source", "source", Kind::Text(20), 9),
];

/// What becomes of the events just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Daemon {
    /// None has ever run here.
    Never,
    Runs,
    /// It lives, and has said nothing for a while; the letter of its process.
    Hangs(Option<char>),
    /// It ended in order.
    Stopped,
    /// It ended otherwise.
    Died,
}

/// `sum` of no numbers is -0.
fn total(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, |sum, rate| sum + rate)
}

impl Daemon {
    fn of(consumer: Option<&ConsumerInfo>, time_ns: u64, state: Option<char>) -> Self {
        match consumer {
            None => Daemon::Never,
            Some(consumer) if consumer.is_starting() => Daemon::Runs,
            Some(consumer) if consumer.alive => {
                let age_ns = time_ns.saturating_sub(consumer.heartbeat_ns);
                match heartbeat::is_old(age_ns) {
                    true => Daemon::Hangs(state),
                    false => Daemon::Runs,
                }
            }
            Some(consumer) if consumer.pid == 0 => Daemon::Stopped,
            Some(_) => Daemon::Died,
        }
    }

    /// Its word in JSON.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Daemon::Never => "never",
            Daemon::Runs => "runs",
            Daemon::Hangs(_) => "hangs",
            Daemon::Stopped => "stopped",
            Daemon::Died => "died",
        }
    }
}

/// Sums over the bus. Rates are `None` until there are two looks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) written: u64,
    pub(super) rejected: u64,
    pub(super) dropped: DropCounts,
    pub(super) in_flight: u64,
    pub(super) lag_bytes: u64,
    pub(super) published_per_s: Option<f64>,
    pub(super) delivered_per_s: Option<f64>,
    pub(super) written_per_s: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    pub(super) dropped_per_s: Option<f64>,
    pub(super) rejected_per_s: Option<f64>,
}

/// One look, with what changed since the one before.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) bus: String,
    pub(super) time_ns: u64,
    /// What rates are by.
    pub(super) seconds: Option<f64>,
    pub(super) daemon: Daemon,
    pub(super) consumer: Option<ConsumerInfo>,
    pub(super) lanes: u64,
    pub(super) lanes_quarantined: u64,
    pub(super) lanes_bytes: u64,
    pub(super) lanes_bytes_limit: u64,
    pub(super) totals: Totals,
    /// Published and dropped per second, in parts of 10 s, oldest first.
    pub(super) published_parts: Vec<f64>,
    pub(super) dropped_parts: Vec<f64>,
    pub(super) brief: Option<Brief>,
    /// In the order of [`View::ALL`].
    pub(super) tables: Vec<Table>,
}

impl Model {
    /// `before`: the look before this one, of the same bus; `earlier`: one of about a minute ago.
    pub(super) fn new(
        now: &Snapshot,
        before: Option<&Snapshot>,
        earlier: Option<(&ConsumerFigures, f64)>,
    ) -> Self {
        let before = before.filter(|before| before.identity == now.identity);
        let change = Change::new(now, before);
        let stats = &now.stats;
        let consumer = stats.consumer.as_ref();
        let lag = lag_by_source(&stats.lanes);
        let figures = figures::of(stats);
        let tables = View::ALL.map(|view| match view {
            View::Sources => sources(now, &change, &lag),
            View::Services => services(now, &change),
            View::Rules => rules(now, &change, &lag),
            View::Subscribers => subscribers(stats, &change),
            View::Gpus => gpus(now),
            View::Daemon => figures::table(figures, earlier),
        });
        let parts = |of: fn(&Interval) -> u64| {
            let sources = now.history.sources.iter();
            let intervals = sources.flat_map(|source| &source.intervals);
            parts(intervals, now.history.time_ns, now.history.interval_ns, of)
        };
        Model {
            bus: clean(&stats.bus),
            time_ns: stats.time_ns,
            seconds: change.seconds,
            daemon: Daemon::of(consumer, stats.time_ns, now.process_state),
            consumer: consumer.cloned(),
            lanes: stats.lanes.len() as u64,
            lanes_quarantined: stats.lanes.iter().filter(|lane| lane.quarantined).count() as u64,
            lanes_bytes: stats.lanes_bytes,
            lanes_bytes_limit: stats.lanes_bytes_limit,
            totals: change.totals(stats),
            published_parts: parts(|interval| interval.published),
            dropped_parts: parts(|interval| interval.dropped),
            brief: figures.map(|figures| figures::brief(figures, earlier)),
            tables: tables.into(),
        }
    }

    pub(super) fn table(&self, view: View) -> &Table {
        let index = View::ALL.iter().position(|of| *of == view).unwrap_or(0);
        &self.tables[index]
    }

    /// Whether something was dropped or refused since the last look.
    pub(super) fn is_losing(&self) -> bool {
        let rates = [self.totals.dropped_per_s, self.totals.rejected_per_s];
        rates.into_iter().flatten().any(|rate| rate > 0.0)
    }
}

/// The look before, by what its rows are called.
struct Change<'s> {
    seconds: Option<f64>,
    sources: HashMap<(&'s str, &'s str), &'s SourceStats>,
    services: HashMap<&'s str, (u64, u64)>,
    subscribers: HashMap<(&'s str, u32, &'s str), [u64; 4]>,
}

impl<'s> Change<'s> {
    fn new(now: &Snapshot, before: Option<&'s Snapshot>) -> Self {
        let elapsed = before.map(|before| now.taken.saturating_duration_since(before.taken));
        let seconds = elapsed
            .map(|elapsed| elapsed.as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        let stats = before.map(|before| &before.stats);
        let sources = stats.iter().flat_map(|stats| &stats.sources);
        let services = stats.iter().flat_map(|stats| &stats.services);
        let subscribers = stats.iter().flat_map(|stats| &stats.subscribers);
        Change {
            seconds,
            sources: sources
                .map(|source| ((&*source.label, &*source.pattern), source))
                .collect(),
            services: services
                .map(|service| (&*service.name, (service.lines, service.bytes)))
                .collect(),
            subscribers: subscribers
                .map(|one| {
                    let counts = [one.delivered, one.filtered, one.lagged, one.wakes];
                    ((&*one.label, one.pid, &*one.pattern), counts)
                })
                .collect(),
        }
    }

    /// Per second, since the look before. What was not there then began with 0.
    fn rate<K: Hash + Eq, V: Copy>(
        &self,
        known: &HashMap<K, V>,
        key: &K,
        now: u64,
        of: impl Fn(V) -> u64,
    ) -> Option<f64> {
        let seconds = self.seconds?;
        let before = known.get(key).map_or(0, |value| of(*value));
        // A publisher that was killed while it counted a drop may have counted one too many.
        Some(now.saturating_sub(before) as f64 / seconds)
    }

    fn source(&self, now: &SourceStats, of: fn(&SourceStats) -> u64) -> Option<f64> {
        let key = (&*now.label, &*now.pattern);
        self.rate(&self.sources, &key, of(now), of)
    }

    fn totals(&self, stats: &Stats) -> Totals {
        let mut totals = Totals::default();
        for source in &stats.sources {
            let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
            add(&mut totals.published, source.published);
            add(&mut totals.delivered, source.delivered);
            add(&mut totals.written, source.written);
            add(&mut totals.rejected, source.rejected);
            add(&mut totals.in_flight, source.in_flight);
            add_drops(&mut totals.dropped, &source.dropped);
        }
        totals.lag_bytes =
            (stats.lanes.iter()).fold(0, |sum: u64, lane| sum.saturating_add(lane.lag_bytes));
        let sum = |of: fn(&SourceStats) -> u64| {
            self.seconds?;
            let rates = stats
                .sources
                .iter()
                .filter_map(|source| self.source(source, of));
            Some(total(rates))
        };
        totals.published_per_s = sum(|source| source.published);
        totals.delivered_per_s = sum(|source| source.delivered);
        totals.written_per_s = sum(|source| source.written);
        totals.bytes_per_s = sum(|source| source.delivered_bytes);
        totals.dropped_per_s = sum(|source| source.dropped.total());
        totals.rejected_per_s = sum(|source| source.rejected);
        totals
    }
}

fn add_drops(sum: &mut DropCounts, more: &DropCounts) {
    sum.full = sum.full.saturating_add(more.full);
    sum.deadline = sum.deadline.saturating_add(more.deadline);
    sum.too_long = sum.too_long.saturating_add(more.too_long);
    sum.other = sum.other.saturating_add(more.other);
}

/// What waits in the lanes of a source, and how full the fullest is.
#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    bytes: u64,
    fill_percent: f64,
    is_quarantined: bool,
}

fn lag_by_source(lanes: &[LaneStats]) -> HashMap<(&str, &str), Lag> {
    let mut lags: HashMap<(&str, &str), Lag> = HashMap::new();
    for lane in lanes {
        let lag = lags.entry((&lane.label, &lane.pattern)).or_default();
        lag.bytes = lag.bytes.saturating_add(lane.lag_bytes);
        let fill = 100.0 * lane.lag_bytes as f64 / lane.capacity_bytes.max(1) as f64;
        lag.fill_percent = lag.fill_percent.max(fill.min(100.0));
        lag.is_quarantined |= lane.quarantined;
    }
    lags
}

/// Per second in each part of 10 s until now, oldest first. The last one is as long as it has lasted.
fn parts<'i>(
    intervals: impl Iterator<Item = &'i Interval>,
    time_ns: u64,
    interval_ns: u64,
    of: fn(&Interval) -> u64,
) -> Vec<f64> {
    let last = time_ns / interval_ns;
    let mut sums = [0u64; PARTS];
    for interval in intervals {
        let ago = last.saturating_sub(interval.start_ns / interval_ns);
        if let Some(place) = PARTS.checked_sub(1 + ago as usize)
            && let Some(sum) = sums.get_mut(place)
        {
            *sum = sum.saturating_add(of(interval));
        }
    }
    let whole = interval_ns as f64 / 1e9;
    let begun = ((time_ns % interval_ns) as f64 / 1e9).max(1.0);
    let lengths = std::iter::repeat_n(whole, PARTS - 1).chain([begun]);
    sums.iter()
        .zip(lengths)
        .map(|(&sum, seconds)| sum as f64 / seconds)
        .collect()
}

fn rate(number: Option<f64>) -> Value {
    Value::number(number, Value::Rate)
}

fn bytes_rate(number: Option<f64>) -> Value {
    Value::number(number, Value::BytesRate)
}

/// How bad it is that so much was dropped now, and how full its lane is.
fn tone(dropped_per_s: Option<f64>, lag: &Lag) -> Tone {
    match dropped_per_s {
        Some(rate) if rate > 0.0 => Tone::Bad,
        _ if lag.is_quarantined => Tone::Bad,
        _ if lag.fill_percent > FULL_PERCENT => Tone::Warn,
        _ => Tone::Plain,
    }
}

fn sources(now: &Snapshot, change: &Change<'_>, lags: &HashMap<(&str, &str), Lag>) -> Table {
    let histories: HashMap<(&str, &str), &Vec<Interval>> = (now.history.sources.iter())
        .map(|source| ((&*source.label, &*source.pattern), &source.intervals))
        .collect();
    let row = |source: &SourceStats| {
        let key = (&*source.label, &*source.pattern);
        let lag = lags.get(&key).copied().unwrap_or_default();
        let dropped_per_s = change.source(source, |source| source.dropped.total());
        let published_per_s = change.source(source, |source| source.published);
        let intervals = histories.get(&key).into_iter().flat_map(|all| all.iter());
        let history = parts(
            intervals,
            now.history.time_ns,
            now.history.interval_ns,
            |one| one.published,
        );
        let is_gone = source.lanes_live == 0 && published_per_s.is_none_or(|rate| rate == 0.0);
        let origin = &source.origin;
        Row {
            cells: vec![
                Value::text(&source.label),
                Value::text(&source.pattern),
                rate(published_per_s),
                Value::Picture(history),
                bytes_rate(change.source(source, |source| source.delivered_bytes)),
                rate(change.source(source, |source| source.written)),
                Value::Bytes(lag.bytes),
                Value::Percent(lag.fill_percent),
                rate(dropped_per_s),
                Value::Count(source.dropped.total()),
                Value::Count(source.dropped.full),
                Value::Count(source.dropped.deadline),
                Value::Count(source.dropped.too_long),
                Value::Count(source.dropped.other),
                Value::Count(source.rejected),
                rate(change.source(source, |source| source.coalesced)),
                rate(change.source(source, |source| source.suppressed)),
                Value::Count(source.in_flight),
                Value::Bytes(source.lag_bytes_max),
                Value::Count(source.published),
                Value::Count(source.lanes_live),
                match origin.pid {
                    0 => Value::Missing,
                    pid => Value::Number(pid.into()),
                },
                Value::text(&origin.executable),
            ],
            tone: match tone(dropped_per_s, &lag) {
                Tone::Plain if is_gone => Tone::Quiet,
                tone => tone,
            },
        }
    };
    Table {
        columns: SOURCES,
        rows: now.stats.sources.iter().map(row).collect(),
    }
}

fn services(now: &Snapshot, change: &Change<'_>) -> Table {
    let histories: HashMap<&str, &Vec<Interval>> = (now.history.services.iter())
        .map(|service| (&*service.name, &service.intervals))
        .collect();
    let row = |service: &millpond_bus::ServiceStats| {
        let key = &*service.name;
        let lines = change.rate(&change.services, &key, service.lines, |(lines, _)| lines);
        let bytes = change.rate(&change.services, &key, service.bytes, |(_, bytes)| bytes);
        let intervals = histories.get(key).into_iter().flat_map(|all| all.iter());
        let history = parts(
            intervals,
            now.history.time_ns,
            now.history.interval_ns,
            |one| one.written,
        );
        let (disk, disk_limit) = figures::disk_of_service(service);
        let of_disk = |bytes: Option<u64>| bytes.map_or(Value::Missing, Value::Bytes);
        // Near its quota, old segments of it go.
        let is_near = disk
            .zip(disk_limit)
            .is_some_and(|(disk, limit)| disk > limit);
        Row {
            cells: vec![
                Value::text(&service.name),
                rate(lines),
                Value::Picture(history),
                bytes_rate(bytes),
                Value::Count(service.lines),
                Value::Bytes(service.bytes),
                of_disk(disk),
                of_disk(disk_limit),
                Value::Bytes(service.segment_bytes),
                Value::Count(service.segments),
                Value::Count(service.redacted),
            ],
            tone: if is_near { Tone::Warn } else { Tone::Plain },
        }
    };
    Table {
        columns: SERVICES,
        rows: now.stats.services.iter().map(row).collect(),
    }
}

/// Sources of one rule together.
#[derive(Default)]
struct OfRule<'s> {
    sources: Vec<&'s SourceStats>,
    intervals: Vec<Interval>,
    lag: Lag,
}

fn rules(now: &Snapshot, change: &Change<'_>, lags: &HashMap<(&str, &str), Lag>) -> Table {
    let mut by_rule: BTreeMap<&str, OfRule<'_>> = BTreeMap::new();
    for rule in now.rules.iter() {
        by_rule.entry(rule.pattern.as_str()).or_default();
    }
    for source in &now.stats.sources {
        let of_rule = by_rule.entry(&source.pattern).or_default();
        of_rule.sources.push(source);
    }
    for source in &now.history.sources {
        let of_rule = by_rule.entry(&source.pattern).or_default();
        of_rule.intervals.extend(&source.intervals);
    }
    for ((_, pattern), lag) in lags {
        let sum = &mut by_rule.entry(pattern).or_default().lag;
        sum.bytes = sum.bytes.saturating_add(lag.bytes);
        sum.fill_percent = sum.fill_percent.max(lag.fill_percent);
        sum.is_quarantined |= lag.is_quarantined;
    }
    let row = |(pattern, of_rule): (&str, OfRule<'_>)| {
        let rate_of = |of: fn(&SourceStats) -> u64| {
            change.seconds?;
            let rates = of_rule.sources.iter();
            let rates = rates.filter_map(|source| change.source(source, of));
            Some(total(rates))
        };
        let sum = |of: fn(&SourceStats) -> u64| {
            let counts = of_rule.sources.iter().map(|source| of(source));
            Value::Count(counts.fold(0, u64::saturating_add))
        };
        let mut rules = now.rules.iter();
        let rule = rules.find(|rule| rule.pattern.as_str() == pattern);
        let delivery = match rule {
            Some(rule) if rule.service.is_some() => "log",
            Some(rule) => rule.class.name(),
            None => "gone",
        };
        let dropped_per_s = rate_of(|source| source.dropped.total());
        let (time_ns, interval_ns) = (now.history.time_ns, now.history.interval_ns);
        let history = parts(of_rule.intervals.iter(), time_ns, interval_ns, |one| {
            one.published
        });
        Row {
            cells: vec![
                Value::text(pattern),
                Value::text(delivery),
                Value::Count(of_rule.sources.len() as u64),
                sum(|source| source.lanes_live),
                rate(rate_of(|source| source.published)),
                Value::Picture(history),
                bytes_rate(rate_of(|source| source.delivered_bytes)),
                Value::Bytes(of_rule.lag.bytes),
                rate(dropped_per_s),
                sum(|source| source.dropped.total()),
                sum(|source| source.dropped.full),
                sum(|source| source.dropped.deadline),
                sum(|source| source.dropped.too_long),
                sum(|source| source.dropped.other),
                sum(|source| source.rejected),
                rate(rate_of(|source| source.coalesced)),
                rate(rate_of(|source| source.suppressed)),
                sum(|source| source.published),
            ],
            tone: match tone(dropped_per_s, &of_rule.lag) {
                Tone::Plain if of_rule.sources.is_empty() => Tone::Quiet,
                tone => tone,
            },
        }
    };
    Table {
        columns: RULES,
        rows: by_rule.into_iter().map(row).collect(),
    }
}

fn subscribers(stats: &Stats, change: &Change<'_>) -> Table {
    let row = |one: &millpond_bus::SubscriberStats| {
        let key = (&*one.label, one.pid, &*one.pattern);
        let counts = [one.delivered, one.filtered, one.lagged, one.wakes];
        let per_s = |index: usize| {
            change.rate(&change.subscribers, &key, counts[index], |before| {
                before[index]
            })
        };
        let missed = per_s(2);
        Row {
            cells: vec![
                Value::text(&one.label),
                Value::Number(one.pid.into()),
                Value::text(&one.pattern),
                rate(per_s(0)),
                rate(per_s(1)),
                rate(missed),
                Value::Count(one.lagged),
                rate(per_s(3)),
                Value::Count(one.delivered),
            ],
            tone: match missed {
                Some(rate) if rate > 0.0 => Tone::Bad,
                _ if one.lagged > 0 => Tone::Warn,
                _ => Tone::Plain,
            },
        }
    };
    Table {
        columns: SUBSCRIBERS,
        rows: stats.subscribers.iter().map(row).collect(),
    }
}

/// A GPU of which nothing came for this long.
const GPU_AGE_NS_MAX: u64 = 10_000_000_000;

fn gpus(now: &Snapshot) -> Table {
    let row = |gpu: &super::gpus::Gpu| {
        let of = |name: &str, of: fn(f64) -> Value| Value::number(gpu.field(name), of);
        let bytes: fn(f64) -> Value = |bytes| Value::Bytes(bytes.max(0.0) as u64);
        let count: fn(f64) -> Value = |count| Value::Count(count.max(0.0) as u64);
        let age_ns = now.stats.time_ns.saturating_sub(gpu.time_ns);
        Row {
            cells: vec![
                Value::text(&gpu.index),
                of("utilization_gpu_ratio", |ratio| {
                    Value::Percent(100.0 * ratio)
                }),
                of("memory_used_bytes", bytes),
                of("memory_total_bytes", bytes),
                of("temperature_gpu_celsius", Value::Number),
                of("power_draw_watts", Value::Number),
                of("power_limit_watts", Value::Number),
                of("clock_sm_mhz", Value::Number),
                of("clock_memory_mhz", Value::Number),
                of("throttled_flag", |flag| match flag > 0.0 {
                    true => Value::text("yes"),
                    false => Value::text("no"),
                }),
                of("pcie_rx_bytes_per_second", Value::BytesRate),
                of("pcie_tx_bytes_per_second", Value::BytesRate),
                of("ecc_uncorrected_count", count),
                of("process_count", count),
                Value::Seconds(age_ns as f64 / 1e9),
                Value::text(&gpu.source),
            ],
            tone: match gpu.is_stale || age_ns > GPU_AGE_NS_MAX {
                true => Tone::Warn,
                false => Tone::Plain,
            },
        }
    };
    Table {
        columns: GPUS,
        rows: now.gpus.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_hangs_after_five_seconds_without_a_sign_and_is_dead_without_its_lease() {
        let consumer = |pid, alive, heartbeat_ns| ConsumerInfo {
            pid,
            started_ns: 1,
            heartbeat_ns,
            alive,
            backend: String::new(),
            logs_dir: String::new(),
            trouble: String::new(),
            figures: ConsumerFigures::default(),
        };
        let now_ns = 100_000_000_000;
        let of = |consumer: &ConsumerInfo| Daemon::of(Some(consumer), now_ns, Some('T'));
        assert_eq!(Daemon::of(None, now_ns, None), Daemon::Never);
        assert_eq!(of(&consumer(7, true, 96_000_000_000)), Daemon::Runs);
        assert_eq!(
            of(&consumer(7, true, 94_000_000_000)),
            Daemon::Hangs(Some('T'))
        );
        // A clock that was set back is no sign of anything.
        assert_eq!(of(&consumer(7, true, 200_000_000_000)), Daemon::Runs);
        assert_eq!(of(&consumer(7, false, 99_000_000_000)), Daemon::Died);
        assert_eq!(of(&consumer(0, false, 99_000_000_000)), Daemon::Stopped);
    }

    #[test]
    fn the_history_is_per_second_and_its_last_part_is_as_long_as_it_has_lasted() {
        let at = |number: u64, published| Interval {
            start_ns: number * 10_000_000_000,
            published,
            ..Interval::default()
        };
        let intervals = [at(3, 1_000), at(1_000, 70), at(1_001, 40)];
        let time_ns = 1_001 * 10_000_000_000 + 4_000_000_000;
        let parts = parts(intervals.iter(), time_ns, 10_000_000_000, |one| {
            one.published
        });
        assert_eq!(parts.len(), PARTS);
        assert_eq!(parts[PARTS - 2..], [7.0, 10.0]);
        assert_eq!(
            parts.iter().sum::<f64>(),
            17.0,
            "what is too old is left out"
        );
    }

    #[test]
    fn every_table_has_its_sort_column_and_no_key_twice() {
        for view in View::ALL {
            let sort = view.sort(None).expect("the column that it names is there");
            assert!(sort.column <= view.columns().len());
            let mut keys: Vec<&str> = view.columns().iter().map(|column| column.key).collect();
            keys.sort_unstable();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all, "{view:?}");
            assert_eq!(view.columns()[0].rank, 0, "the name is always there");
        }
        assert_eq!(View::Sources.sort(Some("colour")), None);
    }
}
