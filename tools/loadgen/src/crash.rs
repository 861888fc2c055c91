//! `crash`: kill -9 of every process, again and again, under load.
//!
//! Four publishers log 5,000 events a second each, a fifth is listened to, and in between the consumer, one of the four,
//! or a subscriber is killed, or stopped for a while and then killed or let go on. Whoever is killed is replaced at
//! once. A publisher notes in a file, after each `publish` that has returned, how many have: what a kill leaves there is
//! what must be in the log, and one event more may be.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, crash};
//! let report = crash::run(&crash::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Class, Event, Guarantee, Level, Rule, RuleTable, SubscribeOptions};
use millpond_logfile::{list_segments, verify_segment};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::clock::sleep_until_due;
use crate::criteria::{Criterion, LogAccount, balance_criterion};
use crate::day::Line;
use crate::error::{Error, no_such_phase};
use crate::files::{Found, Numbers};
use crate::latencies::{Latencies, Summary};
use crate::process::{Arguments, Host, Process, Talk};
use crate::random::Random;
use crate::stage::{Keeping, LOSSLESS, Stage, log_account, passthrough, rules_with, temporary};
use crate::text;

const SERVICES: [&str; 2] = ["db", "web"];
/// Publishers under load at any time; one of them is killed.
const PUBLISHERS: usize = 4;
/// Of each of them.
const EVENTS_PER_S: u64 = 5000;
/// Of the one that is listened to.
const TICKS_PER_S: u64 = 2000;
/// So small that segments begin, end and are sealed all the time.
const SEGMENT_BYTES: u64 = 256 << 10;
/// What is listened to: past the consumer, and in batches from it.
const HEARD: [&str; 2] = ["crash:past", "crash:batched"];
/// Between two kills, at most.
const QUIET_MS: u64 = 60;
/// How long a victim that is stopped first stays so, at most.
const STOPPED_MS: u64 = 40;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(120);
/// A consumer that has not committed a line by then is not going to.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Objects of the dead that nothing names are removed when they are ten seconds old.
const REMAINS_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Kills of the consumer, of publishers and of subscribers: so many of each.
    pub kills: u64,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
    /// Where random numbers start.
    pub seed: u64,
}

impl Options {
    /// 5 kills of each, a few seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            kills: 5,
            dir: None,
            seed: 1,
        }
    }

    /// 200 kills of each.
    pub fn full() -> Self {
        Options {
            kills: 200,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("crash", phase, "none"))
    }
}

/// What was done to one kind of process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// SIGKILL, each followed by a replacement.
    pub kills: u64,
    /// Of these, kills of a process that SIGSTOP had stopped in the middle of something.
    pub killed_stopped: u64,
    /// SIGSTOP, and SIGCONT a while later.
    pub pauses: u64,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Where random numbers started.
    pub seed: u64,
    /// From the first event to the last kill.
    pub elapsed_ns: u64,
    /// Of the consumer.
    pub consumer: Faults,
    /// Of publishers.
    pub publishers: Faults,
    /// Of subscribers.
    pub subscribers: Faults,
    /// Events for the log whose `publish` has returned.
    pub acknowledged: u64,
    /// Lines in the log.
    pub lines: u64,
    /// Events of killed publishers that were under way and are in the log: at most one for each kill.
    pub under_way: u64,
    /// Acknowledged events that are not in the log.
    pub lost: u64,
    /// Lines that are there again, or behind a later one.
    pub doubled: u64,
    /// Events that those who were not killed listened to: published, and missed or had twice.
    pub heard: u64,
    /// Of these.
    pub misheard: u64,
    /// From the kill of a consumer to the next commit of a line, its replacement started at once.
    pub recovery: Summary,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// The three kinds of victims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Consumer,
    Publisher,
    Subscriber,
}

/// A publisher for the log, and the file where it acknowledges.
struct Source {
    label: String,
    service: &'static str,
    process: Process,
}

/// What a subscriber has had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {
    events: u64,
    missing: u64,
    again: u64,
    lagged: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Published {
    events: u64,
}

/// How much of what a publisher said is in the log.
#[derive(Debug, Default)]
struct Sums {
    acknowledged: u64,
    lines: u64,
    under_way: u64,
    lost: u64,
    doubled: u64,
    accounts: Vec<LogAccount>,
}

