//! What the parts about the bus share: a bus that goes away, who publishes and who drains, and their processes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::{black_box, spin_loop};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millpond_bus::{
    Bus, BusOptions, Class, Clock, Guarantee, Item, Level, Limits, Overflow, Publisher, Rule,
    RuleTable, Scope, SubscribeOptions, Subscription, Topic, Verdict,
};
use millpond_daemon::Daemon;
use millpond_loadgen::{Arguments, Error, Process, Talk};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::bare;
use crate::plan::{Case, Options, Part};
use crate::row::{Figure, Guarantees, Round, Row, Varied};
use crate::usage::Usage;

pub(super) const PAYLOAD_BYTES: usize = 64;
pub(super) const PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];
/// Publishes timed together.
pub(super) const BURST: u64 = 64;
/// Who polls lets so many events gather before it looks again ..
pub(super) const FEW: u64 = 64;
/// .. and spins so often meanwhile.
pub(super) const SPINS: u32 = 2000;
/// Nothing that is asked of a process here takes so long: it hangs.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// A publisher waits this long for space before it gives up, and its round fails.
const PATIENCE: Duration = Duration::from_secs(60);

// ------------------------------------------------------------------------------------------------ rows

/// What is accepted is in shared memory, and waits for who reads it.
const OWN: Guarantees = Guarantees {
    bounded: true,
    blocking: true,
    lossy: false,
    crash_safe: true,
    durable: false,
};
/// Threads of one process have no more than this.
const BARE: Guarantees = Guarantees {
    bounded: true,
    blocking: true,
    lossy: false,
    crash_safe: false,
    durable: false,
};

/// A case of millpond's.
pub(super) fn case(
    part: Part,
    work: &str,
    peer: &str,
    figure: Figure,
    round: impl FnMut() -> Result<Round, Error> + 'static,
) -> Case {
    Case {
        row: own_row(part, work, peer, figure),
        round: Box::new(round),
    }
}

/// A case of a floor's.
pub(super) fn floor(
    part: Part,
    work: &str,
    peer: &str,
    figure: Figure,
    round: impl FnMut() -> Result<Round, Error> + 'static,
) -> Case {
    Case {
        row: Row::of_floor(part.name(), work, peer, figure, BARE),
        round: Box::new(round),
    }
}

/// The same as a point of a curve.
pub(super) fn varied(case: Case, name: &str, value: u64) -> Case {
    Case {
        row: point(case.row, name, value),
        ..case
    }
}

/// A row as a point of a curve.
pub(super) fn point(row: Row, name: &str, value: u64) -> Row {
    Row {
        varied: Some(Varied {
            name: name.to_owned(),
            value,
        }),
        ..row
    }
}

/// A row of millpond's.
pub(super) fn own_row(part: Part, work: &str, peer: &str, figure: Figure) -> Row {
    Row::of_millpond(part.name(), work, peer, figure, OWN)
}

/// Two cases that one measurement gives the rounds of: it runs for whichever of them is first in a round.
pub(super) fn twins(
    rows: [Row; 2],
    measure: impl FnMut() -> Result<[Round; 2], Error> + 'static,
) -> [Case; 2] {
    let measure = Rc::new(RefCell::new(measure));
    let waiting: Rc<RefCell<[VecDeque<Round>; 2]>> = Rc::default();
    let mut index = 0..2;
    rows.map(|row| {
        let own = index.next().unwrap_or_default();
        let (measure, waiting) = (Rc::clone(&measure), Rc::clone(&waiting));
        let round = move || {
            if let Some(round) = waiting.borrow_mut()[own].pop_front() {
                return Ok(round);
            }
            let mut rounds = (measure.borrow_mut())()?;
            waiting.borrow_mut()[1 - own].push_back(std::mem::take(&mut rounds[1 - own]));
            Ok(std::mem::take(&mut rounds[own]))
        };
        Case {
            row,
            round: Box::new(round),
        }
    })
}

/// So many events in that time.
pub(super) fn round_of(events: u64, took: Duration, usage: Usage) -> Round {
    round_of_seconds(events, took.as_secs_f64(), usage)
}

