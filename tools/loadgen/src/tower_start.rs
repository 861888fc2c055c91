//! `tower-start`: an indexer floods the bus while people talk and health is watched.
//!
//! `data:code_index:created` at 100/s, then 1,000/s, then unpaced, half of it 74 bytes and half entities of
//! 9.9 KB. At the same time, each from a process of its own: health once a second, chat 5/s, typing 10/s, and
//! 16 handles that report progress 2/s each. All of it under the default rules. Four subscribers, each a process: one
//! for the index, one for health, one for chat, one for typing and progress. The consumer's process is
//! asked for `/healthz` and `/metrics` up to 25 times a second meanwhile.
//!
//! # Baselines
//! A broadcast channel with a message per event, and what shipped instead of batching: dropping every
//! event that comes within 50 ms of one with the same prefix.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, tower_start};
//! let report = tower_start::run(&tower_start::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use millpond_bus::RuleTable;
use serde::Serialize;

use crate::criteria::{Account, Criterion};
use crate::error::{Error, no_such_phase};
use crate::latencies::Summary;
use crate::process::{Host, Process};
use crate::stage::{Stage, account};
use crate::text::{self, Table};
use crate::visitor::Visitor;

mod baselines;
mod payload;
mod publisher;
mod subscriber;

pub use self::baselines::{Broadcast, Coalescing};
pub(crate) use self::publisher::publisher_role;
pub(crate) use self::subscriber::subscriber_role;

/// A process may be at rest this long beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who publishes, under which prefix; the first one is the flood.
pub(crate) const SOURCES: [Source; 5] = [
    Source::new("indexer", "data:code_index", "data:code_index:*"),
    Source::new("health", "system:health", "system:health:*"),
    Source::new("chat", "data:chat_messages", "data:chat_messages:*"),
    Source::new("presence", "presence:typing", "presence:typing:*"),
    Source::new("sentinels", "sentinel", "sentinel:*"),
];

pub(crate) struct Source {
    pub(crate) label: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) pattern: &'static str,
}

impl Source {
    const fn new(label: &'static str, prefix: &'static str, pattern: &'static str) -> Self {
        Source {
            label,
            prefix,
            pattern,
        }
    }
}

/// Who listens to which of the sources.
pub(crate) const LISTENERS: [Listener; 4] = [
    Listener::new("code_index", &[0]),
    Listener::new("health", &[1]),
    Listener::new("chat", &[2]),
    Listener::new("presence", &[3, 4]),
];

pub(crate) struct Listener {
    pub(crate) name: &'static str,
    /// Places in `SOURCES`.
    pub(crate) sources: &'static [usize],
}

impl Listener {
    const fn new(name: &'static str, sources: &'static [usize]) -> Self {
        Listener { name, sources }
    }
}

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// The rates of the flood, one after the other, each on a new bus.
    pub phases: Vec<Phase>,
    /// Longest time that the baselines are played at a rate; unpaced they get as many events as the bus is
    /// asked to take at least.
    pub baseline_time: Duration,
}

/// One rate of the flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Events a second; 0 for as fast as the bus takes them.
    pub rate: u64,
    /// Events to publish.
    pub events: u64,
    /// Goes on beyond that until so much time has passed: else an unpaced flood is over before the slow
    /// ones beside it have published.
    pub at_least: Duration,
}

impl Phase {
    /// `100/s`, `1000/s`, `unpaced`, `sustained`: what `--only` takes.
    pub fn name(&self) -> String {
        match self.is_sustained() {
            true => "sustained".to_owned(),
            false => text::rate(self.rate),
        }
    }

    /// A flood that goes on for as long as it takes to measure those beside it. Gigabytes a second: its own
    /// subscriber is told what it misses; the scenario's 20,000 events are another phase.
    fn is_sustained(&self) -> bool {
        self.rate == 0 && !self.at_least.is_zero()
    }
}

impl Options {
    /// A few seconds.
    pub fn ci() -> Self {
        let phase = |rate, events, seconds| Phase {
            rate,
            events,
            at_least: Duration::from_secs(seconds),
        };
        Options {
            host: None,
            // The unpaced events, 12 MB in some 10 ms, are fewer than the outbox of 16 MiB holds: a subscriber that a busy
            // machine leaves without a processor for that long misses none.
            phases: vec![phase(100, 100, 0), phase(1000, 1000, 0), phase(0, 2400, 0)],
            baseline_time: Duration::from_secs(1),
        }
    }