struct Play<'h> {
    host: &'h Host,
    stage: Stage,
    random: Random,
    dir: PathBuf,
    sources: Vec<Source>,
    /// Labels of all that ever published, and whether they were killed.
    labels: Vec<(String, &'static str, bool)>,
    subscribers: Vec<Process>,
    recovery: Latencies,
    faults: [Faults; 3],
}

impl Play<'_> {
    fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.random.below(most_ms * 1000)));
    }

    fn start_source(&mut self, index: usize) -> Result<(), Error> {
        let label = format!("p-{}", self.labels.len());
        let service = SERVICES[index % SERVICES.len()];
        let (bus, dir) = (self.stage.name(), self.dir.display());
        let mut process = self.host.start(
            "crash-publisher",
            &[
                ("bus", &bus),
                ("label", &label),
                ("service", &service),
                ("dir", &dir),
            ],
        )?;
        process.say("go")?;
        self.labels.push((label.clone(), service, false));
        let source = Source {
            label,
            service,
            process,
        };
        match index < self.sources.len() {
            // The one before it goes, and its process with it.
            true => self.sources[index] = source,
            false => self.sources.push(source),
        }
        Ok(())
    }

    fn start_subscriber(&mut self, index: usize) -> Result<(), Error> {
        let subscriber = listen(self.host, self.stage.name(), HEARD[index % HEARD.len()])?;
        match index < self.subscribers.len() {
            true => self.subscribers[index] = subscriber,
            false => self.subscribers.push(subscriber),
        }
        Ok(())
    }

    fn lines(&self) -> u64 {
        let services = self.stage.bus.committed_services();
        services.iter().map(|service| service.lines).sum()
    }

    /// Stops `pid` for a while where chance says so, and lets it go on where chance says that. True: it is to be killed.
    fn stop_for_a_while(&mut self, kind: Kind, pid: u32) -> Result<bool, Error> {
        let pid = Pid::from_raw(pid as i32).ok_or_else(|| Error::new("a victim without a pid"))?;
        let send = |signal| {
            kill_process(pid, signal).map_err(|errno| Error::new(format!("{signal:?}: {errno}")))
        };
        let chance = self.random.below(4);
        if chance < 2 {
            return Ok(true);
        }
        send(Signal::STOP)?;
        self.pause(STOPPED_MS);
        let faults = &mut self.faults[kind as usize];
        if chance == 2 {
            faults.killed_stopped += 1;
            return Ok(true);
        }
        send(Signal::CONT)?;
        faults.pauses += 1;
        Ok(false)
    }

    /// One fault; true where it was a kill.
    fn strike(&mut self, kind: Kind) -> Result<bool, Error> {
        let index = match kind {
            Kind::Consumer => 0,
            Kind::Publisher => self.random.below(PUBLISHERS as u64) as usize,
            Kind::Subscriber => self.random.below(HEARD.len() as u64) as usize,
        };
        let pid = match kind {
            Kind::Consumer => self.stage.consumer_pid(),
            Kind::Publisher => self.sources[index].process.pid(),
            Kind::Subscriber => self.subscribers[index].pid(),
        };
        if !self.stop_for_a_while(kind, pid)? {
            return Ok(false);
        }
        self.faults[kind as usize].kills += 1;
        match kind {
            Kind::Consumer => self.replace_consumer()?,
            Kind::Publisher => {
                self.sources[index].process.kill()?;
                let killed = &self.sources[index].label;
                let mut labels = self.labels.iter_mut();
                if let Some((.., was_killed)) = labels.find(|(label, ..)| label == killed) {
                    *was_killed = true;
                }
                self.start_source(index)?;
            }
            Kind::Subscriber => {
                self.subscribers[index].kill()?;
                self.start_subscriber(index)?;
            }
        }
        Ok(true)
    }

    fn replace_consumer(&mut self) -> Result<(), Error> {
        let killed = Instant::now();
        self.stage.kill_consumer()?;
        let before = self.lines();
        self.stage.start_consumer(self.host)?;
        loop {
            let seen = self.stage.bus.commits();
            if self.lines() > before {
                break;
            }
            if killed.elapsed() > RECOVERY_LIMIT {
                return Err(Error::new(format!(
                    "no line was committed in {RECOVERY_LIMIT:?} after a kill of the consumer"
                )));
            }
            self.stage.bus.wait_for_commit(seen, Some(LOOK));
        }
        self.recovery.record(killed.elapsed().as_nanos() as u64);
        Ok(())
    }

    /// Compares what each publisher acknowledged with what is in the log.
    fn sums(&self, stats: &millpond_bus::Stats, logs_dir: &Path) -> Result<Sums, Error> {
        let mut found = BTreeMap::new();
        let mut sums = Sums::default();
        for service in SERVICES {
            let of_service = Found::read(&logs_dir.join(service))?;
            sums.lost += of_service.damaged + of_service.other + of_service.own.len() as u64;
            found.extend(of_service.numbers);
        }
        for (label, _, was_killed) in &self.labels {
            let acknowledged = read_acknowledged(&self.dir, label)?;
            let numbers = found.remove(label).unwrap_or_default();
            let there = numbers.lines;
            let whole = numbers.are_all_of(there);
            let most = acknowledged + u64::from(*was_killed);
            sums.acknowledged += acknowledged;
            sums.lines += there;
            sums.lost += acknowledged.saturating_sub(there) + numbers.missing;
            sums.under_way += there.saturating_sub(acknowledged).min(most - acknowledged);
            // Also a first line that is not number 0, and lines that nobody published.
            let excess = there.saturating_sub(most);
            sums.doubled += numbers.again + excess + u64::from(!whole && numbers.missing == 0);
            sums.accounts.push(log_account(stats, label, there));
        }
        sums.doubled += found.values().map(|numbers| numbers.lines).sum::<u64>();
        Ok(sums)
    }
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let logs = temporary(options.dir.as_deref())?;
    let notes = temporary(options.dir.as_deref())?;
    let keeping = Keeping {
        segment_bytes: Some(SEGMENT_BYTES),
        total_bytes: Some(0),
        ..Keeping::default()
    };
    let stage = Stage::keeping(&host, "crash", rules()?, &keeping, logs.path())?;
    let bus_name = stage.name().to_owned();
    let mut play = Play {
        host: &host,
        stage,
        random: Random::new(options.seed),
        dir: notes.path().to_owned(),
        sources: Vec::new(),
        labels: Vec::new(),
        subscribers: Vec::new(),
        recovery: Latencies::default(),
        faults: [Faults::default(); 3],
    };
    let mut witnesses = Vec::new();
    for (index, pattern) in HEARD.iter().enumerate() {
        witnesses.push(listen(&host, &bus_name, pattern)?);
        play.start_subscriber(index)?;
    }
    let mut ticker = host.start("crash-ticker", &[("bus", &bus_name)])?;
    ticker.say("go")?;
    for index in 0..PUBLISHERS {
        play.start_source(index)?;
    }
    let started = Instant::now();
    let mut left = [options.kills; 3];
    while left.iter().any(|&kills| kills > 0) {
        play.pause(QUIET_MS);
        let kind = [Kind::Consumer, Kind::Publisher, Kind::Subscriber]
            [play.random.below(left.len() as u64) as usize];
        if left[kind as usize] > 0 && play.strike(kind)? {
            left[kind as usize] -= 1;
            let left: u64 = left.iter().sum();
            progress(&format!("crash: {left} kills to go"));
        }
    }
    let elapsed_ns = started.elapsed().as_nanos() as u64;
    // Publishers end first: the lanes of all of them, dead or not, are drained by the last consumer.
    for source in std::mem::take(&mut play.sources) {
        end_source(source)?;
    }
    ticker.say("end")?;
    let ticked: Published = ticker.result(END_LIMIT)?;
    let stats = play.stage.settle()?;
    let mut heard = Vec::new();
    for mut witness in witnesses {
        witness.say("end")?;
        heard.push(witness.result::<Heard>(END_LIMIT)?);
    }
    for mut subscriber in std::mem::take(&mut play.subscribers) {
        subscriber.say("end")?;
        subscriber.result::<Heard>(END_LIMIT)?;
    }
    let remains = wait_for_remains(&bus_name)?;
    let segments = verify(logs.path())?;
    let sums = play.sums(&stats, logs.path())?;
    let Play {
        stage,
        recovery,
        faults,
        ..
    } = play;
    stage.close()?;
    let left_over = objects(&bus_name, "")?;
    let misheard =
        |heard: &Heard| heard.again + ticked.events.abs_diff(heard.events + heard.lagged);
    let mut report = Report {
        seed: options.seed,
        elapsed_ns,
        consumer: faults[Kind::Consumer as usize],
        publishers: faults[Kind::Publisher as usize],
        subscribers: faults[Kind::Subscriber as usize],
        acknowledged: sums.acknowledged,
        lines: sums.lines,
        under_way: sums.under_way,
        lost: sums.lost,
        doubled: sums.doubled,
        heard: ticked.events * heard.len() as u64,
        misheard: heard.iter().map(misheard).sum(),
        recovery: recovery.summary(),
        criteria: Vec::new(),
    };
    report.criteria = vec![
        Criterion::new(
            format!(
                "{} consumers, {} publishers and {} subscribers killed, {} each wanted",
                report.consumer.kills,
                report.publishers.kills,
                report.subscribers.kills,
                options.kills
            ),
            faults.iter().all(|faults| faults.kills == options.kills),
        ),
        Criterion::new(
            format!(
                "of {} acknowledged events {} are not in the log",
                report.acknowledged, report.lost
            ),
            report.lost == 0 && report.acknowledged > 0,
        ),
        Criterion::new(
            format!(
                "{} lines are there again or were never published",
                report.doubled
            ),
            report.doubled == 0,
        ),
        balance_criterion(&sums.accounts),
        Criterion::new(
            format!(
                "of {} events {} were missed or had twice by who listened and was not killed",
                report.heard, report.misheard
            ),
            report.misheard == 0 && report.heard > 0,
        ),
        Criterion::new(
            format!(
                "{} of {} consumers went on without help",
                report.recovery.count, report.consumer.kills
            ),
            report.recovery.count == report.consumer.kills,
        ),
        Criterion::new(
            format!(
                "lanes and subscribers of the dead are gone: {} left of them, and {} objects at the end",
                remains.len(),
                left_over.len()
            ),
            remains.is_empty() && left_over.is_empty(),
        ),
        Criterion::new(
            format!(
                "the index of {} of {} segments is what its text says",
                segments.good, segments.all
            ),
            segments.good == segments.all && segments.all > 0,
        ),
    ];
    Ok(report)
}

