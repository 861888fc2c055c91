//! The paths of the bus and of the log, for `cargo xtask instructions`.
//!
//! One thread publishes, drains and subscribes in turn, so that nothing depends on who comes first. Where the log is
//! written there is the sink's writer too, and the thread sleeps until that is done.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::process::ExitCode;

use millpond_benches::paths::{self, Path, Scope, counted};
use millpond_bus::{
    Bus, BusOptions, Class, Drain, Event, Item, Level, Overflow, Publisher, Rule, RuleTable,
    Scope as Lanes, SubscribeOptions, Subscriber, Topic, Verdict,
};
use millpond_daemon::{BackendChoice, Daemon, Policy, Step};
use millpond_logfile::{BlockWriter, Level as LineLevel, LineWriter, Source, parse_line};

/// Events between two looks of the consumer: less than what a lane rings for, and a batch of its own.
const CHUNK: u64 = 1024;
const PAYLOAD_BYTES: usize = 64;
/// With time, level and source a line of 128 bytes.
const MESSAGE_BYTES: usize = 86;
/// Lines that are a group of the log by themselves.
const GROUP_LINES: u64 = 4096;

const EVENTS: [u64; 2] = [4 * CHUNK, 68 * CHUNK];
const LINES: [u64; 2] = [2 * GROUP_LINES, 18 * GROUP_LINES];

const fn part(name: &'static str, counts: [u64; 2], run: fn(u64) -> Result<(), String>) -> Path {
    Path {
        name,
        scope: Scope::Part,
        counts,
        run,
    }
}

const fn process(name: &'static str, counts: [u64; 2], run: fn(u64) -> Result<(), String>) -> Path {
    Path {
        scope: Scope::Process,
        ..part(name, counts, run)
    }
}

fn main() -> ExitCode {
    paths::main(&[
        part("publish", EVENTS, |events| publish(events, Class::Batch, 1)),
        part("publish, by 16", EVENTS, |events| {
            publish(events, Class::Batch, 16)
        }),
        part("publish, passthrough", EVENTS, |events| {
            publish(events, Class::Passthrough, 1)
        }),
        part("publish, passthrough, by 16", EVENTS, |events| {
            publish(events, Class::Passthrough, 16)
        }),
        part("drain a record", EVENTS, drain),
        part("receive an event from its lane", EVENTS, |events| {
            receive(events, Class::Passthrough)
        }),
        part("dispatch an event, consumer", EVENTS, dispatch),
        part("receive an event from a batch", EVENTS, |events| {
            receive(events, Class::Batch)
        }),
        part("drain a line to its file, consumer", LINES, |lines| {
            log(lines, BackendChoice::Pwrite)
        }),
        process("publish, drain and write a line, pwrite", LINES, |lines| {
            log(lines, BackendChoice::Pwrite)
        }),
        process(
            "publish, drain and write a line, io_uring",
            LINES,
            |lines| log(lines, BackendChoice::Uring),
        ),
        part("format a line", EVENTS, format),
        part("format and account a line", EVENTS, account),
        part("parse a line", EVENTS, parse),
    ])
}

/// A bus with one rule, which goes away in the end.
struct OwnBus(Bus);

impl OwnBus {
    fn new(rule: Rule) -> Self {
        let rules = RuleTable::new(vec![rule]).expect("one good rule");
        let options = BusOptions {
            rules,
            ..BusOptions::default()
        };
        let name = format!("paths-{}", std::process::id());
        OwnBus(Bus::attach(&name, &options).expect("shared memory can be had"))
    }

    /// For events of 64 bytes.
    fn of_class(class: Class) -> Self {
        OwnBus::new(Rule {
            class,
            lane_bytes: 4 << 20,
            outbox_bytes: 4 << 20,
            max_events: 128,
            ..Rule::new("data:*".parse().expect("a pattern"))
        })
    }

    fn publisher(&self, name: &str) -> (Publisher, Topic) {
        let mut publisher = self.0.publisher("paths").expect("a label");
        let topic = publisher.topic(name).expect("a rule matches");
        (publisher, topic)
    }
}

impl Drop for OwnBus {
    fn drop(&mut self) {
        if let Err(error) = self.0.clone().remove() {
            eprintln!("the bus stays: {error}");
        }
    }
}

/// `events` in chunks.
fn chunks(events: u64) -> impl Iterator<Item = u64> {
    (0..events)
        .step_by(CHUNK as usize)
        .map(move |from| CHUNK.min(events - from))
}

