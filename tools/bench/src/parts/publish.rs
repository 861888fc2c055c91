//! What a publish costs its publisher while the consumer drains, and how that grows with publishers, payload and rules.
//!
//! The consumer is a thread of the measuring process that polls and hands nothing on, so that what is measured is the way
//! to it. Publishers are threads beside it, as the bare ring's, or processes.

use std::time::{Duration, Instant};

use millpond_bus::{Class, Rule};
use millpond_loadgen::{Error, Process};

use super::bare::{BareRing, Passed};
use super::bus::{
    Consumer, LIMIT, Meter, OwnBus, PAYLOAD, Published, Publishing, case, floor, own_row, point,
    round_of, round_of_seconds, rule, start_publisher, twins, varied,
};
use super::ring::{bare_ring, copied};
use crate::plan::{Case, Options, Part};
use crate::row::{Figure, Round};
use crate::usage::Usage;

const PART: Part = Part::Publish;
const PATTERN: &str = "data:*";
const PUBLISHERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const PAYLOADS: [usize; 8] = [8, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const RULES: [usize; 4] = [1, 16, 64, 256];

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    let events = options.events(10_000_000);
    for batch in [1, 16, 64] {
        let work = match batch {
            1 => "64 B, one by one".to_owned(),
            batch => format!("64 B, {batch} a commit"),
        };
        let shared = options.clone();
        cases.push(case(PART, &work, "millpond", Figure::Cost, move || {
            in_process(&shared, events, batch)
        }));
        cases.push(case(
            PART,
            &work,
            "millpond, threads",
            Figure::Cost,
            move || in_threads(events, batch, Class::Batch, |passed| passed.writing),
        ));
        if batch == 1 {
            let peer = "millpond, passthrough, threads";
            cases.push(case(PART, &work, peer, Figure::Cost, move || {
                in_threads(events, batch, Class::Passthrough, |passed| passed.writing)
            }));
            // The counter alone cannot be read without `unsafe`.
            let peer = "bare ring with Clock::now_ns, threads";
            cases.push(floor(PART, &work, peer, Figure::Cost, move || {
                let [clock, _] = OwnBus::clocks()?;
                let meter = Meter::start()?;
                let passed = BareRing::pass(events, batch, || clock.now_ns())?;
                Ok(round_of(events, passed.writing, meter.used()?))
            }));
        }
        cases.push(bare_ring(PART, &work, events, batch, |passed| {
            passed.writing
        }));
    }
    if options.growth {
        cases.extend(by_publishers(options));
        cases.extend(by_payload(options));
        cases.extend(by_rules(options));
    }
    Ok(cases)
}

/// Publishes from this thread to a consumer beside it.
pub(super) fn in_threads(
    events: u64,
    batch: u64,
    class: Class,
    took: fn(&Passed) -> Duration,
) -> Result<Round, Error> {
    let rules = vec![rule(PATTERN, class)?];
    let (passed, usage) = published(rules, PATTERN, class, |publishing| {
        publishing.publish(events, batch, &PAYLOAD)?;
        Ok(events)
    })?;
    Ok(round_of(events, took(&passed), usage))
}

/// Publishes on a bus of these rules what `publish` does, which says how many events that was.
fn published(
    rules: Vec<Rule>,
    pattern: &str,
    class: Class,
    publish: impl FnOnce(&mut Publishing) -> Result<u64, Error>,
) -> Result<(Passed, Usage), Error> {
    let bus = OwnBus::with_rules("publish", rules)?;
    let consumer = Consumer::start(&bus, pattern, class)?;
    let mut publishing = Publishing::new(&bus, "bench", &pattern.replace('*', "bench"))?;
    let meter = Meter::start()?;
    let started = Instant::now();
    let events = publish(&mut publishing)?;
    let writing = started.elapsed();
    publishing.finish()?;
    let whole = started.elapsed();
    let usage = meter.used()?;
    consumer.stop(events)?;
    Ok((Passed { writing, whole }, usage))
}

/// One publisher in a process of its own.
fn in_process(options: &Options, events: u64, batch: u64) -> Result<Round, Error> {
    let (published, usage) = crowd(options, 1, events, batch, 4 << 20)?;
    let seconds = published.iter().map(Published::seconds).sum();
    Ok(round_of_seconds(events, seconds, usage))
}