fn rules() -> Result<RuleTable, Error> {
    let mut log = RuleTable::defaults()
        .iter()
        .find(|rule| rule.service.is_some())
        .cloned()
        .ok_or_else(|| Error::new("no default rule is logged"))?;
    log.overflow = LOSSLESS;
    let batched = Rule {
        class: Class::Batch,
        overflow: LOSSLESS,
        max_delay: Duration::from_millis(5),
        ..Rule::new(format!("{}:*", HEARD[1]).parse()?)
    };
    let past = passthrough(&format!("{}:*", HEARD[0]))?;
    rules_with(vec![past, batched, log])
}

fn listen(host: &Host, bus: &str, prefix: &str) -> Result<Process, Error> {
    let mut subscriber = host.start("crash-subscriber", &[("bus", &bus), ("prefix", &prefix)])?;
    subscriber.say("go")?;
    Ok(subscriber)
}

fn end_source(mut source: Source) -> Result<(), Error> {
    source.process.say("end")?;
    let published: Published = source
        .process
        .result(END_LIMIT)
        .map_err(|error| Error::new(format!("{} of {}: {error}", source.label, source.service)))?;
    match published.events {
        0 => Err(Error::new(format!(
            "{} has published nothing",
            source.label
        ))),
        _ => Ok(()),
    }
}

