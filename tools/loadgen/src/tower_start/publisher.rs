//! The publishers, each a process: one floods, the others go on at their pace until they are stopped.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Level, Publisher, Topic};
use serde::{Deserialize, Serialize};

use super::payload::{Payloads, uuid};
use crate::clock::sleep_until_due;
use crate::error::Error;
use crate::latencies::{Latencies, Summary};
use crate::process::{Arguments, Talk};

/// How long the end may take: what was published has to be taken by the consumer.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// One call of `publish` in so many is measured, where they are many. Odd: small and large payloads take
/// turns, and both are to be measured.
const MEASURE_EVERY: u64 = 7;
const _: () = assert!(MEASURE_EVERY % 2 == 1);
const SENTINELS: u64 = 16;

/// What a publisher tells at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) published: u64,
    pub(super) dropped: u64,
    pub(super) bytes: u64,
    pub(super) elapsed_ns: u64,
    pub(super) publish: Summary,
}

/// `bus=NAME label=LABEL rate=N events=N at-least-ms=N`; the last three are for the flood.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let label = arguments.text("label")?;
    let mut publisher = bus.publisher(label)?;
    let mut load = Load::of(label, &mut publisher)?;
    talk.ready()?;
    let started = Instant::now();
    match &mut load {
        Load::Flood(flood) => {
            flood.rate = arguments.get("rate")?;
            flood.events = arguments.get("events")?;
            flood.at_least = Duration::from_millis(arguments.get("at-least-ms")?);
            flood.run(&mut publisher);
        }
        Load::Side(side) => side.run(&mut publisher),
    }
    let elapsed = started.elapsed();
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    let counts = publisher.counts();
    let (bytes, publish) = match load {
        Load::Flood(flood) => (flood.bytes, flood.publish.summary()),
        Load::Side(_) => (0, Summary::default()),
    };
    talk.say(&Published {
        published: counts.published,
        dropped: counts.dropped(),
        bytes,
        elapsed_ns: elapsed.as_nanos() as u64,
        publish,
    })
}

enum Load {
    Flood(Flood),
    Side(Side),
}

struct Flood {
    topic: Topic,
    rate: u64,
    events: u64,
    at_least: Duration,
    bytes: u64,
    publish: Latencies,
}

/// What is published beside the flood.
struct Side {
    topics: Vec<Topic>,
    interval: Duration,
    payload: String,
}

impl Load {
    fn of(label: &str, publisher: &mut Publisher) -> Result<Self, Error> {
        let mut side = |names: &[String], per_second: u32, payload: &str| {
            let topics = names.iter().map(|name| publisher.topic(name));
            Ok::<_, Error>(Load::Side(Side {
                topics: topics.collect::<Result<_, _>>()?,
                interval: Duration::from_secs(1) / per_second,
                payload: payload.to_owned(),
            }))
        };
        match label {
            "health" => side(
                &["system:health:check".to_owned()],
                1,
                r#"{"status":"ok","uptime_s":86400,"checks":{"db":"ok","queue":"ok"}}"#,
            ),
            "chat" => side(
                &["data:chat_messages:created".to_owned()],
                5,
                r#"{"id":"00000000-0000-4000-8000-000000000001","collection":"chat_messages","text":"is the index up yet?"}"#,
            ),
            "presence" => side(
                &["presence:typing:start".to_owned()],
                10,
                r#"{"user":"ada","room":"general"}"#,
            ),
            "sentinels" => {
                let names: Vec<String> = (0..SENTINELS)
                    .map(|number| format!("sentinel:{}:progress", uuid(number)))
                    .collect();
                side(&names, 2, r#"{"step":"embed","percent":42}"#)
            }
            _ => Ok(Load::Flood(Flood {
                topic: publisher.topic("data:code_index:created")?,
                rate: 0,
                events: 0,
                at_least: Duration::ZERO,
                bytes: 0,
                publish: Latencies::default(),
            })),
        }
    }
}

impl Flood {
    fn run(&mut self, publisher: &mut Publisher) {
        let mut payloads = Payloads::new();
        let started = Instant::now();
        let mut number = 0;
        while number < self.events || started.elapsed() < self.at_least {
            sleep_until_due(started, number, self.rate);
            let payload = payloads.of(number);
            let before = Instant::now();
            // A drop is counted by the publisher, and part of the account.
            let _ = publisher.publish(self.topic, Level::Info, payload);
            if self.rate > 0 || number % MEASURE_EVERY == 0 {
                self.publish.record(before.elapsed().as_nanos() as u64);
            }
            self.bytes += payload.len() as u64;
            number += 1;
        }
    }
}

impl Side {
    /// Until a line comes, or nobody is left to send one.
    fn run(&mut self, publisher: &mut Publisher) {
        let stop = Talk.next_line();
        let started = Instant::now();
        for round in 0.. {
            let due = self.interval * round;
            match stop.recv_timeout(due.saturating_sub(started.elapsed())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            for &topic in &self.topics {
                // As in the flood.
                let _ = publisher.publish(topic, Level::Info, self.payload.as_bytes());
            }
        }
    }
}
