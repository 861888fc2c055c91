//! What every measurement leaves: one row for a piece of work and who did it, with all its rounds.

use serde::{Deserialize, Serialize};

/// What is promised while the work is done, in the words of the table.
///
/// ```
/// let promised = millpond_bench::Guarantees { bounded: true, blocking: true, ..Default::default() };
/// assert_eq!(promised.to_string(), "bounded, may block");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarantees {
    /// Whether its memory has a bound that does not depend on the load.
    pub bounded: bool,
    /// Whether a publisher may have to wait for a reader.
    pub blocking: bool,
    /// Whether events may be lost without the reader being told.
    pub lossy: bool,
    /// Whether what was accepted survives the death of the publisher's process.
    pub crash_safe: bool,
    /// Whether what was accepted survives a power cut.
    pub durable: bool,
}

impl std::fmt::Display for Guarantees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.bounded { "bounded" } else { "unbounded" })?;
        f.write_str(match (self.blocking, self.lossy) {
            (_, true) => ", loses silently",
            (true, false) => ", may block",
            (false, false) => ", never blocks",
        })?;
        match (self.crash_safe, self.durable) {
            (_, true) => f.write_str(", survives a power cut"),
            (true, false) => f.write_str(", survives its process"),
            (false, false) => Ok(()),
        }
    }
}

/// One run of a piece of work.
///
/// ```
/// let round = millpond_bench::Round { events: 2_000_000, seconds: 0.5, ..Default::default() };
/// assert_eq!(millpond_bench::Figure::Rate.of(&round), 4e6);
/// assert_eq!(millpond_bench::Figure::Cost.of(&round), 250.0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Events handed in, of all publishers.
    pub events: u64,
    /// Time from the first to the last, in s; of [`Figure::Cost`], in one publisher.
    pub seconds: f64,
    /// Latencies, where the work measures them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<LatencyNs>,
    /// Processor time of all processes that took part, in s.
    pub cpu_seconds: f64,
    /// Greatest resident memory of all of them together, in bytes; shared pages count in each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it left on the disk, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Events that did not arrive; of several receivers, the sum of all.
    pub lost: u64,
}

/// Percentiles of one round, in ns.
///
/// ```
/// let latency = millpond_bench::LatencyNs::of((1..=1000).collect());
/// assert_eq!((latency.p50, latency.p999, latency.max), (500, 999, 1000));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyNs {
    /// Half are not above it.
    pub p50: u64,
    /// 99 in 100 are not above it.
    pub p99: u64,
    /// 999 in 1,000 are not above it.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
}

impl LatencyNs {
    /// Of these times, by nearest rank; all zero for none.
    pub fn of(times_ns: Vec<u64>) -> Self {
        let mut latencies = millpond_loadgen::Latencies::default();
        times_ns.into_iter().for_each(|ns| latencies.record(ns));
        let summary = latencies.summary();
        LatencyNs {
            p50: summary.p50_ns,
            p99: summary.p99_ns,
            p999: summary.p999_ns,
            max: summary.max_ns,
        }
    }
}

/// Which figure of a round the work is about.
///
/// ```
/// assert_eq!(millpond_bench::Figure::Cost.unit(), "ns/event");
/// assert!(!millpond_bench::Figure::Cost.is_better_high());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Events that arrived, a second.
    Rate,
    /// Time of one event in whoever does the work, in ns.
    Cost,
    /// The median latency, in ns.
    Latency,
    /// The time of the whole, in ms.
    Time,
    /// Bytes a second: `events` are bytes.
    Bandwidth,
}

impl Figure {
    /// The figure of a round: events/s, ns/event, ns, ms, B/s.
    pub fn of(self, round: &Round) -> f64 {
        let events = round.events as f64;
        match self {
            Figure::Rate | Figure::Bandwidth => {
                (round.events.saturating_sub(round.lost)) as f64 / round.seconds
            }
            Figure::Cost => round.seconds * 1e9 / events,
            Figure::Latency => round.latency_ns.unwrap_or_default().p50 as f64,
            Figure::Time => round.seconds * 1e3,
        }
    }