/// What is left of lanes and subscribers, after as long as it may take to go.
fn wait_for_remains(bus: &str) -> Result<Vec<String>, Error> {
    let started = Instant::now();
    loop {
        let mut remains = objects(bus, "lane.")?;
        remains.extend(objects(bus, "subscriber.")?);
        if remains.is_empty() || started.elapsed() > REMAINS_LIMIT {
            return Ok(remains);
        }
        std::thread::sleep(LOOK);
    }
}

/// Objects in shared memory of a bus whose names go on with `kind`.
fn objects(bus: &str, kind: &str) -> Result<Vec<String>, Error> {
    let prefix = format!("millpond.{bus}.{kind}");
    let entries = fs::read_dir("/dev/shm")?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(&prefix)).collect())
}

#[derive(Debug, Default)]
struct Segments {
    all: u64,
    good: u64,
}

fn verify(logs_dir: &Path) -> Result<Segments, Error> {
    let mut segments = Segments::default();
    for service in SERVICES {
        let dir = logs_dir.join(service);
        for id in list_segments(&dir)? {
            segments.all += 1;
            segments.good += u64::from(verify_segment(&dir, id)?.damage.is_empty());
        }
    }
    Ok(segments)
}

fn note_path(dir: &Path, label: &str) -> PathBuf {
    dir.join(label)
}