/// The same with the time in s.
pub(super) fn round_of_seconds(events: u64, seconds: f64, usage: Usage) -> Round {
    Round {
        events,
        seconds,
        cpu_seconds: usage.cpu_seconds(),
        memory_bytes: Some(usage.memory_bytes),
        ..Round::default()
    }
}

// ----------------------------------------------------------------------------------------------- usage

/// What this process uses from here on.
pub(super) struct Meter(Usage);

impl Meter {
    pub(super) fn start() -> Result<Self, Error> {
        // From here on the peak of the memory is this round's; where that is not allowed it is that of all before.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Ok(Meter(Usage::own()?))
    }

    pub(super) fn used(&self) -> Result<Usage, Error> {
        Ok(Usage::own()?.since(self.0))
    }
}

// ----------------------------------------------------------------------------------------------- buses

/// Removed when it is dropped.
pub(super) struct OwnBus(Bus);

impl OwnBus {
    /// Of a name of its own.
    pub(super) fn new(what: &str, options: &BusOptions) -> Result<Self, Error> {
        // ORDERING: Relaxed; the number only has to be unique in this process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{what}-{}-{number}", std::process::id());
        Ok(OwnBus(Bus::attach(&name, options)?))
    }

    /// With these rules and no others, and room for many lanes, or large ones: the curves have them.
    pub(super) fn with_rules(what: &str, rules: Vec<Rule>) -> Result<Self, Error> {
        let options = BusOptions {
            rules: RuleTable::new(rules)?,
            limits: Limits {
                bus_bytes: 512 << 20,
                lanes: 1024,
            },
            ..BusOptions::default()
        };
        Self::new(what, &options)
    }

    /// Two clocks of one time, for two threads of a floor.
    pub(super) fn clocks() -> Result<[Clock; 2], Error> {
        let bus = Self::with_rules("clock", vec![rule("*", Class::Passthrough)?])?;
        Ok([bus.clock(), bus.clock()])
    }
}

impl std::ops::Deref for OwnBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.0
    }
}

impl Drop for OwnBus {
    fn drop(&mut self) {
        // What cannot be removed now is reported by `millpond doctor` later.
        let _ = self.0.remove();
    }
}

/// Lanes of 4 MiB, and publishers that wait for space.
pub(super) fn rule(pattern: &str, class: Class) -> Result<Rule, Error> {
    Ok(Rule {
        class,
        lane_bytes: 4 << 20,
        overflow: Overflow::Block { deadline: PATIENCE },
        ..Rule::new(pattern.parse()?)
    })
}

/// A subscriber of one pattern, from now on.
pub(super) fn subscribe(bus: &Bus, pattern: &str, busy_poll: bool) -> Result<Subscription, Error> {
    Ok(bus.subscribe(SubscribeOptions {
        busy_poll,
        ..SubscribeOptions::new("bench", pattern.parse()?)
    })?)
}

// ---------------------------------------------------------------------------------------- who publishes

/// A publisher with the topic of its events.
pub(super) struct Publishing {
    publisher: Publisher,
    topic: Topic,
}

impl Publishing {
    pub(super) fn new(bus: &Bus, label: &str, event_name: &str) -> Result<Self, Error> {
        let mut publisher = bus.publisher(label)?;
        let topic = publisher.topic(event_name)?;
        Ok(Publishing { publisher, topic })
    }

    /// Publishes `events`, `batch` with one commit. An event that is dropped is an error.
    #[inline(always)]
    pub(super) fn publish(
        &mut self,
        events: u64,
        batch: u64,
        payload: &impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        if batch == 1 {
            for _ in 0..events {
                let payload = black_box(payload).as_ref();
                self.publisher.publish(self.topic, Level::Info, payload)?;
            }
            return Ok(());
        }
        let mut left = events;
        while left > 0 {
            let mut many = self.publisher.batch(self.topic)?;
            for _ in 0..left.min(batch) {
                many.push(Level::Info, black_box(payload).as_ref())?;
            }
            many.commit();
            left -= left.min(batch);
        }
        Ok(())
    }

    /// Waits until the consumer has committed all.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        Ok(self.publisher.flush(Guarantee::Written, Some(PATIENCE))?)
    }
}