    /// The unit that [`Figure::of`] is in.
    pub fn unit(self) -> &'static str {
        match self {
            Figure::Rate => "events/s",
            Figure::Cost => "ns/event",
            Figure::Latency => "ns",
            Figure::Time => "ms",
            Figure::Bandwidth => "B/s",
        }
    }

    /// Whether more is better.
    pub fn is_better_high(self) -> bool {
        matches!(self, Figure::Rate | Figure::Bandwidth)
    }
}

/// What grows from row to row of a curve.
///
/// ```
/// let varied = millpond_bench::Varied { name: "publishers".into(), value: 8 };
/// assert_eq!(varied.value, 8);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Varied {
    /// Its name, a noun with its unit: `publishers`, `payload bytes`.
    pub name: String,
    /// How much of it this row has.
    pub value: u64,
}

/// One piece of work, done by one peer.
///
/// ```
/// let line = r#"{"part":"publish","work":"64 B","peer":"millpond","version":"0.1.0","figure":"cost","guarantees":
///     {"bounded":true,"blocking":false,"lossy":false,"crash_safe":true,"durable":false},"rounds":[]}"#;
/// let row: millpond_bench::Row = serde_json::from_str(line).unwrap();
/// assert_eq!(row.spread(), None); // no rounds, no figure
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Kind of work: `publish`, `throughput`, `wake`, `fan-out`, `sink`, `query` ..
    pub part: String,
    /// The work in words: payload, publishers, subscribers.
    pub work: String,
    /// Who did it: `millpond`, a peer, or a floor such as `memcpy`; what is special about it after a comma.
    pub peer: String,
    /// Its version, as it says itself.
    pub version: String,
    /// Which figure the work is about.
    pub figure: Figure,
    /// Where this is a point of a curve, which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub varied: Option<Varied>,
    /// Whether it is a physical floor and nothing that one could use instead.
    #[serde(default)]
    pub is_floor: bool,
    /// What it promises meanwhile.
    pub guarantees: Guarantees,
    /// Its rounds, interleaved with those of the others; empty where it was skipped.
    pub rounds: Vec<Round>,
    /// Why it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Why it did not run to its end: rounds before that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Row {
    /// One of millpond, still without rounds.
    pub(crate) fn of_millpond(
        part: &str,
        work: &str,
        peer: &str,
        figure: Figure,
        guarantees: Guarantees,
    ) -> Self {
        Row {
            part: part.to_owned(),
            work: work.to_owned(),
            peer: peer.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            figure,
            varied: None,
            is_floor: false,
            guarantees,
            rounds: Vec::new(),
            skipped: None,
            failed: None,
        }
    }

    /// One of a floor, whose version is the kernel's.
    pub(crate) fn of_floor(
        part: &str,
        work: &str,
        peer: &str,
        figure: Figure,
        guarantees: Guarantees,
    ) -> Self {
        Row {
            version: crate::machine::kernel(),
            is_floor: true,
            ..Self::of_millpond(part, work, peer, figure, guarantees)
        }
    }

    /// Its figure over its rounds, in [`Figure::unit`]; `None` without rounds.
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(
            self.rounds
                .iter()
                .map(|round| self.figure.of(round))
                .collect(),
        )
    }

    /// Whether this row is of millpond itself, and a round of it failed or lost what nobody was told of.
    pub fn is_bad(&self) -> bool {
        self.peer.starts_with("millpond") && self.failed.is_some()
    }
}

/// Median, least and greatest of some figures.
///
/// ```
/// let spread = millpond_bench::Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
/// assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The figure in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; `None` for none.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        Some(Spread {
            median: *figures.get(figures.len() / 2)?,
            min: *figures.first()?,
            max: *figures.last()?,
        })
    }
}
