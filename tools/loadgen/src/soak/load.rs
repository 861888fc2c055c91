//! Who publishes, who reads, and under which rules.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use millpond_bus::{Class, Overflow, Rule, RuleTable};

use crate::error::Error;
use crate::stage::{LOSSLESS, passthrough};

/// Services that are logged.
pub(super) const SERVICES: [&str; 3] = ["cache", "db", "web"];
/// Rules of the bus.
pub(super) const RULES: usize = 6;
/// Names of a publisher whose events are conflated.
pub(super) const KEYS: u64 = 8;
/// Events of an overflow: ten times what the lane holds.
pub(super) const BURST_EVENTS: u64 = 700;

/// What a publisher says, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One by one.
    Text,
    /// In batches.
    Batch,
    /// Round over several names.
    Keys,
    /// Of fixed layout.
    Sample,
}

const KINDS: [(&str, Kind); 4] = [
    ("text", Kind::Text),
    ("batch", Kind::Batch),
    ("keys", Kind::Keys),
    ("sample", Kind::Sample),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KINDS.iter().find(|(_, kind)| kind == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = KINDS.iter().find(|(word, _)| *word == text);
        found
            .map(|&(_, kind)| kind)
            .ok_or_else(|| Error::new(format!("there is no kind of publisher {text:?}")))
    }
}

/// What must become of the events of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Each is a line of the log, once.
    Logged,
    /// Each is a line or a counted drop.
    LoggedOrDropped,
    /// Each reaches a subscriber, once, or is counted as missed by it.
    Received,
    /// The last of each name reaches a subscriber, and the others are counted.
    LastReceived,
    /// Each is in an aggregate.
    Aggregated,
}

/// A publisher.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) label: &'static str,
    pub(super) event: &'static str,
    pub(super) kind: Kind,
    pub(super) promise: Promise,
    /// Events a second.
    pub(super) rate: u64,
    /// All of a second at once.
    pub(super) bursts: bool,
}

const fn part(
    label: &'static str,
    event: &'static str,
    kind: Kind,
    promise: Promise,
    rate: u64,
    bursts: bool,
) -> Part {
    Part {
        label,
        event,
        kind,
        promise,
        rate,
        bursts,
    }
}

/// All publishers, about 2,400 events a second.
pub(super) const PARTS: &[Part] = &[
    part(
        "web-a",
        "log:web:web-a",
        Kind::Text,
        Promise::Logged,
        250,
        false,
    ),
    part(
        "web-b",
        "log:web:web-b",
        Kind::Text,
        Promise::Logged,
        300,
        true,
    ),
    part(
        "db-a",
        "log:db:db-a",
        Kind::Batch,
        Promise::Logged,
        200,
        false,
    ),
    part(
        "cache-a",
        "lossy:cache:cache-a",
        Kind::Text,
        Promise::LoggedOrDropped,
        150,
        false,
    ),
    part(
        "cache-b",
        "lossy:cache:cache-b",
        Kind::Batch,
        Promise::LoggedOrDropped,
        250,
        true,
    ),
    part(
        "pass-a",
        "pass:soak:pass-a",
        Kind::Text,
        Promise::Received,
        150,
        false,
    ),
    part(
        "pass-b",
        "pass:soak:pass-b",
        Kind::Batch,
        Promise::Received,
        200,
        true,
    ),
    part(
        "batch-a",
        "batch:soak:batch-a",
        Kind::Text,
        Promise::Received,
        150,
        false,
    ),
    part(
        "batch-b",
        "batch:soak:batch-b",
        Kind::Batch,
        Promise::Received,
        200,
        true,
    ),
    part(
        "con-a",
        "conflate:soak:con-a",
        Kind::Keys,
        Promise::LastReceived,
        200,
        false,
    ),
    part(
        "con-b",
        "conflate:soak:con-b",
        Kind::Keys,
        Promise::LastReceived,
        200,
        true,
    ),
    part(
        "agg-a",
        "agg:soak:agg-a",
        Kind::Sample,
        Promise::Aggregated,
        150,
        false,
    ),
    part(
        "agg-b",
        "agg:soak:agg-b",
        Kind::Sample,
        Promise::Aggregated,
        150,
        true,
    ),
];

/// A subscriber.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ear {
    pub(super) label: &'static str,
    pub(super) patterns: &'static str,
    /// Pause between two looks.
    pub(super) slow_ms: u64,
    /// No fault is played on it: what it has seen is compared with what was published.
    pub(super) is_witness: bool,
}

const fn ear(label: &'static str, patterns: &'static str, slow_ms: u64, is_witness: bool) -> Ear {
    Ear {
        label,
        patterns,
        slow_ms,
        is_witness,
    }
}

/// All subscribers; the witness of a class is the first with its pattern.
pub(super) const EARS: &[Ear] = &[
    ear("witness-pass", "pass:*", 0, true),
    ear("witness-batch", "batch:*", 0, true),
    ear("witness-conflate", "conflate:*", 0, true),
    ear("witness-agg", "agg:*", 0, true),
    ear("ear-mixed", "pass:*,batch:*,conflate:*", 0, false),
    ear("ear-logged", "log:*,lossy:*", 0, false),
    ear("ear-slow", "batch:*", 2500, false),
];

/// The rules at the start, or those that a reload changes to and fro.
pub(super) fn rules(are_other: bool) -> Result<RuleTable, Error> {
    let (events, delay_ms, lane_bytes) = match are_other {
        false => (100, 25, 256 << 10),
        true => (20, 10, 512 << 10),
    };
    let log = Rule {
        service: Some("*".to_owned()),
        overflow: LOSSLESS,
        lane_bytes: 4 * lane_bytes,
        payload_bytes_limit: 4 << 10,
        max_events: 1 << 20,
        ..Rule::new("log:*".parse()?)
    };
    let lossy = Rule {
        pattern: "lossy:*".parse()?,
        overflow: Overflow::DropNewest,
        lane_bytes: 64 << 10,
        ..log.clone()
    };
    let consolidated = |pattern: &str, class| {
        Ok::<_, Error>(Rule {
            class,
            overflow: LOSSLESS,
            lane_bytes,
            payload_bytes_limit: 1 << 10,
            // So small that a slow subscriber misses something.
            outbox_bytes: 128 << 10,
            max_events: events,
            max_delay: Duration::from_millis(delay_ms),
            ..Rule::new(pattern.parse()?)
        })
    };
    let rules: [Rule; RULES] = [
        log,
        lossy,
        Rule {
            lane_bytes,
            payload_bytes_limit: 1 << 10,
            ..passthrough("pass:*")?
        },
        consolidated("batch:*", Class::Batch)?,
        consolidated("conflate:*", Class::Conflate)?,
        consolidated("agg:*", Class::Aggregate)?,
    ];
    Ok(RuleTable::new(rules.into())?)
}