    /// 20,000 events at each rate: about six minutes.
    pub fn full() -> Self {
        let phase = |rate, seconds| Phase {
            rate,
            events: 20_000,
            at_least: Duration::from_secs(seconds),
        };
        Options {
            phases: vec![phase(100, 0), phase(1000, 0), phase(0, 0), phase(0, 60)],
            baseline_time: Duration::from_secs(20),
            ..Self::ci()
        }
    }

    /// Only one of the phases.
    ///
    /// # Errors
    /// Names the phases there are, where `phase` is none of them.
    pub fn only(mut self, phase: &str) -> Result<Self, Error> {
        let names: Vec<String> = self.phases.iter().map(Phase::name).collect();
        self.phases.retain(|known| known.name() == phase);
        match self.phases.is_empty() {
            false => Ok(self),
            true => Err(no_such_phase("tower-start", phase, &names.join(", "))),
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One for each rate.
    pub phases: Vec<PhaseReport>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// What came out at one rate.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// `100/s` and so on.
    pub name: String,
    /// How long the flood took.
    pub elapsed_ns: u64,
    /// Payload bytes of the flood.
    pub bytes: u64,
    /// One for each source.
    pub accounts: Vec<Account>,
    /// The flood's calls of `publish`.
    pub publish: Summary,
    /// What the subscribers saw.
    pub seen: Seen,
    /// The same rate over a broadcast channel.
    pub broadcast: Broadcast,
    /// The same rate through the coalescing that shipped.
    pub coalescing: Coalescing,
}

/// What one subscriber saw of one phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SubscriberReport {
    /// Its label.
    pub name: String,
    /// Events it got.
    pub events: u64,
    /// What they came in: consolidated records, and events that came alone.
    pub messages: u64,
    /// Events in the largest consolidated record.
    pub largest_batch: u64,
    /// Events it was too slow for, and was told of.
    pub lagged: u64,
    /// How often it was woken.
    pub wakes: u64,
}

/// What the subscribers saw of one phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seen {
    /// One for each of them.
    pub subscribers: Vec<SubscriberReport>,
    /// How long after the first event of a batch of the flood it was received, beyond the rule's `max_delay`; 0 for those
    /// that came earlier.
    pub lateness: Summary,
    /// From the publisher's stamp to its subscriber, health.
    pub health: Summary,
    /// The same, chat.
    pub chat: Summary,
    /// The same, typing.
    pub presence: Summary,
    /// The same, progress of the sentinels: in batches of up to 50 ms.
    pub sentinels: Summary,
    /// Events of the flood that came before one with a lower number of their lane.
    pub out_of_order: u64,
    /// How often `/healthz` was asked.
    pub healthz_asked: u64,
    /// How often it answered within a second.
    pub healthz_answered: u64,
    /// How long an answer took, from connecting to the last byte.
    pub healthz: Summary,
    /// How often `/metrics` was asked.
    pub metrics_asked: u64,
    /// How often it answered within a second.
    pub metrics_answered: u64,
    /// How long an answer took, from connecting to the last byte.
    pub metrics: Summary,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let mut phases = Vec::new();
    for phase in &options.phases {
        let name = phase.name();
        progress(&format!("tower-start: {} events, {name}", phase.events));
        let mut report = play(&host, phase)?;
        let events = match phase.rate {
            0 => phase.events,
            rate => phase.events.min(rate * options.baseline_time.as_secs()),
        };
        progress(&format!("tower-start: baselines, {events} events, {name}"));
        (report.broadcast, report.coalescing) = baselines::run(events, phase.rate)?;
        phases.push(report);
    }
    let criteria = phases.iter().flat_map(judge).collect();
    Ok(Report { phases, criteria })
}

