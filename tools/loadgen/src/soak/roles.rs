//! The processes of the soak, each of which may be killed, stopped and started at any moment.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, Dropped, Event as BusEvent, Guarantee, Lagged, Level, PublishError, Publisher,
    SubscribeOptions, Subscriber, Topic,
};
use millpond_daemon::{Configuration, Daemon};
use millpond_derive::Event;
use millpond_logfile::{Cursor, Followed, Follower};
use serde::{Deserialize, Serialize};
use serde_json::json;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::load::{KEYS, Kind, SERVICES, rules};
use crate::error::Error;
use crate::files::Numbers;
use crate::process::{Arguments, Talk};
use crate::stage::{Keeping, committed_ends};

/// How often a role looks whether it is to end, and a publisher whether something is due.
const TICK: Duration = Duration::from_millis(20);
/// How often readers tell what they have seen.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Events between two acknowledgements.
const ACK_EVERY: u64 = 32;
const LINE_BYTES: usize = 120;
/// A burst is to fill a small lane with few events.
const BURST_LINE_BYTES: usize = 1000;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// What is told of the daemon's notices.
const NOTICE_CHARACTERS: usize = 200;

/// An event of fixed layout, so that it can be aggregated.
#[derive(Debug, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "agg:soak:sample", crate = "millpond_bus")]
struct Sample {
    /// Number of the event within its incarnation.
    number: u64,
    /// How often its publisher had been started before.
    incarnation: u64,
}

/// Whether a role is to end: it was asked to by a signal or a line, or nobody is left.
struct Asked {
    terminated: Arc<AtomicBool>,
    lines: Receiver<String>,
}

/// What a line asks for.
enum Wish {
    Nothing,
    Burst(u64),
    End,
}

impl Asked {
    fn new(talk: &Talk) -> Result<Self, Error> {
        let terminated = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTERM, Arc::clone(&terminated))?;
        Ok(Asked {
            terminated,
            lines: talk.all_lines(),
        })
    }

    fn wish(&self) -> Wish {
        // ORDERING: Relaxed; says only itself.
        if self.terminated.load(Ordering::Relaxed) {
            return Wish::End;
        }
        match self.lines.try_recv() {
            Err(TryRecvError::Empty) => Wish::Nothing,
            Err(TryRecvError::Disconnected) => Wish::End,
            Ok(line) => match line.strip_prefix("burst ").map(str::parse) {
                Some(Ok(events)) => Wish::Burst(events),
                _ => Wish::End,
            },
        }
    }
}

fn say_ready(talk: &Talk) -> Result<(), Error> {
    talk.say(&json!({"ready": true}))
}

/// What the consumer tells besides: for the record of the run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Noticed {
    pub(super) notice: String,
}

/// How the notice of a consumer begins that could not write everything before its end.
pub(super) const NOT_CLOSED: &str = "not closed: ";

/// The consumer: `bus=NAME logs=DIR keeping=JSON`. Ends in order on SIGTERM.
pub(crate) fn daemon_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let keeping: Keeping = serde_json::from_str(arguments.text("keeping")?)?;
    let mut signals = Signals::new([SIGTERM])?;
    let mut reloads = 0u64;
    let mut daemon = Daemon::builder(&bus, Path::new(arguments.text("logs")?))
        .policy(keeping.policy())
        .reload_with(move || {
            reloads += 1;
            Ok(Configuration {
                rules: rules(reloads % 2 == 1).map_err(|error| error.to_string())?,
                ..Configuration::default()
            })
        })
        .open()?;
    let stop = daemon.stop_handle();
    std::thread::spawn(move || {
        signals.forever().next();
        stop.stop();
    });
    let stop = daemon.stop_handle();
    let lines = talk.all_lines();
    std::thread::spawn(move || {
        // Whatever is said: whoever started us wants us no more, or is gone.
        let _ = lines.recv();
        stop.stop();
    });
    say_ready(talk)?;
    daemon.run(&mut |notice| {
        let notice = notice.to_string().chars().take(NOTICE_CHARACTERS).collect();
        // Whoever listens may be gone.
        let _ = talk.say(&Noticed { notice });
    });
    if let Err(error) = daemon.close() {
        // With no room on the disk it cannot write what it has: that is in the lanes still, for the next consumer.
        let notice = format!("{NOT_CLOSED}{error}");
        talk.say(&Noticed { notice })?;
    }
    Ok(())
}

