//! Statistics as Prometheus reads them: the text exposition format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::RangeInclusive;

use crate::figures::{HISTOGRAM_BUCKETS, Histogram};
use crate::layout::LAYOUT_VERSION;
use crate::stats::{ServiceStats, SourceStats, Stats};

/// All of `stats` in the text exposition format: every name starts with `millpond_` and has its unit, a base unit
/// (seconds, bytes), counters end with `_total`; every sample has the label `bus`. What is a histogram in the figures of
/// the consumer is one here too, with the same buckets from one reading to the next. Costs about 2 KiB of text for each
/// source, half of that for each service, and 12 KiB for the consumer.
///
/// What stands under the same name and labels twice (two subscribers that call themselves the same) is added up:
/// a series must be there once.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, prometheus_text};
/// let bus = Bus::attach(&format!("doc-prometheus-{}", std::process::id()), &BusOptions::default())?;
/// let text = prometheus_text(&bus.stats());
/// assert!(text.contains("# TYPE millpond_consumer_up gauge\n"));
/// assert!(text.contains("millpond_consumer_up{bus=\"doc-prometheus-"));
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
pub fn prometheus_text(stats: &Stats) -> String {
    let mut page = Page {
        bus: &stats.bus,
        text: String::new(),
    };
    page.bus_metrics(stats);
    page.consumer_metrics(stats);
    page.disk_metrics(stats);
    page.source_metrics(stats);
    page.service_metrics(stats);
    page.subscriber_metrics(stats);
    page.text
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    /// As below.
    CounterNs,
    Gauge,
    /// A gauge that is given in ns and told in seconds.
    GaugeNs,
}

/// What the values of a histogram are.
#[derive(Clone, Copy)]
enum Unit {
    /// Events, or bytes: told as they are.
    Plain,
    /// Given in ns and told in seconds.
    Ns,
}

impl Unit {
    fn show(self, value: u64) -> String {
        match self {
            Unit::Plain => value.to_string(),
            Unit::Ns => seconds(value),
        }
    }
}