fn publish_chunk(publisher: &mut Publisher, topic: Topic, events: u64, batch: u64) {
    let payload = black_box([7; PAYLOAD_BYTES]);
    if batch == 1 {
        for _ in 0..events {
            let published = publisher.publish(topic, Level::Info, &payload);
            published.expect("the consumer drains");
        }
        return;
    }
    for _ in 0..events.div_ceil(batch) {
        let mut many = publisher.batch(topic).expect("our topic");
        for _ in 0..batch {
            let pushed = many.push(Level::Info, &payload);
            pushed.expect("the consumer drains");
        }
        many.commit();
    }
}

/// Takes everything and gives its room back; how many records there were.
fn drain_all(drain: &mut Drain, class: Class) -> u64 {
    let mut bytes = 0;
    let lanes = match class {
        Class::Passthrough => Lanes::Passthrough,
        _ => Lanes::Batched,
    };
    let pass = drain.pass(lanes, &mut |item: Item<'_>| {
        if let Item::Record(record) = item {
            bytes += u64::from(record.payload[0]);
        }
        Verdict::Keep
    });
    assert_eq!(bytes, 7 * pass.records);
    match lanes {
        Lanes::Passthrough => drain.commit_passthrough(),
        // Nothing is handed on: what is counted is the way to the consumer.
        _ => {
            let channel = drain.channel(&"data:*".parse().expect("a pattern"));
            drain.commit_batched(channel.expect("the rule's"), &[]);
        }
    }
    pass.records
}

fn publish(events: u64, class: Class, batch: u64) -> Result<(), String> {
    let bus = OwnBus::of_class(class);
    let mut drain = bus.0.drain().expect("the only consumer");
    let (mut publisher, topic) = bus.publisher("data:rows:made");
    drain.housekeep();
    for chunk in chunks(events) {
        counted(&mut || publish_chunk(&mut publisher, topic, chunk, batch));
        assert_eq!(drain_all(&mut drain, class), chunk);
    }
    Ok(())
}

fn drain(events: u64) -> Result<(), String> {
    let bus = OwnBus::of_class(Class::Batch);
    let mut drain = bus.0.drain().expect("the only consumer");
    let (mut publisher, topic) = bus.publisher("data:rows:made");
    drain.housekeep();
    for chunk in chunks(events) {
        publish_chunk(&mut publisher, topic, chunk, 16);
        counted(&mut || assert_eq!(drain_all(&mut drain, Class::Batch), chunk));
    }
    Ok(())
}

/// A consumer with a log of its own.
struct Consumer {
    daemon: Option<Daemon>,
    _logs: tempfile::TempDir,
}

impl Consumer {
    fn new(bus: &OwnBus, backend: BackendChoice) -> Result<Self, String> {
        let logs = tempfile::tempdir().expect("a place for the logs");
        let policy = Policy {
            backend,
            ..Policy::default()
        };
        let daemon = Daemon::builder(&bus.0, logs.path()).policy(policy).open();
        Ok(Consumer {
            daemon: Some(daemon.map_err(|error| error.to_string())?),
            _logs: logs,
        })
    }

    fn step(&mut self) -> Step {
        self.daemon.as_mut().expect("until the end").step()
    }

