//! The publisher, who waits for each round to be received, and the subscriber.

use std::time::{Duration, Instant};

use millpond_bus::{
    Batch, Bus, Class, Clock, Event, Guarantee, Level, Publisher, RecvError, Rule, RuleTable,
    SubscribeOptions, Subscriber, Subscription, Topic,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BURST, Options, Report};
use crate::error::Error;
use crate::latencies::{Latencies, Summary};
use crate::process::{Arguments, Host, Talk};
use crate::stage::{LOSSLESS, Stage, account, passthrough, rules_with};

const SNAPSHOT: &str = "serving:snapshot";
const ACT: &str = "persona:act";
/// How the subscriber says that it stands at *ready*.
const SEEN: &str = "serving-seen:snapshot";
const BETWEEN_VALUES: Duration = Duration::from_millis(1);
const SEEN_LIMIT: Duration = Duration::from_secs(10);
/// What has not come after so long without any event will not.
const QUIET_LIMIT: Duration = Duration::from_secs(15);
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);

fn rules(window: Duration) -> Result<RuleTable, Error> {
    rules_with(vec![
        Rule {
            class: Class::Conflate,
            max_delay: window,
            overflow: LOSSLESS,
            ..Rule::new("serving:*".parse()?)
        },
        Rule {
            overflow: LOSSLESS,
            ..Rule::new("persona:*".parse()?)
        },
        passthrough("serving-seen:*")?,
    ])
}

/// What the publisher tells.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    ended_ready: u64,
    values: u64,
    acts: u64,
}

/// What the subscriber tells.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    values: u64,
    replaced: u64,
    went_back: u64,
    acts: u64,
    out_of_order: u64,
    whole_bursts: u64,
    batches: u64,
    lagged: u64,
    ready: Summary,
}

pub(super) fn run(host: &Host, options: &Options) -> Result<Report, Error> {
    let stage = Stage::new(host, "last-value", rules(options.window)?)?;
    let (rounds, bursts) = (options.rounds, options.bursts);
    let (bus, pause_us) = (stage.name(), options.pause.as_micros());
    let counts: [(&str, &dyn std::fmt::Display); 4] = [
        ("bus", &bus),
        ("rounds", &rounds),
        ("bursts", &bursts),
        ("pause-us", &pause_us),
    ];
    let mut subscriber = host.start("last-value-subscriber", &counts)?;
    let mut publisher = host.start("last-value-publisher", &counts)?;
    subscriber.say("go")?;
    publisher.say("go")?;
    let time = (options.window + BETWEEN_VALUES * 10) * rounds as u32
        + (options.pause + BETWEEN_VALUES) * bursts as u32;
    let limit = time * 2 + SEEN_LIMIT * 6;
    let published: Published = publisher.result(limit)?;
    let told: Told = subscriber.result(QUIET_LIMIT * 2)?;
    let stats = stage.settle()?;
    stage.close()?;
    // A value that was replaced has arrived in the one that replaced it.
    let arrived = Some(told.values + told.replaced);
    let (values, acts) = (published.values, published.acts);
    Ok(Report {
        rounds,
        ended_ready: published.ended_ready,
        values: told.values,
        replaced: told.replaced,
        went_back: told.went_back,
        ready: told.ready,
        bursts,
        whole_bursts: told.whole_bursts,
        acts: told.acts,
        out_of_order: told.out_of_order,
        batches: told.batches,
        accounts: vec![
            account(&stats, "serving", SNAPSHOT, values, arrived, 0),
            account(&stats, "persona", ACT, acts, Some(told.acts), told.lagged),
        ],
        criteria: Vec::new(),
    })
}

/// `bus=NAME rounds=N bursts=N pause-us=N`.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let (rounds, bursts): (u64, u64) = (arguments.get("rounds")?, arguments.get("bursts")?);
    let pause = Duration::from_micros(arguments.get("pause-us")?);
    let mut serving = bus.publisher("serving")?;
    let snapshot = serving.topic(SNAPSHOT)?;
    let mut persona = bus.publisher("persona")?;
    let act = persona.topic(ACT)?;
    let mut seen = bus.subscribe(SubscribeOptions::new("serving", SEEN.parse()?))?;
    talk.ready()?;

    let mut ended_ready = 0;
    for round in 0..rounds {
        publish_value(&mut serving, snapshot, round, false)?;
        std::thread::sleep(BETWEEN_VALUES);
        publish_value(&mut serving, snapshot, round, true)?;
        if !wait_for(&mut seen, round)? {
            break;
        }
        ended_ready += 1;
    }
    for burst in 0..bursts {
        for index in 0..BURST {
            let text = format!(r#"{{"burst":{burst},"index":{index},"act":"wave"}}"#);
            persona.publish(act, Level::Info, text.as_bytes())?;
        }
        std::thread::sleep(pause);
    }
    serving.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    persona.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    talk.say(&Published {
        ended_ready,
        values: serving.counts().published,
        acts: persona.counts().published,
    })
}

