//! Statistics as Prometheus reads them: the text exposition format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::stats::{SourceStats, Stats};

/// All of `stats` in the text exposition format: every name starts with `millpond_` and ends with its unit,
/// counters with `_total`; every sample has the label `bus`. Costs about 2 KiB of text for each source.
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
    page.source_metrics(stats);
    page.service_metrics(stats);
    page.subscriber_metrics(stats);
    page.text
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// A gauge that is given in ns and told in seconds.
    GaugeNs,
}

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
            Kind::Counter => "counter",
            Kind::Gauge | Kind::GaugeNs => "gauge",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {}", escape(help, false));
        let _ = writeln!(self.text, "# TYPE {name} {kind_text}");
        for (labels, value) in series {
            let _ = match kind {
                Kind::GaugeNs => {
                    let (whole, rest) = (value / 1_000_000_000, value % 1_000_000_000);
                    writeln!(self.text, "{name}{{{labels}}} {whole}.{rest:09}")
                }
                _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
            };
        }
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
                "Whether something keeps the consumer from writing.",
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
        type Of = fn(&crate::stats::ServiceStats) -> u64;
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
    use crate::origin::Origin;
    use crate::stats::{ConsumerInfo, DropCounts, ServiceStats, SubscriberStats};

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
                assert!(["counter", "gauge"].contains(&kind), "{kind}");
                assert!(helped.contains(name), "help comes first");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
                assert!(name.starts_with("millpond_"), "{name}");
                types.insert(name.to_owned(), kind.to_owned());
                continue;
            }
            let (name, rest) = line.split_once('{').expect("labels");
            assert!(is_name(name, true), "{name}");
            let is_of_last = types.contains_key(name)
                && samples.last().is_none_or(|last| {
                    last.0 == name || !samples.iter().any(|other| other.0 == name)
                });
            assert!(is_of_last, "{name} is not in one piece behind its type");
            let (labels, value) = parse_labels(rest);
            let value = value.strip_prefix(' ').expect("one space");
            assert!(seen.insert((name.to_owned(), labels.clone())), "{line}");
            samples.push((name.to_owned(), labels, value.parse().expect("a number")));
        }
        samples
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

    /// Where the tool is installed it has the last word.
    #[test]
    fn promtool_finds_nothing_wrong() {
        let started = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn();
        let Ok(mut tool) = started else {
            return;
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
