//! `tower-start`: an indexer floods the bus while people talk and health is watched.
//!
//! `data:code_index:created` at 100/s, then 1,000/s, then unpaced, half of it 74 bytes and half entities of
//! 9.9 KB. At the same time, each from a process of its own: health once a second, chat 5/s, typing 10/s, and
//! 16 handles that report progress 2/s each. One subscriber takes all of it and answers `/healthz`
//! between events, on the same thread.
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
use crate::stage::{Stage, account, passthrough, rules_with};
use crate::text::{self, Table};

mod baselines;
#[cfg(feature = "subscriptions")]
mod healthz;
mod payload;
mod publisher;
#[cfg(feature = "subscriptions")]
mod subscriber;

pub use self::baselines::{Broadcast, Coalescing};
pub(crate) use self::publisher::publisher_role;
#[cfg(feature = "subscriptions")]
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
    #[cfg_attr(not(feature = "subscriptions"), expect(dead_code))]
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

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// The rates of the flood, one after the other, each on a new bus.
    pub phases: Vec<Phase>,
    /// Health and chat pass through at once. Under the default rules they wait for a batch of up to 50 ms,
    /// as everything does that no rule singles out.
    pub urgent: bool,
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
    /// `100/s`, `1000/s`, `unpaced`: what `--only` takes.
    pub fn name(&self) -> String {
        text::rate(self.rate)
    }
}

impl Options {
    /// About ten seconds.
    pub fn ci() -> Self {
        let phase = |rate, events, seconds| Phase {
            rate,
            events,
            at_least: Duration::from_secs(seconds),
        };
        Options {
            host: None,
            phases: vec![phase(100, 200, 0), phase(1000, 2000, 0), phase(0, 4000, 2)],
            urgent: true,
            baseline_time: Duration::from_secs(2),
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
            phases: vec![phase(100, 0), phase(1000, 0), phase(0, 60)],
            baseline_time: Duration::from_secs(20),
            ..Self::ci()
        }
    }

    fn rules(&self) -> Result<RuleTable, Error> {
        let mut rules = Vec::new();
        if self.urgent {
            for pattern in ["system:health:*", "data:chat_messages:*"] {
                rules.push(passthrough(pattern)?);
            }
        }
        rules_with(rules)
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
    /// Whether health and chat had rules of their own; see [`Options::urgent`].
    pub urgent: bool,
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
    /// What the subscriber saw; `None` where there was none.
    pub seen: Option<Seen>,
    /// The same rate over a broadcast channel.
    pub broadcast: Broadcast,
    /// The same rate through the coalescing that shipped.
    pub coalescing: Coalescing,
}

/// What the subscriber saw of one phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seen {
    /// Consolidated records of the flood.
    pub batches: u64,
    /// Events in the largest of them.
    pub largest_batch: u64,
    /// How long after the first event of a batch it was received, beyond the rule's `max_delay`; 0 for those
    /// that came earlier.
    pub lateness: Summary,
    /// From the publisher's stamp to the subscriber, health.
    pub health: Summary,
    /// The same, chat.
    pub chat: Summary,
    /// The same, typing.
    pub presence: Summary,
    /// The same, progress of the sentinels: in batches of up to 50 ms.
    pub sentinels: Summary,
    /// Events that came before one with a lower number of their lane.
    pub out_of_order: u64,
    /// How often the subscriber was woken.
    pub wakes: u64,
    /// How often `/healthz` was asked.
    pub healthz_asked: u64,
    /// How often it answered within a second.
    pub healthz_answered: u64,
    /// How long an answer took.
    pub healthz: Summary,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = match &options.host {
        Some(host) => host.clone(),
        None => Host::current()?,
    };
    let mut phases = Vec::new();
    for phase in &options.phases {
        let name = phase.name();
        progress(&format!("tower-start: {} events, {name}", phase.events));
        let mut report = play(&host, options, phase)?;
        let events = match phase.rate {
            0 => phase.events,
            rate => phase.events.min(rate * options.baseline_time.as_secs()),
        };
        progress(&format!("tower-start: baselines, {events} events, {name}"));
        (report.broadcast, report.coalescing) = baselines::run(events, phase.rate)?;
        phases.push(report);
    }
    let criteria = phases.iter().flat_map(judge).collect();
    Ok(Report {
        phases,
        urgent: options.urgent,
        criteria,
    })
}