fn publish_value(
    publisher: &mut Publisher,
    topic: Topic,
    round: u64,
    ready: bool,
) -> Result<(), Error> {
    let text = format!(r#"{{"round":{round},"ready":{ready}}}"#);
    publisher.publish(topic, Level::Info, text.as_bytes())?;
    Ok(())
}

/// Whether the subscriber says within the limit that it stands at the *ready* of this round.
fn wait_for(seen: &mut Subscription, round: u64) -> Result<bool, Error> {
    loop {
        match seen.recv_timeout(SEEN_LIMIT) {
            Ok(event) if event.payload == round.to_string().as_bytes() => return Ok(true),
            Ok(_) => {}
            Err(RecvError::TimedOut) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// As the publisher's. Ends when everything has come, or nothing comes any more.
pub(crate) fn subscriber_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let (rounds, bursts): (u64, u64) = (arguments.get("rounds")?, arguments.get("bursts")?);
    let mut options = SubscribeOptions::new("last-value", SNAPSHOT.parse()?);
    options.patterns.push(ACT.parse()?);
    let mut subscription = bus.subscribe(options)?;
    let mut publisher = bus.publisher("last-value")?;
    let mut reader = Reader {
        clock: bus.clock(),
        seen: publisher.topic(SEEN)?,
        publisher,
        newest: None,
        ready: Latencies::default(),
        told: Told::default(),
    };
    talk.ready()?;
    let expected = 2 * rounds + BURST * bursts;
    let mut last_progress = (0, Instant::now());
    while reader.total() < expected && last_progress.1.elapsed() < QUIET_LIMIT {
        match subscription.run(&mut reader, Some(LOOK)) {
            Ok(_) | Err(RecvError::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        if last_progress.0 != reader.total() {
            last_progress = (reader.total(), Instant::now());
        }
    }
    reader.told.ready = reader.ready.summary();
    talk.say(&reader.told)
}

struct Reader {
    clock: Clock,
    publisher: Publisher,
    seen: Topic,
    /// Round and readiness of the newest value.
    newest: Option<(u64, bool)>,
    ready: Latencies,
    told: Told,
}

impl Reader {
    fn total(&self) -> u64 {
        let told = &self.told;
        told.values + told.replaced + told.acts + told.lagged
    }

    fn value(&mut self, event: &Event<'_>, payload: &Value) {
        self.told.values += 1;
        self.told.replaced += u64::from(event.replaced);
        let fields = payload["round"].as_u64().zip(payload["ready"].as_bool());
        let Some(value) = fields else { return };
        // `false < true`: within a round, ready is the newer one.
        self.told.went_back += u64::from(self.newest.is_some_and(|newest| newest >= value));
        self.newest = Some(value);
        if let (round, true) = value {
            let now_ns = self.clock.now_ns();
            self.ready.record(now_ns.saturating_sub(event.time_ns));
            // One that is dropped is missed by the publisher, and counted there.
            let text = round.to_string();
            let _ = self
                .publisher
                .publish(self.seen, Level::Info, text.as_bytes());
        }
    }

    fn act(&mut self, payload: &Value) {
        let number = payload["burst"].as_u64().zip(payload["index"].as_u64());
        let number = number.map(|(burst, index)| burst * BURST + index);
        match number == Some(self.told.acts) {
            true if number.is_some_and(|number| number % BURST == BURST - 1) => {
                self.told.whole_bursts += 1;
            }
            true => {}
            false => self.told.out_of_order += 1,
        }
        self.told.acts += 1;
    }
}

impl Subscriber for Reader {
    fn on_event(&mut self, event: &Event<'_>) {
        let payload = serde_json::from_slice(event.payload).unwrap_or(Value::Null);
        match event.name {
            SNAPSHOT => self.value(event, &payload),
            _ => self.act(&payload),
        }
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        self.told.batches += u64::from(batch.class() == Class::Batch);
        for event in batch.events() {
            self.on_event(&event);
        }
    }

    fn on_lagged(&mut self, lagged: &millpond_bus::Lagged) {
        self.told.lagged += lagged.count;
    }
}
