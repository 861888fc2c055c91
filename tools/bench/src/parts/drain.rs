//! What draining costs the consumer: a pass and its commit, in one thread that fills the lanes in between.

use std::time::{Duration, Instant};

use millpond_bus::{Class, Item, Overflow, Rule, Scope, Verdict};
use millpond_loadgen::Error;

use super::bare::BareRing;
use super::bus::{
    Meter, OwnBus, PAYLOAD, PAYLOAD_BYTES, Publishing, case, floor, round_of, rule, varied,
};
use crate::plan::{Case, Options, Part};
use crate::row::{Figure, Round};

const PART: Part = Part::Drain;
/// A record of 64 bytes with its header.
const RECORD_BYTES: u32 = 96;
const IDLE_LANE_BYTES: u32 = 64 << 10;
/// Bytes drained at a time.
const PIECES: [u32; 2] = [64 << 10, 1 << 20];
const BUSY: usize = 16;
const LANES: [usize; 4] = [1, 10, 100, 1000];

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let events = options.events(10_000_000);
    let mut cases = Vec::new();
    for piece_bytes in PIECES {
        let work = format!(
            "64 B, pass and commit, {} KiB at a time",
            piece_bytes / 1024
        );
        let plan = Plan::new(events, piece_bytes);
        cases.push(case(PART, &work, "millpond", Figure::Cost, move || {
            plan.round()
        }));
        let skim = Plan {
            class: Class::Passthrough,
            ..plan
        };
        cases.push(case(
            PART,
            &work,
            "millpond, passthrough",
            Figure::Cost,
            move || skim.round(),
        ));
        cases.push(floor(PART, &work, "bare ring", Figure::Cost, move || {
            bare(events, piece_bytes)
        }));
    }
    let work = "64 B, pass and commit, from 16 lanes in order of time, 16 x 64 KiB at a time";
    let plan = Plan {
        busy: BUSY,
        ..Plan::new(events, PIECES[0])
    };
    let merging = move || plan.round();
    cases.push(case(PART, work, "millpond", Figure::Cost, merging));
    if options.growth {
        cases.extend(by_lanes(options));
    }
    Ok(cases)
}

fn by_lanes(options: &Options) -> Vec<Case> {
    let events = options.events(2_000_000);
    let curve = |piece_bytes: u32| {
        let work = format!(
            "64 B, pass and commit, {} KiB at a time, beside so many idle lanes",
            piece_bytes / 1024
        );
        LANES.map(|idle| {
            let plan = Plan {
                idle,
                ..Plan::new(events, piece_bytes)
            };
            let own = case(PART, &work, "millpond", Figure::Cost, move || plan.round());
            varied(own, "lanes", idle as u64)
        })
    };
    PIECES.into_iter().flat_map(curve).collect()
}

/// What is drained.
#[derive(Clone, Copy)]
struct Plan {
    events: u64,
    class: Class,
    /// Lanes that are filled each time, one event in each in turn.
    busy: usize,
    /// Bytes of each of them.
    lane_bytes: u32,
    /// Lanes that nothing comes through.
    idle: usize,
}

impl Plan {
    fn new(events: u64, lane_bytes: u32) -> Self {
        Plan {
            events,
            class: Class::Batch,
            busy: 1,
            lane_bytes,
            idle: 0,
        }
    }

    fn rule(&self, pattern: &str) -> Result<Rule, Error> {
        // A passthrough lane keeps its newest half for subscribers that come late.
        let lane_bytes = match self.class {
            Class::Passthrough => self.lane_bytes * 2,
            _ => self.lane_bytes,
        };
        Ok(Rule {
            lane_bytes,
            payload_bytes_limit: 4 << 10,
            overflow: Overflow::DropNewest,
            ..rule(pattern, self.class)?
        })
    }

    fn publishers(
        &self,
        bus: &OwnBus,
        label: &str,
        count: usize,
    ) -> Result<Vec<Publishing>, Error> {
        let one = |number| Publishing::new(bus, &format!("{label}{number}"), &format!("{label}:x"));
        (0..count).map(one).collect()
    }

    fn round(&self) -> Result<Round, Error> {
        let idle = Rule {
            lane_bytes: IDLE_LANE_BYTES,
            ..self.rule("idle:*")?
        };
        let bus = OwnBus::with_rules("drain", vec![idle, self.rule("busy:*")?])?;
        let _idle = self.publishers(&bus, "idle", self.idle)?;
        let mut busy = self.publishers(&bus, "busy", self.busy)?;
        let mut drain = bus.drain()?;
        let channel = drain
            .channel(&"busy:*".parse()?)
            .ok_or_else(|| Error::new("the bus has not the rule it was made with"))?;
        // Not quite full: nothing is dropped.
        let each = u64::from(self.lane_bytes / RECORD_BYTES) - 8;
        let wanted = each * self.busy as u64;
        let (mut spent, mut records, mut sum) = (Duration::ZERO, 0, 0);
        let meter = Meter::start()?;
        while records < self.events {
            if let [publishing] = busy.as_mut_slice() {
                publishing.publish(each, 64, &PAYLOAD)?;
            } else {
                for _ in 0..each {
                    for publishing in &mut busy {
                        publishing.publish(1, 1, &PAYLOAD)?;
                    }
                }
            }
            let started = Instant::now();
            let taken = match self.class {
                // Subscribers have the events from the lane: the consumer keeps the books.
                Class::Passthrough => drain.take_passthrough(),
                _ => {
                    let pass = drain.pass(Scope::Batched, &mut |item: Item<'_>| {
                        if let Item::Record(record) = item {
                            sum += u64::from(record.payload[PAYLOAD_BYTES - 1]);
                        }
                        Verdict::Keep
                    });
                    drain.commit_batched(channel, &[]);
                    pass.records
                }
            };
            spent += started.elapsed();
            if taken != wanted {
                return Err(Error::new(format!("{taken} of {wanted} events were taken")));
            }
            records += taken;
        }
        let usage = meter.used()?;
        let is_same = sum == records * u64::from(PAYLOAD[0]);
        if self.class == Class::Batch && !is_same {
            return Err(Error::new("what was drained is not what was published"));
        }
        Ok(round_of(records, spent, usage))
    }
}

/// A reader of the bare ring in the same thread.
fn bare(events: u64, piece_bytes: u32) -> Result<Round, Error> {
    let ring = BareRing::new();
    let each = u64::from(piece_bytes / RECORD_BYTES) - 8;
    let (mut spent, mut records) = (Duration::ZERO, 0);
    let meter = Meter::start()?;
    while records < events {
        ring.write(each, 64, || 0);
        let started = Instant::now();
        ring.read(each);
        spent += started.elapsed();
        records += each;
    }
    Ok(round_of(records, spent, meter.used()?))
}