    /// Steps until there is nothing to do, and sleeps until the writer is done with the group that was made meanwhile.
    fn step_until_written(&mut self) {
        let mut has_slept = false;
        loop {
            match self.step() {
                Step::Busy { .. } => has_slept = false,
                Step::Idle { .. } if has_slept => return,
                Step::Idle { sleep, timeout } => {
                    let daemon = self.daemon.as_mut().expect("until the end");
                    daemon.park(sleep, timeout);
                    has_slept = true;
                }
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.daemon.take().map(Daemon::close) {
            eprintln!("not all is written: {error}");
        }
    }
}

/// A chunk is taken and handed on in one step; the second sees that nothing is left.
fn step_chunk(consumer: &mut Consumer) {
    for _ in 0..2 {
        black_box(consumer.step());
    }
}

fn dispatch(events: u64) -> Result<(), String> {
    let bus = OwnBus::of_class(Class::Batch);
    let mut consumer = Consumer::new(&bus, BackendChoice::Pwrite)?;
    let (mut publisher, topic) = bus.publisher("data:rows:made");
    step_chunk(&mut consumer);
    for chunk in chunks(events) {
        publish_chunk(&mut publisher, topic, chunk, 16);
        counted(&mut || step_chunk(&mut consumer));
    }
    Ok(())
}

#[derive(Default)]
struct Counter {
    events: u64,
    bytes: u64,
}

impl Subscriber for Counter {
    fn on_event(&mut self, event: &Event<'_>) {
        self.events += 1;
        self.bytes += u64::from(event.payload[0]);
    }
}

fn receive(events: u64, class: Class) -> Result<(), String> {
    let bus = OwnBus::of_class(class);
    let mut consumer = Consumer::new(&bus, BackendChoice::Pwrite)?;
    let (mut publisher, topic) = bus.publisher("data:rows:made");
    step_chunk(&mut consumer);
    let pattern = "data:*".parse().expect("a pattern");
    let subscription = bus.0.subscribe(SubscribeOptions::new("paths", pattern));
    let mut subscription = subscription.expect("room for a subscriber");
    let mut counter = Counter::default();
    for chunk in chunks(events) {
        publish_chunk(&mut publisher, topic, chunk, 16);
        if class == Class::Batch {
            step_chunk(&mut consumer);
        }
        counted(&mut || {
            subscription.poll(&mut counter).expect("nothing is lost");
        });
        step_chunk(&mut consumer);
    }
    subscription.poll(&mut counter).expect("nothing is lost");
    assert_eq!((counter.events, counter.bytes), (events, 7 * events));
    Ok(())
}

fn log(lines: u64, backend: BackendChoice) -> Result<(), String> {
    let bus = OwnBus::new(Rule {
        service: Some("*".into()),
        lane_bytes: 4 << 20,
        max_events: 1 << 20,
        overflow: Overflow::DropNewest,
        ..Rule::new("log:*".parse().expect("a pattern"))
    });
    let mut consumer = Consumer::new(&bus, backend)?;
    let (mut publisher, topic) = bus.publisher("log:web:out");
    consumer.step_until_written();
    let mut message = [b'm'; MESSAGE_BYTES];
    for from in (0..lines).step_by(GROUP_LINES as usize) {
        for line in from..from + GROUP_LINES {
            // No two in a row are the same: those would become one line.
            message[..8].copy_from_slice(&line.to_le_bytes().map(|byte| b'a' + (byte & 15)));
            message[8..16].copy_from_slice(&line.to_le_bytes().map(|byte| b'a' + (byte >> 4)));
            let published = publisher.publish(topic, Level::Info, &message);
            published.expect("the consumer drains");
        }
        counted(&mut || consumer.step_until_written());
    }
    assert_eq!(publisher.counts().published, lines);
    drop(publisher);
    Ok(())
}

const TIME_NS: u64 = 1_795_224_593_000_000_000;
const LINE: &[u8] =
    b"GET /api/v1/collections/users/7f3a1c returned 200 in 14 ms (cached, 2 lookups)";

/// Calls `work` for each line, with its time, by chunks.
fn each_line(lines: u64, mut work: impl FnMut(u64), mut between: impl FnMut()) {
    let mut time_ns = TIME_NS;
    for chunk in chunks(lines) {
        counted(&mut || {
            for _ in 0..chunk {
                time_ns += 137;
                work(time_ns);
            }
        });
        between();
    }
}

fn format(lines: u64) -> Result<(), String> {
    let (source, mut writer) = (Source::new("pty:out"), LineWriter::new());
    let out = std::cell::RefCell::new(Vec::with_capacity(1 << 20));
    let write = |time_ns| {
        let out = &mut *out.borrow_mut();
        writer.write(out, time_ns, LineLevel::Info, &source, black_box(LINE));
    };
    each_line(lines, write, || out.borrow_mut().clear());
    Ok(())
}

fn account(lines: u64) -> Result<(), String> {
    let (source, mut block) = (Source::new("pty:out"), BlockWriter::new());
    let out = std::cell::RefCell::new(Vec::with_capacity(1 << 20));
    let mut written = 0;
    let append = |time_ns| {
        let out = &mut *out.borrow_mut();
        block.append(out, time_ns, LineLevel::Info, &source, black_box(LINE));
        written += 1;
        if written % CHUNK == 0 {
            block.fold(out);
        }
    };
    each_line(lines, append, || out.borrow_mut().clear());
    Ok(())
}

fn parse(lines: u64) -> Result<(), String> {
    let (source, mut writer, mut line) = (Source::new("pty:out"), LineWriter::new(), Vec::new());
    writer.write(&mut line, TIME_NS, LineLevel::Info, &source, LINE);
    let parse = |_| {
        black_box(parse_line(black_box(&line))).expect("a line");
    };
    each_line(lines, parse, || {});
    Ok(())
}