fn play(host: &Host, phase: &Phase) -> Result<PhaseReport, Error> {
    let mut stage = Stage::new(host, "tower-start", RuleTable::defaults())?;
    let audience = Audience::start(host, &mut stage)?;
    let mut sides = Vec::new();
    for source in &SOURCES[1..] {
        sides.push(start_publisher(host, &stage, source, &Phase::SIDE)?);
    }
    let mut flood = start_publisher(host, &stage, &SOURCES[0], phase)?;
    for process in sides.iter_mut().chain([&mut flood]) {
        process.say("go")?;
    }
    let limit = match phase.rate {
        0 => phase.at_least + PATIENCE,
        rate => phase.at_least + Duration::from_secs(phase.events / rate) + PATIENCE,
    };
    let mut published: Vec<publisher::Published> = vec![flood.result(limit)?];
    for mut side in sides {
        side.say("stop")?;
        published.push(side.result(PATIENCE)?);
    }
    let stats = stage.settle()?;
    let arriving = published
        .iter()
        .map(|source| source.published - source.dropped);
    let heard = audience.end(&arriving.collect::<Vec<_>>())?;
    stage.close()?;
    let accounts = SOURCES.iter().zip(&published).enumerate();
    let accounts = accounts.map(|(number, (source, counts))| {
        let (label, prefix) = (source.label, source.prefix);
        let (received, lagged) = (heard.received[number], heard.lagged[number]);
        let published = counts.published;
        account(&stats, label, prefix, published, Some(received), lagged)
    });
    Ok(PhaseReport {
        name: phase.name(),
        elapsed_ns: published[0].elapsed_ns,
        bytes: published[0].bytes,
        accounts: accounts.collect(),
        publish: published[0].publish,
        seen: heard.seen,
        broadcast: Broadcast::default(),
        coalescing: Coalescing::default(),
    })
}

impl Phase {
    /// Those beside the flood have rates of their own, and go on until they are stopped.
    const SIDE: Phase = Phase {
        rate: 0,
        events: 0,
        at_least: Duration::ZERO,
    };
}

fn start_publisher(
    host: &Host,
    stage: &Stage,
    source: &Source,
    phase: &Phase,
) -> Result<Process, Error> {
    host.start(
        "tower-publisher",
        &[
            ("bus", &stage.name()),
            ("label", &source.label),
            ("rate", &phase.rate),
            ("events", &phase.events),
            ("at-least-ms", &phase.at_least.as_millis()),
        ],
    )
}

/// What the subscribers tell; lists are in the order of `SOURCES`.
#[derive(Default)]
struct Heard {
    received: [u64; SOURCES.len()],
    lagged: [u64; SOURCES.len()],
    seen: Seen,
}

impl Heard {
    fn take(&mut self, listener: &Listener, told: subscriber::Told) {
        self.seen.subscribers.push(SubscriberReport {
            name: listener.name.to_owned(),
            events: told.received.iter().sum(),
            messages: told.messages,
            largest_batch: told.largest_batch,
            lagged: told.lagged.iter().sum(),
            wakes: told.wakes,
        });
        for &source in listener.sources {
            self.received[source] += told.received[source];
            self.lagged[source] += told.lagged[source];
            let latencies = told.latencies[source];
            match source {
                0 => {
                    self.seen.lateness = told.lateness;
                    self.seen.out_of_order = told.out_of_order;
                }
                1 => self.seen.health = latencies,
                2 => self.seen.chat = latencies,
                3 => self.seen.presence = latencies,
                _ => self.seen.sentinels = latencies,
            }
        }
    }
}

/// The subscribers, and who asks for the daemon's pages.
struct Audience {
    subscribers: Vec<Process>,
    visitor: Visitor,
}

impl Audience {
    fn start(host: &Host, stage: &mut Stage) -> Result<Self, Error> {
        let mut subscribers = Vec::new();
        for number in 0..LISTENERS.len() {
            let arguments: [(&str, &dyn fmt::Display); 2] =
                [("bus", &stage.name()), ("listener", &number)];
            let mut subscriber = host.start("tower-subscriber", &arguments)?;
            subscriber.say("go")?;
            subscribers.push(subscriber);
        }
        Ok(Audience {
            subscribers,
            visitor: Visitor::start(stage.open_pages()?)?,
        })
    }

    /// `arriving`: how many events of each source there are to receive.
    fn end(mut self, arriving: &[u64]) -> Result<Heard, Error> {
        let found = self.visitor.end()?;
        for (subscriber, listener) in self.subscribers.iter_mut().zip(&LISTENERS) {
            let expected: u64 = listener
                .sources
                .iter()
                .map(|&source| arriving[source])
                .sum();
            subscriber.say(&format!("expect {expected}"))?;
        }
        let mut heard = Heard::default();
        for (subscriber, listener) in self.subscribers.into_iter().zip(&LISTENERS) {
            heard.take(listener, subscriber.result(PATIENCE)?);
        }
        heard.seen.healthz_asked = found.healthz.asked;
        heard.seen.healthz_answered = found.healthz.answered;
        heard.seen.healthz = found.healthz.latencies.summary();
        heard.seen.metrics_asked = found.metrics.asked;
        heard.seen.metrics_answered = found.metrics.answered;
        heard.seen.metrics = found.metrics.latencies.summary();
        Ok(heard)
    }
}