/// Publishers in processes of their own, each of so many events; what they did, and what they and the consumer used.
fn crowd(
    options: &Options,
    publishers: usize,
    events: u64,
    batch: u64,
    lane_bytes: u32,
) -> Result<(Vec<Published>, Usage), Error> {
    let rule = Rule {
        lane_bytes,
        ..rule(PATTERN, Class::Batch)?
    };
    let bus = OwnBus::with_rules("crowd", vec![rule])?;
    let consumer = Consumer::start(&bus, PATTERN, Class::Batch)?;
    let start = |index| start_publisher(options, &bus, index, events, batch, false);
    let processes: Result<Vec<Process>, Error> = (0..publishers).map(start).collect();
    let mut processes = processes?;
    let meter = Meter::start()?;
    for process in &mut processes {
        process.say("go")?;
    }
    let results = processes.into_iter().map(|process| process.result(LIMIT));
    let published: Vec<Published> = results.collect::<Result<_, Error>>()?;
    let usage = meter.used()?;
    consumer.stop(events * publishers as u64)?;
    let all = published.iter().map(|published| published.usage);
    Ok((published.clone(), all.chain([usage]).sum()))
}

fn by_publishers(options: &Options) -> Vec<Case> {
    let events = options.events(4_000_000);
    let curve = |publishers: usize| {
        let row = |work: &str, figure: Figure| {
            let row = own_row(PART, work, "millpond", figure);
            point(row, "publishers", publishers as u64)
        };
        let rate = "64 B, one by one, until the consumer has all of all publishers";
        let cost = "64 B, one by one, processor time in the publishers";
        let rows = [row(rate, Figure::Rate), row(cost, Figure::Cost)];
        let options = options.clone();
        twins(rows, move || {
            let each = events / publishers as u64;
            let (published, usage) = crowd(&options, publishers, each, 1, 1 << 20)?;
            let started_ns = published.iter().map(|published| published.started_ns).min();
            let flushed_ns = published.iter().map(|published| published.flushed_ns).max();
            let whole_ns = flushed_ns
                .zip(started_ns)
                .map_or(0, |(end, start)| end.saturating_sub(start));
            let work: Usage = published.iter().map(|published| published.usage).sum();
            let all = each * publishers as u64;
            Ok([
                round_of_seconds(all, whole_ns as f64 / 1e9, usage),
                round_of_seconds(all, work.cpu_seconds(), usage),
            ])
        })
    };
    PUBLISHERS.into_iter().flat_map(curve).collect()
}

fn by_payload(options: &Options) -> Vec<Case> {
    let work = "one by one, the consumer drains";
    let name = "payload bytes";
    let curve = |bytes: usize| {
        // As many bytes with each of the larger ones, so that a round does not take longer.
        let events = options
            .events((2 << 30) / bytes as u64)
            .min(options.events(5_000_000));
        let own = case(PART, work, "millpond, threads", Figure::Cost, move || {
            let rules = vec![rule(PATTERN, Class::Batch)?];
            let payload = vec![PAYLOAD[0]; bytes];
            let (passed, usage) = published(rules, PATTERN, Class::Batch, |publishing| {
                publishing.publish(events, 1, &payload)?;
                Ok(events)
            })?;
            Ok(round_of(events, passed.writing, usage))
        });
        let copy = floor(PART, work, "memcpy", Figure::Cost, move || {
            copied(events, events, bytes)
        });
        [own, copy].map(|case| varied(case, name, bytes as u64))
    };
    PAYLOADS.into_iter().flat_map(curve).collect()
}

fn by_rules(options: &Options) -> Vec<Case> {
    let events = options.events(5_000_000);
    let work = "64 B, one by one, under the last of so many rules";
    let curve = |rules: usize| {
        let own = case(PART, work, "millpond, threads", Figure::Cost, move || {
            let all = (0..rules).map(|number| rule(&format!("data{number}:*"), Class::Batch));
            let all = all.collect::<Result<Vec<_>, Error>>()?;
            let last = format!("data{}:*", rules - 1);
            let (passed, usage) = published(all, &last, Class::Batch, |publishing| {
                publishing.publish(events, 1, &PAYLOAD)?;
                Ok(events)
            })?;
            Ok(round_of(events, passed.writing, usage))
        });
        varied(own, "rules", rules as u64)
    };
    RULES.into_iter().map(curve).collect()
}
