//! The waiters, and the one who publishes for them: the process of the scenario itself.

use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, Clock, Event, Guarantee, Level, RecvError, SubscribeOptions, Subscription,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Options, Report, TARGETS};
use crate::error::Error;
use crate::latencies::Latencies;
use crate::process::{Arguments, Host, Talk};
use crate::stage::{Stage, account, passthrough, rules_with};

const NAME: &str = "handoff:task:created";
const POINTER: &str = "/metadata/handoff_target";
/// The target of the last message: everyone.
const EVERYONE: &str = "everyone";
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// A waiter gives up when the last message has not come after so long without any for it.
const QUIET_LIMIT: Duration = Duration::from_secs(30);

/// What each waiter tells.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    number: u64,
    /// The numbers of the messages, as they came.
    messages: Vec<u64>,
    filtered: u64,
    wakes: u64,
    one_way: Latencies,
}

pub(super) fn run(host: &Host, options: &Options) -> Result<Report, Error> {
    let Options {
        waiters,
        processes,
        messages,
        ..
    } = *options;
    if waiters > TARGETS || processes == 0 {
        return Err(Error::new(format!(
            "{waiters} waiters in {processes} processes: at most {TARGETS}, in at least one process"
        )));
    }
    let stage = Stage::new(
        host,
        "selective-wake",
        rules_with(vec![passthrough("handoff:*")?])?,
    )?;
    let mut publisher = stage.bus.publisher("dispatcher")?;
    let topic = publisher.topic(NAME)?;
    let mut hosts = Vec::new();
    let share = waiters.div_ceil(processes).max(1);
    for first in (0..waiters).step_by(share as usize) {
        let count = share.min(waiters - first);
        hosts.push(host.start(
            "waiters",
            &[("bus", &stage.name()), ("first", &first), ("count", &count)],
        )?);
    }
    for process in &mut hosts {
        process.say("go")?;
    }
    let started = Instant::now();
    for message in 0..messages {
        let target = format!("waiter-{}", message % TARGETS);
        publisher.publish(topic, Level::Info, payload(message, &target).as_bytes())?;
        let due = options.pause * (message as u32 + 1);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    publisher.publish(topic, Level::Info, payload(messages, EVERYONE).as_bytes())?;
    let mut told: Vec<Told> = Vec::new();
    for process in hosts {
        told.append(&mut process.result(QUIET_LIMIT * 2)?);
    }
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    let published = publisher.counts().published;
    let stats = stage.settle()?;
    drop(publisher);
    stage.close()?;

    let is_exact = |one: &&Told| {
        let own = (one.number..messages).step_by(TARGETS as usize);
        one.messages.iter().copied().eq(own)
    };
    let mut report = Report {
        waiters,
        messages,
        expected: (0..messages)
            .filter(|number| number % TARGETS < waiters)
            .count() as u64,
        matched: told.iter().map(|one| one.messages.len() as u64).sum(),
        exact: told.iter().filter(is_exact).count() as u64,
        filtered: told.iter().map(|one| one.filtered).sum(),
        wakes: told.iter().map(|one| one.wakes).sum(),
        accounts: vec![account(
            &stats,
            "dispatcher",
            "handoff:task",
            published,
            None,
            0,
        )],
        ..Report::default()
    };
    let mut one_way = Latencies::default();
    told.into_iter().for_each(|one| one_way.merge(one.one_way));
    report.one_way = one_way.summary();
    Ok(report)
}

fn payload(message: u64, target: &str) -> String {
    format!(r#"{{"message":{message},"metadata":{{"handoff_target":"{target}"}}}}"#)
}

/// `bus=NAME first=N count=N`: that many threads, each with a subscription of its own.
pub(crate) fn waiters_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let (first, count): (u64, u64) = (arguments.get("first")?, arguments.get("count")?);
    let mut threads = Vec::new();
    for number in first..first + count {
        let subscription = subscribe(&bus, number)?;
        let clock = bus.clock();
        threads.push(std::thread::spawn(move || {
            wait(number, subscription, &clock)
        }));
    }
    // They all are subscribed, so nothing that is published from here on is missed.
    talk.ready()?;
    let mut told = Vec::new();
    for thread in threads {
        let ended = thread.join();
        told.push(ended.map_err(|_| Error::new("a waiter panicked"))??);
    }
    talk.say(&told)
}

fn subscribe(bus: &Bus, number: u64) -> Result<Subscription, Error> {
    let label = format!("waiter-{number}");
    let subscription = bus.subscribe(SubscribeOptions::new(&label, NAME.parse()?))?;
    Ok(subscription.filter(move |event: &Event<'_>| {
        let payload: Value = serde_json::from_slice(event.payload).unwrap_or(Value::Null);
        let target = payload.pointer(POINTER).and_then(Value::as_str);
        target.is_some_and(|target| target == label || target == EVERYONE)
    }))
}

fn wait(number: u64, mut subscription: Subscription, clock: &Clock) -> Result<Told, Error> {
    let (mut messages, mut one_way) = (Vec::new(), Latencies::default());
    loop {
        let event = match subscription.recv_timeout(QUIET_LIMIT) {
            Ok(event) => event,
            Err(RecvError::TimedOut) => break,
            Err(error) => return Err(error.into()),
        };
        let now_ns = clock.now_ns();
        let payload: Value = serde_json::from_slice(&event.payload)?;
        if payload.pointer(POINTER).and_then(Value::as_str) == Some(EVERYONE) {
            break;
        }
        one_way.record(now_ns.saturating_sub(event.time_ns));
        messages.extend(payload["message"].as_u64());
    }
    let counts = subscription.counts();
    Ok(Told {
        number,
        messages,
        filtered: counts.filtered,
        wakes: counts.wakes,
        one_way,
    })
}
