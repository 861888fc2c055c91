//! What memory can do, and a ring of millpond's beside a ring of nothing.

use std::time::{Duration, Instant, SystemTime};

use millpond_bus::Class;
use millpond_loadgen::Error;

use super::bare::{self, BareRing};
use super::bus::{Meter, OwnBus, case, floor, round_of};
use super::place::two_cores;
use super::publish::in_threads;
use crate::plan::{Case, Options, Part};
use crate::row::{Figure, LatencyNs, Round};

const PART: Part = Part::Ring;

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let mut cases = Vec::from(copies(options));
    cases.extend(stamps(options));
    cases.push(cache_line(options)?);
    for batch in [1, 16] {
        cases.extend(rings(options, batch));
    }
    Ok(cases)
}

fn copies(options: &Options) -> [Case; 2] {
    let (count, block_bytes) = (options.events(50_000_000), 64 << 10);
    let blocks = options.events(100_000);
    let small = "64 B, each to the place behind the last in 4 MiB";
    let large = "64 KiB, each to the place behind the last in 4 MiB";
    [
        floor(PART, small, "memcpy", Figure::Cost, move || {
            copied(count, count, 64)
        }),
        floor(PART, large, "memcpy", Figure::Bandwidth, move || {
            copied(blocks * block_bytes as u64, blocks, block_bytes)
        }),
    ]
}

/// `count` copies of a piece, as a round of `events`.
pub(super) fn copied(events: u64, count: u64, bytes: usize) -> Result<Round, Error> {
    let meter = Meter::start()?;
    let took = bare::copies(count, bytes);
    Ok(round_of(events, took, meter.used()?))
}

fn stamps(options: &Options) -> [Case; 2] {
    let count = options.events(10_000_000);
    let work = "the time, as every event is stamped with it";
    let own = case(
        PART,
        work,
        "millpond, Clock::now_ns",
        Figure::Cost,
        move || {
            let [clock, _] = OwnBus::clocks()?;
            timed(count, || clock.now_ns())
        },
    );
    // The kernel's own, which a bus without a trusted counter uses too.
    let system = floor(PART, work, "clock_gettime", Figure::Cost, move || {
        timed(count, || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default().as_nanos() as u64
        })
    });
    [own, system]
}

fn timed(count: u64, read: impl Fn() -> u64) -> Result<Round, Error> {
    let meter = Meter::start()?;
    let started = Instant::now();
    for _ in 0..count {
        std::hint::black_box(read());
    }
    Ok(round_of(count, started.elapsed(), meter.used()?))
}

fn cache_line(options: &Options) -> Result<Case, Error> {
    let work = "a word from one core to another, one way, both poll";
    polled_line(options, PART, work)
}

/// The floor of polling, as a case of this part.
pub(super) fn polled_line(options: &Options, part: Part, work: &str) -> Result<Case, Error> {
    let count = options.events(50_000);
    let cores = two_cores()?;
    let mut case = floor(
        part,
        work,
        "bare cache line, threads",
        Figure::Latency,
        move || {
            let cores = cores.ok_or_else(|| Error::new("there is only one core"))?;
            let meter = Meter::start()?;
            let started = Instant::now();
            let times_ns = bare::cache_line(count, OwnBus::clocks()?, cores)?;
            let round = round_of(count, started.elapsed(), meter.used()?);
            Ok(Round {
                latency_ns: Some(LatencyNs::of(times_ns)),
                ..round
            })
        },
    );
    case.row.skipped = cores.is_none().then(|| "there is only one core".to_owned());
    Ok(case)
}

fn rings(options: &Options, batch: u64) -> [Case; 2] {
    let events = options.events(10_000_000);
    let how = match batch {
        1 => "one by one".to_owned(),
        batch => format!("{batch} a commit"),
    };
    let work = format!("64 B through 4 MiB, thread to thread, {how}");
    [
        case(PART, &work, "millpond, threads", Figure::Rate, move || {
            in_threads(events, batch, Class::Batch, |passed| passed.whole)
        }),
        bare_ring(PART, &work, events, batch, |passed| passed.whole),
    ]
}

/// The bare ring as a case of any part.
pub(super) fn bare_ring(
    part: Part,
    work: &str,
    events: u64,
    batch: u64,
    took: fn(&bare::Passed) -> Duration,
) -> Case {
    let figure = match part {
        Part::Publish => Figure::Cost,
        _ => Figure::Rate,
    };
    floor(part, work, "bare ring, threads", figure, move || {
        let meter = Meter::start()?;
        let passed = BareRing::pass(events, batch, || 0)?;
        Ok(round_of(events, took(&passed), meter.used()?))
    })
}