// ------------------------------------------------------------------------------------------- who drains

/// A consumer on a thread of its own, which polls.
pub(super) struct Consumer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64, Error>>>,
}

impl Consumer {
    /// Drains what `pattern`'s class makes it drain, and hands nothing on: what is measured is the way to it.
    pub(super) fn start(bus: &Bus, pattern: &str, class: Class) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (bus, pattern) = (bus.clone(), pattern.to_owned());
        let thread = {
            let stop = Arc::clone(&stop);
            bare::spawn("consumer", move || drain(&bus, &pattern, class, &stop))?
        };
        Ok(Consumer {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it; an error where not just `events` came.
    pub(super) fn stop(mut self, events: u64) -> Result<(), Error> {
        match self.end()? {
            drained if drained == events => Ok(()),
            drained => Err(Error::new(format!(
                "{drained} of {events} events came to the consumer"
            ))),
        }
    }

    fn end(&mut self) -> Result<u64, Error> {
        // ORDERING: Release; read with Acquire by the thread. Carries nothing but itself.
        self.stop.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(0), bare::join)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // A round that failed before has told why.
        let _ = self.end();
    }
}

fn drain(bus: &Bus, pattern: &str, class: Class, stop: &AtomicBool) -> Result<u64, Error> {
    let mut drain = bus.drain()?;
    let channel = drain
        .channel(&pattern.parse()?)
        .ok_or_else(|| Error::new(format!("bus {:?} has no rule {pattern}", bus.name())))?;
    let scope = match class {
        Class::Passthrough => Scope::Passthrough,
        _ => Scope::Batched,
    };
    let (mut records, mut sum) = (0, 0u64);
    // ORDERING: Acquire; see `Consumer::end`.
    while !stop.load(Ordering::Acquire) {
        let pass = drain.pass(scope, &mut |item: Item<'_>| {
            if let Item::Record(record) = item {
                sum += u64::from(record.payload[0]);
            }
            Verdict::Keep
        });
        records += pass.records;
        if drain.directory_changed() {
            drain.housekeep();
        }
        if pass.records > 0 {
            match scope {
                Scope::Passthrough => drain.commit_passthrough(),
                _ => drain.commit_batched(channel, &[]),
            }
        }
        if pass.records < FEW {
            (0..SPINS).for_each(|_| spin_loop());
        }
    }
    match sum == records * u64::from(PAYLOAD[0]) {
        true => Ok(records),
        false => Err(Error::new("what was drained is not what was published")),
    }
}

// ---------------------------------------------------------------------------------------- the processes

/// A daemon in a process of its own, and a log directory that stays empty.
pub(super) struct OwnDaemon {
    // Dropped in this order.
    process: Process,
    _logs: TempDir,
}

impl OwnDaemon {
    pub(super) fn start(options: &Options, bus: &Bus) -> Result<Self, Error> {
        let logs = options.new_dir()?;
        let place = logs.path().display();
        let mut process = options
            .host()?
            .start("bus-daemon", &[("bus", &bus.name()), ("logs", &place)])?;
        process.say("go")?;
        Ok(OwnDaemon {
            process,
            _logs: logs,
        })
    }

    /// What it has used so far.
    pub(super) fn usage(&mut self) -> Result<Usage, Error> {
        self.process.say("usage")?;
        self.process.hear(LIMIT)
    }

    /// Ends it, when it has written everything.
    pub(super) fn stop(mut self) -> Result<(), Error> {
        self.process.say("stop")?;
        self.process.result::<Usage>(LIMIT).map(drop)
    }
}

/// `bus=NAME logs=DIR`. The line `usage` asks what it has used, any other ends it.
pub(super) fn daemon_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let running = Daemon::builder(&bus, Path::new(arguments.text("logs")?)).spawn()?;
    let mut asked = talk.ready().and_then(|()| talk.hear());
    while asked.as_ref().is_ok_and(|line| line == "usage") {
        talk.say(&Usage::own()?)?;
        asked = talk.hear();
    }
    running.stop()?;
    // Nobody is left to be told when the other side is gone.
    asked.and_then(|_| talk.say(&Usage::own()?))
}