fn play(host: &Host, options: &Options, phase: &Phase) -> Result<PhaseReport, Error> {
    let stage = Stage::new(host, "tower-start", options.rules()?)?;
    let audience = Audience::start(host, &stage)?;
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
    let heard = audience.end(arriving.sum())?;
    stage.close()?;
    let accounts = SOURCES.iter().zip(&published).enumerate();
    let accounts = accounts.map(|(number, (source, counts))| {
        let received = heard.as_ref().map(|heard| heard.received[number]);
        let lagged = heard.as_ref().map_or(0, |heard| heard.lagged[number]);
        let (label, prefix) = (source.label, source.prefix);
        account(&stats, label, prefix, counts.published, received, lagged)
    });
    Ok(PhaseReport {
        name: phase.name(),
        elapsed_ns: published[0].elapsed_ns,
        bytes: published[0].bytes,
        accounts: accounts.collect(),
        publish: published[0].publish,
        seen: heard.map(|heard| heard.seen),
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

/// What the subscriber tells, in the order of `SOURCES`.
struct Heard {
    received: Vec<u64>,
    lagged: Vec<u64>,
    seen: Seen,
}

#[cfg(not(feature = "subscriptions"))]
struct Audience;

#[cfg(not(feature = "subscriptions"))]
impl Audience {
    fn start(_host: &Host, _stage: &Stage) -> Result<Self, Error> {
        Ok(Audience)
    }

    fn end(self, _expected: u64) -> Result<Option<Heard>, Error> {
        Ok(None)
    }
}

/// The subscriber, and who asks after its health.
#[cfg(feature = "subscriptions")]
struct Audience {
    subscriber: Process,
    visitor: healthz::Visitor,
}

#[cfg(feature = "subscriptions")]
impl Audience {
    fn start(host: &Host, stage: &Stage) -> Result<Self, Error> {
        let mut subscriber = host.start("tower-subscriber", &[("bus", &stage.name())])?;
        subscriber.say("go")?;
        let healthz: subscriber::Open = subscriber.hear(PATIENCE)?;
        Ok(Audience {
            subscriber,
            visitor: healthz::Visitor::start(healthz.port)?,
        })
    }

    fn end(self, expected: u64) -> Result<Option<Heard>, Error> {
        let Audience {
            mut subscriber,
            visitor,
        } = self;
        let visits = visitor.end()?;
        subscriber.say(&format!("expect {expected}"))?;
        let told: subscriber::Told = subscriber.result(PATIENCE)?;
        Ok(Some(Heard {
            seen: Seen {
                batches: told.batches,
                largest_batch: told.largest_batch,
                lateness: told.lateness,
                health: told.latencies[1],
                chat: told.latencies[2],
                presence: told.latencies[3],
                sentinels: told.latencies[4],
                out_of_order: told.out_of_order,
                wakes: told.wakes,
                healthz_asked: visits.asked,
                healthz_answered: visits.answered,
                healthz: visits.latencies.summary(),
            },
            received: told.received,
            lagged: told.lagged,
        }))
    }
}

fn judge(phase: &PhaseReport) -> Vec<Criterion> {
    let name = &phase.name;
    let sum = |of: fn(&Account) -> u64| phase.accounts.iter().map(of).sum::<u64>();
    let (dropped, lagged) = (
        sum(|account| account.dropped),
        sum(|account| account.lagged),
    );
    let mut criteria = vec![
        Criterion::new(
            format!(
                "{name}: the account of each of the {} sources balances",
                SOURCES.len()
            ),
            phase.accounts.iter().all(Account::balances),
        ),
        Criterion::new(
            format!("{name}: nothing lost (dropped {dropped}, lagged {lagged})"),
            dropped + lagged == 0,
        ),
        Criterion::new(
            format!("{name}: the broadcast's account balances as well"),
            phase.broadcast.balances(),
        ),
    ];
    if let Some(seen) = &phase.seen {
        criteria.push(Criterion::new(
            format!("{name}: in order ({} are not)", seen.out_of_order),
            seen.out_of_order == 0,
        ));
        let (asked, answered) = (seen.healthz_asked, seen.healthz_answered);
        criteria.push(Criterion::new(
            format!("{name}: /healthz answered {answered} of {asked} times"),
            asked == answered && asked > 0,
        ));
    }
    criteria
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        if self.urgent {
            writeln!(
                f,
                "Default rules, and two that let health and chat pass through."
            )?;
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
        let mut rows = Vec::new();
        if let Some(seen) = &self.seen {
            rows = vec![
                ("health", seen.health),
                ("chat", seen.chat),
                ("typing", seen.presence),
                ("progress", seen.sentinels),
                ("batch late", seen.lateness),
                ("/healthz", seen.healthz),
            ];
        }
        rows.push(("publish()", self.publish));
        text::latencies(f, &rows)?;

        let mut table = Table::new(&["delivery", "events", "messages", "lost", "wake-ups each"]);
        if let Some(seen) = &self.seen {
            table.row(vec![
                "millpond, 1 subscriber".to_owned(),
                flood.received.unwrap_or_default().to_string(),
                seen.batches.to_string(),
                (flood.dropped + flood.lagged).to_string(),
                seen.wakes.to_string(),
            ]);
        }
        let broadcast = &self.broadcast;
        table.row(vec![
            format!("broadcast(1024), {} x 50 us", broadcast.subscribers),
            broadcast.sent.to_string(),
            broadcast.delivered.to_string(),
            broadcast.lagged.to_string(),
            format!(
                "{:.0}",
                broadcast.wakes as f64 / broadcast.subscribers.max(1) as f64
            ),
        ]);
        let coalescing = &self.coalescing;
        table.row(vec![
            "50 ms drop-coalescing".to_owned(),
            coalescing.sent.to_string(),
            (coalescing.sent - coalescing.lost).to_string(),
            format!("{} ({:.1} %)", coalescing.lost, coalescing.lost_percent()),
            "-".to_owned(),
        ]);
        write!(f, "{table}")?;
        match &self.seen {
            // The two do not do the same, and whoever reads the table has to know.
            Some(_) => writeln!(
                f,
                "  The subscriber of millpond only counts; each task of the broadcast works for\n  \
                 50 us on each event. Lost of the broadcast: messages, over all its tasks."
            ),
            None => writeln!(
                f,
                "  Nobody subscribed: what arrives is not part of this run."
            ),
        }
    }
}
