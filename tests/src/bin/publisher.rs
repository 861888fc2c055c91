//! A publisher for tests: every payload says whose it is and its number, `LABEL SEQUENCE xxx...`, so that
//! each line of a log identifies itself.
//!
//! `publisher bus=B label=L event=NAME rules=block|drop size=BYTES [count=N] [seconds=N] [batch=N]
//! [rate=PER_SECOND] [oversize_every=N] [repeat=N] [flush=written|durable] [wait=0] [group=ID]
//! [kill_at=LABEL] [kill_after=N]`
//!
//! With `repeat`, each payload comes so often in a row, and the number in it is that of the payload.
//!
//! Runs until the count, the time, or its stdin says so. Says `committed N` now and then, and in the end
//! `published=N dropped_full=N dropped_deadline=N dropped_too_long=N flush=OUTCOME`.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, BusOptions, Guarantee, Level, PublishError};
use millpond_tests::{Arguments, Watchdog, arm, options, setting};

type Failure = Box<dyn std::error::Error>;

/// Beyond what the rules allow.
const OVERSIZE_BYTES: usize = 5000;

fn main() -> ExitCode {
    let limit = 120 + 5 * setting("MILLPOND_TEST_KILLS", 5) + setting("MILLPOND_TEST_SECONDS", 2);
    let _watchdog = Watchdog::start("publisher", Duration::from_secs(limit));
    match run(&Arguments::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed {error}");
            ExitCode::FAILURE
        }
    }
}

/// Payloads in a buffer that is used again and again.
struct Payloads {
    text: Vec<u8>,
    label: String,
    size: usize,
    oversize_every: u64,
    repeat: u64,
    sequence: u64,
}

impl Payloads {
    fn next(&mut self) -> (Level, &[u8]) {
        let sequence = self.sequence / self.repeat;
        self.sequence += 1;
        let oversize = self.oversize_every > 0 && sequence % self.oversize_every == 7;
        let size = if oversize { OVERSIZE_BYTES } else { self.size };
        self.text.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.text, "{} {sequence} ", self.label);
        if self.text.len() < size {
            self.text.resize(size, b'x');
        }
        let level = match sequence % 100 {
            0 => Level::Error,
            1..=9 => Level::Warn,
            _ => Level::Info,
        };
        (level, &self.text)
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    arm(arguments);
    // As the command does.
    millpond_bus::guard_truncated_objects()?;
    let label = arguments.text("label");
    let bus = Bus::attach(
        arguments.text("bus"),
        &BusOptions {
            group_id: arguments.number("group").map(|group| group as u32),
            ..options(arguments.text("rules"))
        },
    )?;
    let mut publisher = bus.publisher(label)?;
    let topic = publisher.topic(arguments.text("event"))?;
    let stop = Arc::new(AtomicBool::new(false));
    {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            // ORDERING: Relaxed; says only itself.
            stop.store(true, Ordering::Relaxed);
        });
    }
    let count = arguments.number("count").unwrap_or(u64::MAX);
    let end = arguments
        .number("seconds")
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let batch = arguments.number("batch").unwrap_or(0);
    let mut payloads = Payloads {
        text: Vec::new(),
        label: label.to_owned(),
        size: arguments.number("size").unwrap_or(64) as usize,
        oversize_every: arguments.number("oversize_every").unwrap_or(0),
        repeat: arguments.number("repeat").unwrap_or(1),
        sequence: 0,
    };
    let rate = arguments.number("rate");
    let start = Instant::now();
    let mut said = start;
    println!("committed 0");
    while payloads.sequence < count {
        if payloads.sequence.is_multiple_of(64) || batch > 0 {
            // ORDERING: Relaxed; as above.
            let over = end.is_some_and(|end| Instant::now() >= end);
            if over || stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(rate) = rate {
                let due_ns = payloads.sequence.saturating_mul(1_000_000_000) / rate.max(1);
                let due = start + Duration::from_nanos(due_ns);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            if said.elapsed() > Duration::from_millis(5) {
                said = Instant::now();
                println!("committed {}", payloads.sequence);
            }
        }
        if batch == 0 {
            let (level, payload) = payloads.next();
            accept(publisher.publish(topic, level, payload).map(|_| ()))?;
            continue;
        }
        let mut group = publisher.batch(topic)?;
        for _ in 0..batch.min(count - payloads.sequence) {
            let (level, payload) = payloads.next();
            accept(group.push(level, payload))?;
        }
        group.commit();
    }
    let guarantee = match arguments.optional("flush") {
        Some("durable") => Guarantee::Durable,
        _ => Guarantee::Written,
    };
    // Not where no consumer writes.
    let timeout = (arguments.number("wait") == Some(0)).then_some(Duration::ZERO);
    let flushed = match publisher.flush(guarantee, timeout) {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{error:?}").replace(' ', "_"),
    };
    let counts = publisher.counts();
    if counts.published != payloads.sequence {
        return Err(format!("offered {}, counted {counts:?}", payloads.sequence).into());
    }
    println!(
        "published={} dropped_full={} dropped_deadline={} dropped_too_long={} flush={flushed}",
        counts.published, counts.dropped_full, counts.dropped_deadline, counts.dropped_too_long
    );
    Ok(())
}

/// Counted drops are part of the tests; anything else is not.
fn accept(outcome: Result<(), PublishError>) -> Result<(), Failure> {
    match outcome {
        Ok(()) | Err(PublishError::Full | PublishError::TooLong { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