fn read_acknowledged(dir: &Path, label: &str) -> Result<u64, Error> {
    let bytes = fs::read(note_path(dir, label))?;
    Ok(bytes
        .first_chunk()
        .map_or(0, |&bytes| u64::from_le_bytes(bytes)))
}

/// `bus=NAME label=TEXT service=TEXT dir=DIR`. Publishes until it hears a line.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let (label, service) = (arguments.text("label")?, arguments.text("service")?);
    // What is written to it outlives us, whenever we die.
    let note = File::create(note_path(Path::new(arguments.text("dir")?), label))?;
    let mut publisher = bus.publisher(label)?;
    let topic = publisher.topic(&format!("log:{service}:{label}"))?;
    talk.ready()?;
    let end = talk.next_line();
    let (mut line, mut events) = (Line::new(), 0u64);
    let started = Instant::now();
    while end.try_recv() == Err(TryRecvError::Empty) {
        sleep_until_due(started, events, EVENTS_PER_S);
        let (level, payload) = line.of(label, events);
        publisher.publish(topic, level, payload)?;
        events += 1;
        note.write_all_at(&events.to_le_bytes(), 0)?;
    }
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    talk.say(&Published { events })
}

/// `bus=NAME`. Publishes numbers to whoever listens, the same ones both ways, until it hears a line.
pub(crate) fn ticker_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let mut publisher = bus.publisher("ticker")?;
    let mut topics = Vec::new();
    for prefix in HEARD {
        topics.push(publisher.topic(&format!("{prefix}:tick"))?);
    }
    talk.ready()?;
    let end = talk.next_line();
    let mut events = 0u64;
    let started = Instant::now();
    while end.try_recv() == Err(TryRecvError::Empty) {
        sleep_until_due(started, events, TICKS_PER_S);
        for &topic in &topics {
            publisher.publish(topic, Level::Info, &events.to_le_bytes())?;
        }
        events += 1;
    }
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    talk.say(&Published { events })
}

/// `bus=NAME prefix=TEXT`. Listens until it hears a line, and then for what is there.
pub(crate) fn subscriber_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let pattern = format!("{}:*", arguments.text("prefix")?);
    let options = SubscribeOptions::new("listener", pattern.parse()?);
    let mut subscription = bus.subscribe(options)?;
    talk.ready()?;
    let end = talk.next_line();
    let mut numbers = Numbers::default();
    loop {
        // Whatever came before the line is there when it has come.
        let is_last = end.try_recv() != Err(TryRecvError::Empty);
        subscription.poll(&mut |event: &Event<'_>| {
            if let Some(&bytes) = event.payload.first_chunk() {
                numbers.add(u64::from_le_bytes(bytes));
            }
        })?;
        if is_last && !subscription.wait(Some(Duration::ZERO)) {
            break;
        }
        subscription.wait(Some(LOOK));
    }
    talk.say(&Heard {
        events: numbers.lines,
        missing: numbers.missing,
        again: numbers.again,
        lagged: subscription.counts().lagged,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "crash: seed {}, {} of load, {} events acknowledged, {} lines, {} under way at a kill",
            self.seed,
            text::duration(self.elapsed_ns),
            self.acknowledged,
            self.lines,
            self.under_way
        )?;
        let mut table = text::Table::new(&["killed", "kills", "while stopped", "only stopped"]);
        for (what, faults) in [
            ("consumer", self.consumer),
            ("publisher", self.publishers),
            ("subscriber", self.subscribers),
        ] {
            let numbers = [faults.kills, faults.killed_stopped, faults.pauses];
            let cells = std::iter::once(what.to_owned());
            table.row(
                cells
                    .chain(numbers.map(|number| number.to_string()))
                    .collect(),
            );
        }
        write!(f, "{table}")?;
        text::latencies(f, &[("recovery", self.recovery)])?;
        text::criteria(f, &self.criteria)
    }
}