/// What a publisher tells: how many events of this incarnation are committed, and how many of those offered were
/// dropped. Dropped ones have a number too.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Acked {
    pub(super) offered: u64,
    pub(super) dropped: u64,
    /// Everything is with the consumer: it ended in order.
    pub(super) flushed: bool,
}

/// Payloads, in a buffer that is used again and again.
struct Line {
    label: String,
    incarnation: u64,
    /// Names that its events go round over.
    names: u64,
    text: Vec<u8>,
}

impl Line {
    /// `LABEL INCARNATION NUMBER xxx..`; of a conflated event, LABEL says which of its names too.
    fn of(&mut self, number: u64, length_bytes: usize) -> &[u8] {
        let Line {
            label,
            incarnation,
            names,
            text,
        } = self;
        text.clear();
        // Writing to a Vec cannot fail.
        let _ = match *names {
            1 => write!(text, "{label} {incarnation} {number} "),
            names => write!(text, "{label}.{} {incarnation} {number} ", number % names),
        };
        if text.len() < length_bytes {
            text.resize(length_bytes, b'x');
        }
        text
    }
}

/// One publisher and what it says.
struct Voice {
    publisher: Publisher,
    topics: Vec<Topic>,
    kind: Kind,
    line: Line,
    offered: u64,
}

impl Voice {
    fn publish(&mut self, events: u64, length_bytes: usize) -> Result<(), Error> {
        match self.kind {
            Kind::Batch => self.publish_batch(events, length_bytes),
            _ => (0..events).try_for_each(|_| self.publish_one(length_bytes)),
        }
    }

    fn publish_batch(&mut self, events: u64, length_bytes: usize) -> Result<(), Error> {
        let mut batch = self.publisher.batch(self.topics[0])?;
        for _ in 0..events {
            accept(batch.push(Level::Info, self.line.of(self.offered, length_bytes)))?;
            self.offered += 1;
        }
        batch.commit();
        Ok(())
    }

    fn publish_one(&mut self, length_bytes: usize) -> Result<(), Error> {
        let number = self.offered;
        let topic = self.topics[(number % self.topics.len() as u64) as usize];
        let level = match number % 50 {
            0 => Level::Error,
            _ => Level::Info,
        };
        let outcome = match self.kind {
            Kind::Sample => {
                let incarnation = self.line.incarnation;
                let sample = Sample {
                    number,
                    incarnation,
                };
                self.publisher.publish_event(topic, level, &sample)
            }
            _ => {
                let payload = self.line.of(number, length_bytes);
                self.publisher.publish(topic, level, payload)
            }
        };
        self.offered += 1;
        accept(outcome.map(|_| ()))
    }

    fn acked(&self, flushed: bool) -> Acked {
        Acked {
            offered: self.offered,
            dropped: self.publisher.counts().dropped(),
            flushed,
        }
    }
}