/// What a publisher's process leaves, in the bus's time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Published {
    /// Right before the first event.
    pub(super) started_ns: u64,
    /// After the last.
    pub(super) ended_ns: u64,
    /// When the consumer had committed all.
    pub(super) flushed_ns: u64,
    /// An event in those bursts that need not wait, where bursts are timed: the tenth part of them took no longer.
    pub(super) free_ns: f64,
    /// Until the last event was published; the wait after it is not work of a publisher.
    pub(super) usage: Usage,
}

impl Published {
    /// From the first event to the last, in s.
    pub(super) fn seconds(&self) -> f64 {
        (self.ended_ns - self.started_ns) as f64 / 1e9
    }
}

/// Starts a publisher of `events` of 64 bytes on `data:bench`, ready for its `go`.
pub(super) fn start_publisher(
    options: &Options,
    bus: &Bus,
    index: usize,
    events: u64,
    batch: u64,
    has_bursts: bool,
) -> Result<Process, Error> {
    options.host()?.start(
        "bus-publisher",
        &[
            ("bus", &bus.name()),
            ("index", &index),
            ("events", &events),
            ("batch", &batch),
            ("bursts", &has_bursts),
        ],
    )
}

/// `bus=NAME index=N events=N batch=N bursts=BOOL`.
pub(super) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let (events, batch): (u64, u64) = (arguments.get("events")?, arguments.get("batch")?);
    let has_bursts: bool = arguments.get("bursts")?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let clock = bus.clock();
    let label = format!("bench{}", arguments.text("index")?);
    let mut publishing = Publishing::new(&bus, &label, "data:bench")?;
    let mut bursts_ns = Vec::with_capacity((events / BURST) as usize + 1);
    talk.ready()?;
    let meter = Meter::start()?;
    let started_ns = clock.now_ns();
    if has_bursts {
        let mut last_ns = started_ns;
        for _ in 0..events / BURST {
            publishing.publish(BURST, batch, &PAYLOAD)?;
            let now_ns = clock.now_ns();
            bursts_ns.push(now_ns - last_ns);
            last_ns = now_ns;
        }
        publishing.publish(events % BURST, batch, &PAYLOAD)?;
    } else {
        publishing.publish(events, batch, &PAYLOAD)?;
    }
    let ended_ns = clock.now_ns();
    let usage = meter.used()?;
    publishing.finish()?;
    bursts_ns.sort_unstable();
    let free_ns = bursts_ns.get(bursts_ns.len() / 10).copied();
    talk.say(&Published {
        started_ns,
        ended_ns,
        flushed_ns: clock.now_ns(),
        free_ns: free_ns.unwrap_or_default() as f64 / BURST as f64,
        usage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_share_each_measurement_whoever_is_first() {
        let row = |peer| own_row(Part::Ring, "work", peer, Figure::Rate);
        let mut count = 0;
        let [mut one, mut other] = twins([row("one"), row("other")], move || {
            count += 1;
            Ok([count, 100 + count].map(|events| Round {
                events,
                ..Round::default()
            }))
        });
        let mut of = |is_one: bool| {
            let case = if is_one { &mut one } else { &mut other };
            (case.round)().expect("a round").events
        };
        assert_eq!((of(true), of(false)), (1, 101));
        assert_eq!((of(false), of(true)), (102, 2));
        assert_eq!((of(true), of(false)), (3, 103));
    }

    #[test]
    fn an_event_that_does_not_come_fails_its_round() {
        let bus = OwnBus::with_rules("test", vec![rule("data:*", Class::Batch).expect("a rule")]);
        let bus = bus.expect("shared memory can be had");
        let consumer = Consumer::start(&bus, "data:*", Class::Batch).expect("a thread");
        let mut publishing = Publishing::new(&bus, "test", "data:bench").expect("a rule matches");
        publishing
            .publish(100, 16, &PAYLOAD)
            .expect("the consumer drains");
        publishing.finish().expect("the consumer drains");
        let error = consumer.stop(101).expect_err("100 were published");
        assert_eq!(error.to_string(), "100 of 101 events came to the consumer");
    }
}
