//! Publisher to daemon to subscribers, in consolidated records. Each of them is a process.
//!
//! Several subscribers get every event each, and each delivery counts: `events` of a round are those of all of them
//! together, as are the ones that a subscriber was too slow for and was told of.

use std::time::Duration;

use millpond_bus::{Batch, Bus, Class, Dropped, Event, Lagged, Rule, Subscriber};
use millpond_loadgen::{Arguments, Error, Process, Talk};
use serde::{Deserialize, Serialize};

use super::bus::{
    LIMIT, Meter, OwnBus, OwnDaemon, PAYLOAD, PAYLOAD_BYTES, Published, case, own_row, point,
    round_of_seconds, rule, start_publisher, subscribe, twins,
};
use super::ring::bare_ring;
use crate::plan::{Case, Options, Part};
use crate::row::{Figure, Round};
use crate::usage::Usage;

const PART: Part = Part::Batch;
const PATTERN: &str = "data:*";
const SUBSCRIBERS: [usize; 3] = [0, 1, 8];
const GROWTH: [usize; 8] = [0, 1, 2, 4, 8, 16, 32, 64];
/// A subscriber to which nothing comes for so long gives up, and its round fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    for subscribers in SUBSCRIBERS {
        let (who, plan) = (to(subscribers), Plan::new(options, subscribers, 1));
        let rate = format!("64 B, one by one, publisher -> daemon{who}");
        let cost = format!("64 B, one by one, in the publisher, bursts that need not wait{who}");
        let rows = [
            own_row(PART, &rate, "millpond", Figure::Rate),
            own_row(PART, &cost, "millpond", Figure::Cost),
        ];
        cases.extend(twins(rows, move || plan.rounds()));
        if subscribers == 1 {
            let events = options.events(10_000_000);
            cases.push(bare_ring(PART, &rate, events, 1, |passed| passed.whole));
        }
    }
    for subscribers in [0, 1] {
        let (who, plan) = (to(subscribers), Plan::new(options, subscribers, 64));
        let work = format!("64 B, 64 a commit, publisher -> daemon{who}");
        cases.push(case(PART, &work, "millpond", Figure::Rate, move || {
            let [delivered, _] = plan.rounds()?;
            Ok(delivered)
        }));
    }
    if options.growth {
        cases.extend(by_subscribers(options));
    }
    Ok(cases)
}

fn to(subscribers: usize) -> String {
    match subscribers {
        0 => " -> outbox".to_owned(),
        1 => " -> subscriber".to_owned(),
        count => format!(" -> {count} subscribers, each delivery counts"),
    }
}

fn by_subscribers(options: &Options) -> Vec<Case> {
    let curve = |subscribers: usize| {
        let row = |work: &str, figure: Figure| {
            let row = own_row(PART, work, "millpond", figure);
            point(row, "subscribers", subscribers as u64)
        };
        let rate = "64 B, one by one, publisher -> daemon -> subscribers, each delivery counts";
        let cost = "64 B, one by one, in the publisher, bursts that need not wait";
        let rows = [row(rate, Figure::Rate), row(cost, Figure::Cost)];
        let plan = Plan::new(options, subscribers, 1);
        twins(rows, move || plan.rounds())
    };
    GROWTH.into_iter().flat_map(curve).collect()
}

/// What one measurement does.
struct Plan {
    options: Options,
    events: u64,
    subscribers: usize,
    batch: u64,
}

impl Plan {
    fn new(options: &Options, subscribers: usize, batch: u64) -> Self {
        // Fewer for many, so that a round does not take longer.
        let most = options.events(40_000_000) / subscribers.max(1) as u64;
        Plan {
            options: options.clone(),
            events: options.events(5_000_000).min(most),
            subscribers,
            batch,
        }
    }

    /// What was delivered, and what it cost the publisher.
    fn rounds(&self) -> Result<[Round; 2], Error> {
        let rule = Rule {
            lane_bytes: 16 << 20,
            outbox_bytes: 16 << 20,
            // What a loaded bus is given: fewer and larger records.
            max_events: 2000,
            max_bytes: 1 << 20,
            ..rule(PATTERN, Class::Batch)?
        };
        let bus = OwnBus::with_rules("batch", vec![rule])?;
        let mut daemon = OwnDaemon::start(&self.options, &bus)?;
        let mut subscribers = self.start_subscribers(&bus)?;
        let before = daemon.usage()?;
        for subscriber in &mut subscribers {
            subscriber.say("go")?;
        }
        let (events, batch) = (self.events, self.batch);
        let mut publisher = start_publisher(&self.options, &bus, 0, events, batch, true)?;
        publisher.say("go")?;
        let published: Published = publisher.result(LIMIT)?;
        let taken = subscribers.into_iter().map(|process| process.result(LIMIT));
        let taken: Vec<Taken> = taken.collect::<Result<_, Error>>()?;
        let daemon_used = daemon.usage()?.since(before);
        daemon.stop()?;
        // Without a subscriber: when all was in the outbox.
        let ended_ns = taken.iter().map(|taken| taken.ended_ns).max();
        let whole_ns = ended_ns
            .unwrap_or(published.flushed_ns)
            .saturating_sub(published.started_ns);
        let usage: Usage = taken
            .iter()
            .map(|taken| taken.usage)
            .chain([daemon_used, published.usage])
            .sum();
        let deliveries = events * taken.len().max(1) as u64;
        let delivered = Round {
            lost: taken.iter().map(|taken| taken.lagged).sum(),
            ..round_of_seconds(deliveries, whole_ns as f64 / 1e9, usage)
        };
        let free_seconds = published.free_ns * events as f64 / 1e9;
        let cost = round_of_seconds(events, free_seconds, published.usage);
        Ok([delivered, cost])
    }

    fn start_subscribers(&self, bus: &Bus) -> Result<Vec<Process>, Error> {
        let host = self.options.host()?;
        let arguments: [(&str, &dyn std::fmt::Display); 2] =
            [("bus", &bus.name()), ("events", &self.events)];
        (0..self.subscribers)
            .map(|_| host.start("bus-subscriber", &arguments))
            .collect()
    }
}

/// What a subscriber's process leaves.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    /// When it had the last event, in the bus's time.
    ended_ns: u64,
    /// Events that it was too slow for, and was told of.
    lagged: u64,
    usage: Usage,
}

/// Looks at every event of every batch.
#[derive(Default)]
struct Taker {
    events: u64,
    sum: u64,
    lagged: u64,
    dropped: u64,
}

impl Subscriber for Taker {
    fn on_event(&mut self, event: &Event<'_>) {
        self.events += 1;
        self.sum += u64::from(event.payload[PAYLOAD_BYTES - 1]);
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        for event in batch.events() {
            self.on_event(&event);
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lagged += lagged.count;
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.dropped += dropped.count();
    }
}

/// `bus=NAME events=N`: takes until it has, or was told that it missed, so many.
pub(super) fn subscriber_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let events: u64 = arguments.get("events")?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let clock = bus.clock();
    let mut subscription = subscribe(&bus, PATTERN, false)?;
    let mut taker = Taker::default();
    talk.ready()?;
    let meter = Meter::start()?;
    while taker.events + taker.lagged + taker.dropped < events {
        subscription.run(&mut taker, Some(PATIENCE))?;
    }
    let ended_ns = clock.now_ns();
    let usage = meter.used()?;
    if taker.sum != taker.events * u64::from(PAYLOAD[0]) {
        return Err(Error::new("what came is not what was published"));
    }
    talk.say(&Taken {
        ended_ns,
        lagged: taker.lagged + taker.dropped,
        usage,
    })
}