/// Drops are counted; anything else ends the publisher.
fn accept(outcome: Result<(), PublishError>) -> Result<(), Error> {
    match outcome {
        Ok(()) | Err(PublishError::Full) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `bus=NAME label=L event=NAME kind=text|batch|keys|sample rate=PER_SECOND bursts=true|false incarnation=N`.
///
/// At `rate`, or the events of a second at once. The line `burst N` makes it say as many as fast as it can.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let asked = Asked::new(talk)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let (label, event) = (arguments.text("label")?, arguments.text("event")?);
    let kind: Kind = arguments.text("kind")?.parse()?;
    let rate: u64 = arguments.get("rate")?;
    let bursts: bool = arguments.get("bursts")?;
    let mut publisher = bus.publisher(label)?;
    let topics = match kind {
        Kind::Sample => vec![publisher.event_topic_named::<Sample>(event)?],
        Kind::Keys => (0..KEYS)
            .map(|key| publisher.topic(&format!("{event}:{key}")))
            .collect::<Result<_, _>>()?,
        Kind::Text | Kind::Batch => vec![publisher.topic(event)?],
    };
    let line = Line {
        label: label.to_owned(),
        incarnation: arguments.get("incarnation")?,
        names: topics.len() as u64,
        text: Vec::new(),
    };
    let mut voice = Voice {
        publisher,
        topics,
        kind,
        line,
        offered: 0,
    };
    say_ready(talk)?;
    let started = Instant::now();
    let mut paced = 0;
    loop {
        let elapsed = started.elapsed();
        let due = match bursts {
            true => elapsed.as_secs() * rate,
            false => elapsed.as_millis() as u64 * rate / 1000,
        };
        while paced < due {
            let events = ACK_EVERY.min(due - paced);
            voice.publish(events, LINE_BYTES)?;
            paced += events;
            talk.say(&voice.acked(false))?;
        }
        match asked.wish() {
            Wish::Nothing => std::thread::sleep(TICK),
            Wish::Burst(events) => {
                voice.publish(events, BURST_LINE_BYTES)?;
                talk.say(&voice.acked(false))?;
            }
            Wish::End => break,
        }
    }
    voice
        .publisher
        .flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    talk.say(&voice.acked(true))
}

/// What a reader has seen since it last told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// By `LABEL INCARNATION`.
    pub(super) numbers: BTreeMap<String, Numbers>,
    /// Events or lines.
    pub(super) events: u64,
    /// Events that aggregates stand for.
    pub(super) aggregated: u64,
    pub(super) lagged: u64,
    /// Drops: of a subscriber, those it was told of.
    pub(super) dropped: u64,
    /// Lines that tell of drops, by source.
    pub(super) gaps: BTreeMap<String, u64>,
    /// What is not of the form it must have.
    pub(super) damaged: u64,
    /// Times that retention was ahead of a follower.
    pub(super) gone: u64,
    /// Where a follower stands behind all that.
    pub(super) cursor: Option<String>,
}

impl Told {
    /// A payload `LABEL INCARNATION NUMBER ..`.
    fn note(&mut self, text: &str) {
        self.events += 1;
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (label, incarnation, number) = (word(), word(), word().parse());
        let Ok(number) = number else {
            self.damaged += 1;
            return;
        };
        // A look-up first: what is there already costs no allocation.
        let key_bytes = label.len() + 1 + incarnation.len();
        let key = &text[..key_bytes.min(text.len())];
        match self.numbers.get_mut(key) {
            Some(numbers) => numbers.add(number),
            None => {
                let mut numbers = Numbers::default();
                numbers.add(number);
                self.numbers.insert(key.to_owned(), numbers);
            }
        }
    }

    /// Goes on with what the same reader told later.
    pub(super) fn join(&mut self, later: Told) {
        for (key, numbers) in later.numbers {
            self.numbers.entry(key).or_default().join(&numbers);
        }
        for (source, count) in later.gaps {
            *self.gaps.entry(source).or_default() += count;
        }
        self.events += later.events;
        self.aggregated += later.aggregated;
        self.lagged += later.lagged;
        self.dropped += later.dropped;
        self.damaged += later.damaged;
        self.gone += later.gone;
        self.cursor = later.cursor.or(self.cursor.take());
    }

    fn is_news(&self) -> bool {
        let Told {
            events,
            aggregated,
            lagged,
            dropped,
            damaged,
            gone,
            ..
        } = *self;
        events + aggregated + lagged + dropped + damaged + gone > 0 || !self.gaps.is_empty()
    }
}