/// Exact, and without zeros at the end.
fn seconds(ns: u64) -> String {
    let (whole, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let text = format!("{whole}.{rest:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The buckets that are told of each kind of histogram: those of smaller values count in the first, those of larger
/// values up to no limit. Fixed, so that readings can be compared.
const EVENT_BUCKETS: RangeInclusive<usize> = 0..=22;
/// 64 bytes to 64 MiB, the most that a group has.
const BYTE_BUCKETS: RangeInclusive<usize> = 6..=26;
/// 4 us to 69 s.
const NS_BUCKETS: RangeInclusive<usize> = 12..=36;
const _: () = assert!(*NS_BUCKETS.end() < HISTOGRAM_BUCKETS - 1);

type Labels<'l> = Vec<(&'static str, &'l str)>;

struct Page<'s> {
    bus: &'s str,
    text: String,
}

impl Page<'_> {
    /// One metric with all its samples; nothing where there are none.
    fn metric<'l>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) {
        let mut series: BTreeMap<String, u64> = BTreeMap::new();
        for (labels, value) in samples {
            let sum = series.entry(self.label_text(&labels)).or_default();
            *sum = sum.saturating_add(value);
        }
        if series.is_empty() {
            return;
        }
        let kind_text = match kind {
            Kind::Counter | Kind::CounterNs => "counter",
            Kind::Gauge | Kind::GaugeNs => "gauge",
        };
        self.head(name, kind_text, help);
        for (labels, value) in series {
            let value = match kind {
                Kind::GaugeNs | Kind::CounterNs => seconds(value),
                Kind::Counter | Kind::Gauge => value.to_string(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {}", escape(help, false));
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
    }

    /// A histogram: buckets that include the smaller ones, their sum and count.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        told: RangeInclusive<usize>,
        histogram: &Histogram,
    ) {
        self.head(name, "histogram", help);
        let labels = self.label_text(&Labels::new());
        let mut below = 0u64;
        for (bucket, &here) in histogram.buckets.iter().enumerate() {
            // Whoever spoils shared memory must not spoil the page: it never sinks, and the last one is the count.
            below = below.saturating_add(here);
            let bound = Histogram::bound(bucket).filter(|_| told.contains(&bucket));
            if let Some(bound) = bound {
                let le = unit.show(bound);
                let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{le}\"}} {below}");
            }
        }
        let sum = unit.show(histogram.sum);
        let _ = writeln!(
            self.text,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {below}\n\
             {name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {below}"
        );
    }

    fn label_text(&self, labels: &Labels<'_>) -> String {
        let mut text = format!("bus=\"{}\"", escape(self.bus, true));
        for (name, value) in labels {
            let _ = write!(text, ",{name}=\"{}\"", escape(value, true));
        }
        text
    }

    fn bus_metrics(&mut self, stats: &Stats) {
        let one = |value: u64| [(Labels::new(), value)];
        let alive = stats.consumer.as_ref().is_some_and(|one| one.alive);
        let layout = LAYOUT_VERSION.to_string();
        let build = vec![("version", env!("CARGO_PKG_VERSION")), ("layout", &layout)];
        self.metric(
            "millpond_build_info",
            Kind::Gauge,
            "The release that answers, and the layout version of its shared memory; always 1.",
            [(build, 1)],
        );
        self.metric(
            "millpond_consumer_up",
            Kind::Gauge,
            "Whether a consumer drains the bus.",
            one(alive.into()),
        );
        if let Some(consumer) = &stats.consumer {
            self.metric(
                "millpond_consumer_in_trouble",
                Kind::Gauge,
                "Whether something fails: writing, or only a sync, a seal or an index.",
                one((!consumer.trouble.is_empty()).into()),
            );
            self.metric(
                "millpond_consumer_start_time_seconds",
                Kind::GaugeNs,
                "When the consumer took the bus, since the epoch.",
                one(consumer.started_ns),
            );
            self.metric(
                "millpond_consumer_heartbeat_time_seconds",
                Kind::GaugeNs,
                "The last sign of life of the consumer, since the epoch.",
                one(consumer.heartbeat_ns),
            );
        }
        self.metric(
            "millpond_shared_memory_bytes",
            Kind::Gauge,
            "Shared memory in lanes.",
            one(stats.lanes_bytes),
        );
        self.metric(
            "millpond_shared_memory_limit_bytes",
            Kind::Gauge,
            "The most shared memory that lanes and outboxes may take.",
            one(stats.lanes_bytes_limit),
        );
        let waiting = stats.lanes.iter().map(|lane| lane.lag_bytes).max();
        self.metric(
            "millpond_lag_bytes",
            Kind::Gauge,
            "What waits in the lane that is furthest behind.",
            one(waiting.unwrap_or(0)),
        );
    }

    /// What the consumer does, and how long that takes.
    fn consumer_metrics(&mut self, stats: &Stats) {
        let Some(consumer) = &stats.consumer else {
            return;
        };
        let one = |value: u64| [(Labels::new(), value)];
        let figures = &consumer.figures;
        self.histogram(
            "millpond_group_events",
            "Events that each group of the log made true: one commit for all services.",
            Unit::Plain,
            EVENT_BUCKETS,
            &figures.group_events,
        );
        self.histogram(
            "millpond_group_bytes",
            "Text of each group of the log.",
            Unit::Plain,
            BYTE_BUCKETS,
            &figures.group_bytes,
        );
        self.histogram(
            "millpond_group_write_seconds",
            "From the moment the writer takes a group until its text is in the files: every attempt, no sync.",
            Unit::Ns,
            NS_BUCKETS,
            &figures.write_ns,
        );
        self.histogram(
            "millpond_sync_seconds",
            "Each sync of log files to the disk, of however many files.",
            Unit::Ns,
            NS_BUCKETS,
            &figures.sync_ns,
        );
        self.histogram(
            "millpond_commit_delay_seconds",
            "Age of the oldest line of each group when it was committed: how long a line waits until it can be read.",
            Unit::Ns,
            NS_BUCKETS,
            &figures.commit_delay_ns,
        );
        self.histogram(
            "millpond_batch_events",
            "Events in each consolidated record that subscribers were handed.",
            Unit::Plain,
            EVENT_BUCKETS,
            &figures.batch_events,
        );
        self.metric(
            "millpond_consumer_cpu_seconds_total",
            Kind::CounterNs,
            "Processor time of the consumer's process; a new consumer begins at 0.",
            one(figures.cpu_ns),
        );
        let memory = Some(figures.memory_bytes).filter(|&bytes| bytes > 0);
        self.metric(
            "millpond_consumer_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory of the consumer's process, shared memory included.",
            memory.map(|bytes| (Labels::new(), bytes)),
        );
        let upkeep = &figures.upkeep;
        let counters: [(&str, &str, u64); 6] = [
            (
                "log_write_failures",
                "Attempts to write, sync or remove that failed; each was made again.",
                upkeep.write_failures,
            ),
            (
                "log_seal_failures",
                "Attempts to compress a segment that failed; each is made again.",
                upkeep.seal_failures,
            ),
            (
                "log_sealed_segments",
                "Segments that were compressed.",
                upkeep.sealed_segments,
            ),
            (
                "log_sealed_saved_bytes",
                "Bytes of the disk that compressing segments gave back.",
                upkeep.sealed_saved_bytes,
            ),
            (
                "log_trimmed_segments",
                "Segments that retention removed.",
                upkeep.trimmed_segments,
            ),
            (
                "log_trimmed_bytes",
                "Bytes of the disk that retention gave back.",
                upkeep.trimmed_bytes,
            ),
        ];
        for (name, help, count) in counters {
            let name = format!("millpond_{name}_total");
            self.metric(&name, Kind::Counter, help, one(count));
        }
    }

    /// The disk, and the limits on what the log may have of it.
    fn disk_metrics(&mut self, stats: &Stats) {
        let consumer = stats.consumer.as_ref();
        if let Some(disk) = consumer.and_then(|consumer| consumer.figures.disk) {
            let gauges: [(&str, &str, Option<u64>); 6] = [
                (
                    "log_disk_bytes",
                    "What the files of all services occupy, with what is reserved: what counts against the limit.",
                    Some(disk.bytes),
                ),
                (
                    "log_disk_limit_bytes",
                    "The limit on what the files of all services occupy; absent without one.",
                    disk.bytes_limit,
                ),
                (
                    "log_file_system_bytes",
                    "The file system of the log directory altogether.",
                    Some(disk.file_system_bytes),
                ),
                (
                    "log_file_system_free_bytes",
                    "Free space of the file system of the log directory, for the consumer's user.",
                    Some(disk.free_bytes),
                ),
                (
                    "log_file_system_keep_free_bytes",
                    "Closed segments go while the file system has less free than this.",
                    Some(disk.keep_free_bytes),
                ),
                (
                    "log_unsynced_segments",
                    "Segments with text that may not be on the disk yet.",
                    Some(disk.unsynced_segments),
                ),
            ];
            for (name, help, value) in gauges {
                let name = format!("millpond_{name}");
                let sample = value.map(|value| (Labels::new(), value));
                self.metric(&name, Kind::Gauge, help, sample);
            }
            self.metric(
                "millpond_log_disk_time_seconds",
                Kind::GaugeNs,
                "When the disk was looked at, since the epoch.",
                [(Labels::new(), disk.time_ns)],
            );
        }
        type Of = fn(&ServiceStats) -> Option<u64>;
        let gauges: [(&str, Kind, &str, Of); 5] = [
            (
                "log_service_disk_bytes",
                Kind::Gauge,
                "What the files of the service occupy.",
                |s| Some(s.disk?.bytes),
            ),
            (
                "log_service_disk_limit_bytes",
                Kind::Gauge,
                "The quota of the service; absent without one.",
                |s| s.disk?.bytes_limit,
            ),
            (
                "log_service_segments",
                Kind::Gauge,
                "Segments of the service that are there, the open one included.",
                |s| Some(s.disk?.segments),
            ),
            (
                "log_service_segments_limit",
                Kind::Gauge,
                "The most segments of the service; absent without a limit.",
                |s| s.disk?.segments_limit,
            ),
            (
                "log_service_age_limit_seconds",
                Kind::GaugeNs,
                "Closed segments of the service whose last line is older go; absent without a limit.",
                |s| s.disk?.age_limit_ns,
            ),
        ];
        for (name, kind, help, of) in gauges {
            let name = format!("millpond_{name}");
            let samples = stats.services.iter().filter_map(|service| {
                let labels = vec![("service", service.name.as_str())];
                of(service).map(|value| (labels, value))
            });
            self.metric(&name, kind, help, samples);
        }
    }

    fn source_metrics(&mut self, stats: &Stats) {
        fn labels(source: &SourceStats) -> Labels<'_> {
            vec![("source", &source.label), ("rule", &source.pattern)]
        }
        type Of = fn(&SourceStats) -> u64;
        let counters: [(&str, &str, Of); 8] = [
            ("events_published", "Events offered by publishers.", |s| {
                s.published
            }),
            (
                "events_delivered",
                "Events taken by the consumer and committed.",
                |s| s.delivered,
            ),
            (
                "events_written",
                "Of the delivered, events in a log file.",
                |s| s.written,
            ),
            (
                "events_rejected",
                "Of the delivered, events refused for what they are.",
                |s| s.rejected,
            ),
            (
                "events_coalesced",
                "Of the delivered, events that a later one, an aggregate or a repeat line stands for.",
                |s| s.coalesced,
            ),
            (
                "events_suppressed",
                "Of the delivered, events kept out of the log by a rate limit or sampling.",
                |s| s.suppressed,
            ),
            ("payload_bytes", "Payload of delivered events.", |s| {
                s.delivered_bytes
            }),
            (
                "lanes_gone",
                "Lanes that publishers have closed or left.",
                |s| s.lanes_gone,
            ),
        ];
        for (name, help, of) in counters {
            let name = format!("millpond_{name}_total");
            let samples = stats
                .sources
                .iter()
                .map(|source| (labels(source), of(source)));
            self.metric(&name, Kind::Counter, help, samples);
        }
        let dropped = stats.sources.iter().flat_map(|source| {
            let causes = [
                ("full", source.dropped.full),
                ("deadline", source.dropped.deadline),
                ("too_long", source.dropped.too_long),
                ("other", source.dropped.other),
            ];
            causes.map(|(cause, count)| {
                let mut labels = labels(source);
                labels.push(("cause", cause));
                (labels, count)
            })
        });
        self.metric(
            "millpond_events_dropped_total",
            Kind::Counter,
            "Events that publishers dropped, by cause.",
            dropped,
        );
        let gauges: [(&str, &str, Of); 3] = [
            (
                "millpond_in_flight_events",
                "Events in lanes, or taken and not committed.",
                |s| s.in_flight,
            ),
            ("millpond_lanes", "Lanes that live.", |s| s.lanes_live),
            (
                "millpond_lag_max_bytes",
                "The most bytes that ever waited in one lane.",
                |s| s.lag_bytes_max,
            ),
        ];
        for (name, help, of) in gauges {
            let samples = stats
                .sources
                .iter()
                .map(|source| (labels(source), of(source)));
            self.metric(name, Kind::Gauge, help, samples);
        }
        let pids: Vec<[String; 2]> = stats
            .sources
            .iter()
            .map(|source| [source.origin.pid, source.origin.uid].map(|number| number.to_string()))
            .collect();
        let known = stats.sources.iter().zip(&pids);
        let known = known.filter(|(source, _)| source.origin.pid != 0);
        let infos = known.map(|(source, [pid, uid])| {
            let mut labels = labels(source);
            labels.push(("pid", pid));
            labels.push(("uid", uid));
            labels.push(("executable", &source.origin.executable));
            labels.push((
                "verified",
                if source.origin.is_verified {
                    "true"
                } else {
                    "false"
                },
            ));
            (labels, 1)
        });
        self.metric(
            "millpond_source_info",
            Kind::Gauge,
            "The process behind the lane of the source that was seen last; always 1.",
            infos,
        );
    }

    fn service_metrics(&mut self, stats: &Stats) {
        type Of = fn(&ServiceStats) -> u64;
        let counters: [(&str, &str, Of); 4] = [
            (
                "log_lines",
                "Lines committed to the log of the service.",
                |s| s.lines,
            ),
            (
                "log_text_bytes",
                "Text committed to the log of the service.",
                |s| s.bytes,
            ),
            ("log_segments", "Segments begun for the service.", |s| {
                s.segments
            }),
            (
                "log_redactions",
                "Pieces of text that redaction replaced in the log of the service.",
                |s| s.redacted,
            ),
        ];
        for (name, help, of) in counters {
            let name = format!("millpond_{name}_total");
            let samples = stats.services.iter();
            let samples =
                samples.map(|service| (vec![("service", service.name.as_str())], of(service)));
            self.metric(&name, Kind::Counter, help, samples);
        }
    }

    fn subscriber_metrics(&mut self, stats: &Stats) {
        type Of = fn(&crate::stats::SubscriberStats) -> u64;
        let counters: [(&str, &str, Of); 3] = [
            (
                "subscriber_events",
                "Events that the subscriber was given.",
                |s| s.delivered,
            ),
            (
                "subscriber_missed_events",
                "Events that were overwritten before the subscriber read them.",
                |s| s.lagged,
            ),
            ("subscriber_wakes", "Times the subscriber was woken.", |s| {
                s.wakes
            }),
        ];
        for (name, help, of) in counters {
            let name = format!("millpond_{name}_total");
            let samples = stats.subscribers.iter().map(|subscriber| {
                let labels = vec![
                    ("subscriber", subscriber.label.as_str()),
                    ("pattern", subscriber.pattern.as_str()),
                ];
                (labels, of(subscriber))
            });
            self.metric(&name, Kind::Counter, help, samples);
        }
    }
}

/// Backslashes and line ends, and in label values quotes as well.
fn escape(text: &str, is_label: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_label => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::figures::{ConsumerFigures, DiskFigures, ServiceDisk, UpkeepFigures};
    use crate::origin::Origin;
    use crate::stats::{ConsumerInfo, DropCounts, SubscriberStats};

    type Sample = (String, Vec<(String, String)>, f64);

    /// A page, read by the grammar of the format: anything that is not in it is a panic.
    fn parse(page: &str) -> Vec<Sample> {
        let mut samples: Vec<Sample> = Vec::new();
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut helped = BTreeSet::new();
        let mut seen = BTreeSet::new();
        assert!(page.ends_with('\n'), "the last line must end");
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(is_name(name, true) && !help.is_empty());
                assert!(helped.insert(name.to_owned()), "{name} is there twice");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
                assert!(helped.contains(name), "help comes first");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
                assert!(name.starts_with("millpond_"), "{name}");
                types.insert(name.to_owned(), kind.to_owned());
                continue;
            }
            let (name, rest) = line.split_once('{').expect("labels");
            assert!(is_name(name, true), "{name}");
            let metric = metric_of(name, &types);
            let is_of_last = types.contains_key(metric)
                && samples.last().is_none_or(|last| {
                    let of_metric = |sample: &Sample| metric_of(&sample.0, &types) == metric;
                    of_metric(last) || !samples.iter().any(of_metric)
                });
            assert!(is_of_last, "{name} is not in one piece behind its type");
            let (labels, value) = parse_labels(rest);
            let value = value.strip_prefix(' ').expect("one space");
            assert!(seen.insert((name.to_owned(), labels.clone())), "{line}");
            samples.push((name.to_owned(), labels, value.parse().expect("a number")));
        }
        samples
    }

    /// The metric that a sample belongs to: those of a histogram have endings.
    fn metric_of<'n>(name: &'n str, types: &BTreeMap<String, String>) -> &'n str {
        let endings = ["_bucket", "_sum", "_count"].into_iter();
        let of_histogram = endings
            .filter_map(|ending| name.strip_suffix(ending))
            .find(|base| types.get(*base).is_some_and(|kind| kind == "histogram"));
        of_histogram.unwrap_or(name)
    }

    fn is_name(name: &str, colons: bool) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
        !name.is_empty()
            && name.chars().all(allowed)
            && !name.starts_with(|c: char| c.is_ascii_digit())
    }

    fn parse_labels(mut rest: &str) -> (Vec<(String, String)>, &str) {
        let mut labels = Vec::new();
        loop {
            let (name, more) = rest.split_once("=\"").expect("a label");
            assert!(is_name(name, false), "{name}");
            let mut value = String::new();
            let mut characters = more.char_indices();
            let end = loop {
                match characters.next().expect("a closing quote") {
                    (index, '"') => break index,
                    (_, '\\') => match characters.next().expect("an escape").1 {
                        'n' => value.push('\n'),
                        other @ ('\\' | '"') => value.push(other),
                        other => panic!("\\{other} is no escape"),
                    },
                    (_, other) => value.push(other),
                }
            };
            labels.push((name.to_owned(), value));
            let more = &more[end + 1..];
            match more.strip_prefix('}') {
                Some(value) => return (labels, value),
                None => rest = more.strip_prefix(',').expect("a comma"),
            }
        }
    }

    fn figures() -> ConsumerFigures {
        let mut group_events = Histogram::default();
        for events in [1, 3, 4, 1 << 40] {
            group_events.add(events);
        }
        let mut write_ns = Histogram::default();
        for ns in [100, 5_000, 1_000_000, u64::MAX] {
            write_ns.add(ns);
        }
        ConsumerFigures {
            group_events,
            write_ns,
            cpu_ns: 2_500_000_000,
            memory_bytes: 4 << 20,
            upkeep: UpkeepFigures {
                trimmed_bytes: 12,
                ..UpkeepFigures::default()
            },
            disk: Some(DiskFigures {
                time_ns: 1_000_000_000,
                bytes: 1 << 20,
                bytes_limit: None,
                keep_free_bytes: 1 << 30,
                ..DiskFigures::default()
            }),
            ..ConsumerFigures::default()
        }
    }

    fn example() -> Stats {
        let source = |label: &str| SourceStats {
            label: label.to_owned(),
            pattern: "log:*".to_owned(),
            origin: Origin {
                pid: 123,
                uid: 1000,
                executable: "/opt/a \"b\"\\c\nd".to_owned(),
                started_ns: 1,
                is_verified: true,
            },
            lanes_live: 1,
            lanes_gone: 2,
            published: 100,
            delivered: 90,
            written: 60,
            rejected: 5,
            coalesced: 20,
            suppressed: 5,
            dropped: DropCounts {
                full: 1,
                deadline: 2,
                too_long: 3,
                other: 4,
            },
            in_flight: 0,
            delivered_bytes: u64::MAX,
            lag_bytes_max: 4096,
        };
        let subscriber = SubscriberStats {
            label: "same".to_owned(),
            delivered: 3,
            ..SubscriberStats::default()
        };
        Stats {
            bus: "default".to_owned(),
            time_ns: 5,
            lanes_bytes: 1 << 20,
            lanes_bytes_limit: 1 << 28,
            consumer: Some(ConsumerInfo {
                pid: 7,
                started_ns: 1_500_000_000,
                heartbeat_ns: 2,
                alive: true,
                backend: "pwrite".to_owned(),
                logs_dir: "/logs".to_owned(),
                trouble: String::new(),
                figures: figures(),
            }),
            lanes: Vec::new(),
            sources: vec![source("pty:out"), source("evil\"} 1\n# TYPE x y\\")],
            services: vec![ServiceStats {
                name: "web".to_owned(),
                segment_id: 1,
                segment_bytes: 2,
                lines: 3,
                bytes: 4,
                segments: 5,
                redacted: 6,
                disk: Some(ServiceDisk {
                    bytes: 4096,
                    segments: 2,
                    segments_limit: Some(9),
                    age_limit_ns: Some(1_500_000_000),
                    ..ServiceDisk::default()
                }),
            }],
            subscribers: vec![subscriber.clone(), subscriber],
        }
    }

    #[test]
    fn the_page_is_in_the_grammar_and_labels_come_back_as_they_were() {
        let samples = parse(&prometheus_text(&example()));
        let value = |name: &str, label: &str| {
            let mut found = samples.iter().filter(|(of, labels, _)| {
                of == name && labels.iter().any(|(_, value)| value == label)
            });
            found.next().unwrap_or_else(|| panic!("{name} {label}")).2
        };
        let evil = "evil\"} 1\n# TYPE x y\\";
        assert_eq!(value("millpond_events_published_total", evil), 100.0);
        assert_eq!(value("millpond_events_dropped_total", "too_long"), 3.0);
        assert_eq!(value("millpond_source_info", "/opt/a \"b\"\\c\nd"), 1.0);
        assert_eq!(value("millpond_log_text_bytes_total", "web"), 4.0);
        assert_eq!(value("millpond_log_redactions_total", "web"), 6.0);
        assert_eq!(value("millpond_consumer_up", "default"), 1.0);
        assert_eq!(
            value("millpond_consumer_start_time_seconds", "default"),
            1.5
        );
        assert_eq!(value("millpond_subscriber_events_total", "same"), 6.0);
    }

    #[test]
    fn a_histogram_has_all_smaller_values_in_each_bucket_and_fixed_bounds() {
        let page = prometheus_text(&example());
        let samples = parse(&page);
        let of = |name: &str| -> Vec<(String, f64)> {
            let of_name = samples.iter().filter(|sample| sample.0 == name);
            of_name
                .map(|(_, labels, value)| {
                    let le = labels.iter().find(|(label, _)| label == "le");
                    (le.map_or(String::new(), |(_, le)| le.clone()), *value)
                })
                .collect()
        };
        let writes = of("millpond_group_write_seconds_bucket");
        let at = |le: &str| writes.iter().find(|(of, _)| of == le).expect(le).1;
        assert_eq!(at("0.000004096"), 1.0);
        assert_eq!(at("0.000008192"), 2.0);
        assert_eq!(at("0.001048576"), 3.0);
        assert_eq!(at("68.719476736"), 3.0);
        assert_eq!(writes.last(), Some(&("+Inf".to_owned(), 4.0)));
        let values: Vec<f64> = writes.iter().map(|(_, value)| *value).collect();
        assert!(values.is_sorted(), "{values:?}");
        assert_eq!(of("millpond_group_write_seconds_count")[0].1, 4.0);
        assert_eq!(of("millpond_group_events_bucket")[2], ("4".to_owned(), 3.0));
        // The same lines where nothing was counted yet.
        let bounds = |page: &str| -> Vec<String> {
            let lines = page.lines().filter(|line| line.contains("le="));
            lines
                .map(|line| line.rsplit_once(' ').expect("a value").0.to_owned())
                .collect()
        };
        let mut fresh = example();
        if let Some(consumer) = &mut fresh.consumer {
            consumer.figures = ConsumerFigures::default();
        }
        assert_eq!(bounds(&page), bounds(&prometheus_text(&fresh)));
    }

    #[test]
    fn figures_are_told_in_base_units_and_no_limit_is_no_line() {
        let samples = parse(&prometheus_text(&example()));
        let value = |name: &str| {
            let found = samples.iter().find(|(of, _, _)| of == name);
            found.map(|(_, _, value)| *value)
        };
        assert_eq!(value("millpond_consumer_cpu_seconds_total"), Some(2.5));
        assert_eq!(value("millpond_log_trimmed_bytes_total"), Some(12.0));
        assert_eq!(value("millpond_log_disk_bytes"), Some(1048576.0));
        assert_eq!(value("millpond_log_disk_limit_bytes"), None);
        assert_eq!(value("millpond_log_service_segments_limit"), Some(9.0));
        assert_eq!(value("millpond_log_service_age_limit_seconds"), Some(1.5));
        assert_eq!(value("millpond_log_service_disk_limit_bytes"), None);
        assert_eq!(value("millpond_build_info"), Some(1.0));
    }

    /// Where the tool is installed it has the last word.
    #[test]
    fn promtool_finds_nothing_wrong() {
        let started = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn();
        let mut tool = match started {
            Ok(tool) => tool,
            Err(error) => {
                eprintln!("skipped: promtool cannot be started: {error}");
                return;
            }
        };
        let mut input = tool.stdin.take().expect("asked for");
        let page = prometheus_text(&example());
        std::io::Write::write_all(&mut input, page.as_bytes()).expect("it reads");
        drop(input);
        let output = tool.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}