fn judge(phase: &PhaseReport) -> Vec<Criterion> {
    let name = &phase.name;
    // The flood comes first. What it is sustained with no reader can take: there the others count.
    let (who, first) = match name.as_str() {
        "sustained" => ("nothing lost beside the flood", 1),
        _ => ("nothing lost", 0),
    };
    let judged = &phase.accounts[first..];
    let sum = |of: fn(&Account) -> u64| judged.iter().map(of).sum::<u64>();
    let (dropped, lagged) = (
        sum(|account| account.dropped),
        sum(|account| account.lagged),
    );
    let seen = &phase.seen;
    let (asked, answered) = (seen.healthz_asked, seen.healthz_answered);
    let (scraped, told) = (seen.metrics_asked, seen.metrics_answered);
    vec![
        Criterion::new(
            format!(
                "{name}: the account of each of the {} sources balances",
                SOURCES.len()
            ),
            phase.accounts.iter().all(Account::balances),
        ),
        Criterion::new(
            format!("{name}: {who} (dropped {dropped}, lagged {lagged})"),
            dropped + lagged == 0,
        ),
        Criterion::new(
            format!("{name}: in order ({} are not)", seen.out_of_order),
            seen.out_of_order == 0,
        ),
        Criterion::new(
            format!("{name}: /healthz answered {answered} of {asked} times"),
            asked == answered && asked > 0,
        ),
        Criterion::new(
            format!("{name}: /metrics answered {told} of {scraped} times"),
            scraped == told && scraped > 0,
        ),
        Criterion::new(
            format!("{name}: the broadcast's account balances as well"),
            phase.broadcast.balances(),
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        text::criteria(f, &self.criteria)
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed_ns.max(1) as f64 / 1e9;
        let flood = &self.accounts[0];
        writeln!(
            f,
            "tower-start {}: {} events, {:.1} MB in {} ({:.0}/s)",
            self.name,
            flood.published,
            self.bytes as f64 / 1e6,
            text::duration(self.elapsed_ns),
            flood.published as f64 / seconds,
        )?;
        text::accounts(f, &self.accounts)?;
        let seen = &self.seen;
        let rows = [
            ("health", seen.health),
            ("chat", seen.chat),
            ("typing", seen.presence),
            ("progress", seen.sentinels),
            ("batch late", seen.lateness),
            ("/healthz", seen.healthz),
            ("/metrics", seen.metrics),
            ("publish()", self.publish),
        ];
        text::latencies(f, &rows)?;

        let header = [
            "subscriber",
            "events",
            "messages",
            "largest",
            "missed",
            "wake-ups",
            "a second",
        ];
        let mut table = Table::new(&header);
        let per_second = |wakes: f64, ns: u64| format!("{:.1}", wakes / (ns.max(1) as f64 / 1e9));
        for one in &seen.subscribers {
            table.row(vec![
                one.name.clone(),
                one.events.to_string(),
                one.messages.to_string(),
                one.largest_batch.max(1).to_string(),
                one.lagged.to_string(),
                one.wakes.to_string(),
                per_second(one.wakes as f64, self.elapsed_ns),
            ]);
        }
        let broadcast = &self.broadcast;
        let each = |sum: u64| sum as f64 / broadcast.subscribers.max(1) as f64;
        table.row(vec![
            format!("each of {} of broadcast", broadcast.subscribers),
            broadcast.sent.to_string(),
            format!("{:.0}", each(broadcast.delivered)),
            "1".to_owned(),
            format!("{:.0}", each(broadcast.lagged)),
            format!("{:.0}", each(broadcast.wakes)),
            per_second(each(broadcast.wakes), broadcast.elapsed_ns),
        ]);
        let coalescing = &self.coalescing;
        table.row(vec![
            "50 ms drop-coalescing".to_owned(),
            coalescing.sent.to_string(),
            (coalescing.sent - coalescing.lost).to_string(),
            "1".to_owned(),
            coalescing.lost.to_string(),
        ]);
        write!(f, "{table}")?;
        // They do not do the same, and whoever reads the table has to know.
        writeln!(
            f,
            "  Subscribers of millpond only count; tasks of the broadcast take 50 us per event,\n  \
             and each of them gets the index events, whatever it is interested in. The baselines\n  \
             are shorter: {} events, of which drop-coalescing loses {:.1} %.",
            broadcast.sent,
            coalescing.lost_percent()
        )
    }
}