impl Subscriber for Told {
    fn on_event(&mut self, event: &BusEvent<'_>) {
        match event.aggregate() {
            Some(aggregate) => {
                self.events += 1;
                self.aggregated += aggregate.count();
            }
            // The first after a pause comes by itself.
            None if event.schema_id != 0 => {
                self.events += 1;
                self.aggregated += 1;
            }
            None => self.note(std::str::from_utf8(event.payload).unwrap_or_default()),
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lagged += lagged.count;
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.dropped += dropped.count();
    }
}

/// `bus=NAME label=L patterns=P[,P] slow_ms=N`.
pub(crate) fn subscriber_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let asked = Asked::new(talk)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let patterns = arguments.text("patterns")?.split(',').map(str::parse);
    let slow = Duration::from_millis(arguments.get("slow_ms")?);
    let label = arguments.text("label")?;
    let mut subscription = bus.subscribe(SubscribeOptions {
        patterns: patterns.collect::<Result<_, _>>()?,
        ..SubscribeOptions::new(label, "*".parse()?)
    })?;
    say_ready(talk)?;
    let mut told = Told::default();
    let mut told_at = Instant::now();
    let mut is_ending = false;
    loop {
        let events = subscription.poll(&mut told)?;
        if told.is_news() && (told_at.elapsed() >= TELL_EVERY || is_ending) {
            talk.say(&std::mem::take(&mut told))?;
            told_at = Instant::now();
        }
        // Once everything rests, what is not there now never comes.
        if is_ending && events == 0 && !subscription.wait(Some(Duration::ZERO)) {
            return talk.say(&told);
        }
        is_ending |= matches!(asked.wish(), Wish::End);
        if is_ending {
            continue;
        }
        if slow.is_zero() {
            subscription.wait(Some(TELL_EVERY));
            // In batches: a wake-up for each event would only heat the processor.
            std::thread::sleep(TICK / 4);
        } else {
            std::thread::sleep(slow);
        }
    }
}

/// `bus=NAME logs=DIR cursor=CURSOR`.
pub(crate) fn follower_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let asked = Asked::new(talk)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let cursor: Cursor = arguments.get("cursor")?;
    let mut follower = Follower::new(Path::new(arguments.text("logs")?), cursor);
    for service in SERVICES {
        follower.add_service(service);
    }
    say_ready(talk)?;
    loop {
        let is_ending = matches!(asked.wish(), Wish::End);
        let commits = bus.commits();
        let ends = committed_ends(&bus);
        let mut told = Told::default();
        let report = follower.read(&|service| ends.get(service).copied(), &mut |found| {
            match found {
                Followed::Line { hit, .. } => {
                    let message = std::str::from_utf8(hit.message).unwrap_or_default();
                    match hit.source {
                        b"millpond" => told.note_own(message),
                        _ => told.note(message),
                    }
                }
                Followed::Gone(_) => told.gone += 1,
            }
            ControlFlow::Continue(())
        })?;
        told.damaged += report.damaged_lines;
        if told.is_news() || is_ending {
            told.cursor = Some(follower.cursor().to_string());
            talk.say(&told)?;
        }
        if is_ending {
            return Ok(());
        }
        std::thread::sleep(TICK);
        bus.wait_for_commit(commits, Some(TELL_EVERY));
    }
}

impl Told {
    /// `gap source=LABEL .. count=N ..` of millpond itself; anything else of it is not expected here.
    fn note_own(&mut self, message: &str) {
        let value = |key: &str| {
            let mut words = message.split(' ');
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let count = value("count").and_then(|count| count.parse::<u64>().ok());
        match (message.starts_with("gap "), value("source"), count) {
            (true, Some(source), Some(count)) => {
                *self.gaps.entry(source.to_owned()).or_default() += count;
            }
            _ => self.damaged += 1,
        }
    }
}
