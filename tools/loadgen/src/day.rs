//! The services of a normal day: each says 143 bytes at a time, with a number that no other line has.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Level, Publisher, Stats, Topic};
use serde::{Deserialize, Serialize};

use crate::clock::sleep_until_due;
use crate::criteria::LogAccount;
use crate::error::Error;
use crate::files::Found;
use crate::latencies::Latencies;
use crate::process::{Arguments, Host, Process, Talk};
use crate::stage::log_account;

/// Length of a message.
pub(crate) const LINE_BYTES: usize = 143;
/// One call of `publish` in so many is measured.
const MEASURE_EVERY: u64 = 31;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// Beyond the time that the pace takes.
const END_LIMIT: Duration = Duration::from_secs(120);
/// The source of the lines.
const SOURCE: &str = "app";

/// Services and their pace.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// How the names of the services begin.
    pub(crate) prefix: &'static str,
    pub(crate) services: u64,
    /// Lines of each service; they end earlier where they are told to.
    pub(crate) lines: u64,
    /// Of each service; 0: as fast as it goes.
    pub(crate) per_second: u64,
    /// Processes that share the services.
    pub(crate) processes: u64,
}

/// What one service said of itself in the end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) service: String,
    pub(crate) published: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    said: Vec<Said>,
    publish: Latencies,
}

/// The processes of a load, ready or running.
pub(crate) struct Publishers {
    processes: Vec<Process>,
    time: Duration,
}

impl Load {
    /// Starts the processes; they wait for `go`.
    pub(crate) fn start(&self, host: &Host, bus: &str) -> Result<Publishers, Error> {
        let processes = self.processes.clamp(1, self.services.max(1));
        let share = self.services.div_ceil(processes);
        let start = |number: u64| {
            let first = number * share;
            let count = share.min(self.services.saturating_sub(first));
            host.start(
                "day-publisher",
                &[
                    ("bus", &bus),
                    ("prefix", &self.prefix),
                    ("first", &first),
                    ("services", &count),
                    ("lines", &self.lines),
                    ("rate", &self.per_second),
                ],
            )
        };
        let seconds = self.lines.checked_div(self.per_second).unwrap_or(0);
        Ok(Publishers {
            processes: (0..processes).map(start).collect::<Result<_, _>>()?,
            time: Duration::from_secs(seconds),
        })
    }
}

impl Publishers {
    pub(crate) fn go(&mut self) -> Result<(), Error> {
        self.processes.iter_mut().try_for_each(|one| one.say("go"))
    }

    /// Tells them to end before their last line.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        self.processes
            .iter_mut()
            .try_for_each(|one| one.say("stop"))
    }

    /// Waits for their last line.
    pub(crate) fn end(self) -> Result<(Vec<Said>, Latencies), Error> {
        let (mut said, mut publish) = (Vec::new(), Latencies::default());
        for process in self.processes {
            let outcome: Outcome = process.result(self.time * 3 + END_LIMIT)?;
            said.extend(outcome.said);
            publish.merge(outcome.publish);
        }
        Ok((said, publish))
    }
}

/// The account of each service.
pub(crate) fn accounts(stats: &Stats, said: &[Said]) -> Vec<LogAccount> {
    said.iter()
        .map(|said| log_account(stats, &said.service, said.published))
        .collect()
}

/// Services that have every line in the files, once and in order, and nothing else; and what is wrong with the
/// first of the others.
pub(crate) fn complete_in_files(
    logs_dir: &Path,
    said: &[Said],
) -> Result<(u64, Option<String>), Error> {
    let (mut complete, mut wrong) = (0, None);
    for Said { service, published } in said {
        let found = Found::read(&logs_dir.join(service))?;
        let numbers = found.numbers.get(SOURCE).copied().unwrap_or_default();
        if numbers.are_all_of(*published) && found.damaged == 0 && found.other == 0 {
            complete += 1;
        } else if wrong.is_none() {
            wrong = Some(format!("{service} published {published}: {found:?}"));
        }
    }
    Ok((complete, wrong))
}

/// `SERVICE NUMBER ..`, 143 bytes.
pub(crate) struct Line {
    text: Vec<u8>,
}

impl Line {
    pub(crate) fn new() -> Self {
        Line {
            text: Vec::with_capacity(LINE_BYTES),
        }
    }

    pub(crate) fn of(&mut self, service: &str, number: u64) -> (Level, &[u8]) {
        self.text.clear();
        let took_ms = number * 7919 % 997;
        // Writing to a Vec cannot fail.
        let _ = write!(
            self.text,
            "{service} {number} GET /api/v1/items/{} from 10.0.{}.{} took {took_ms} ms, status 200, request ",
            number % 10_007,
            number % 7,
            number % 253
        );
        while self.text.len() < LINE_BYTES {
            let digit = (number >> (self.text.len() % 60)) & 15;
            self.text.push(b"0123456789abcdef"[digit as usize]);
        }
        self.text.truncate(LINE_BYTES);
        let level = match number % 100 {
            0 => Level::Error,
            1..=5 => Level::Warn,
            6..=15 => Level::Debug,
            _ => Level::Info,
        };
        (level, &self.text)
    }
}

struct Service {
    name: String,
    publisher: Publisher,
    topic: Topic,
}

/// `bus=NAME prefix=TEXT first=N services=N lines=N rate=N`.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let prefix = arguments.text("prefix")?;
    let (first, count): (u64, u64) = (arguments.get("first")?, arguments.get("services")?);
    let (lines, rate): (u64, u64) = (arguments.get("lines")?, arguments.get("rate")?);
    let mut services = Vec::new();
    for number in first..first + count {
        let name = format!("{prefix}-{number:02}");
        let mut publisher = bus.publisher(&name)?;
        let topic = publisher.topic(&format!("log:{name}:{SOURCE}"))?;
        services.push(Service {
            name,
            publisher,
            topic,
        });
    }
    talk.ready()?;
    let stop = talk.next_line();
    let (mut publish, mut line) = (Latencies::default(), Line::new());
    let started = Instant::now();
    for number in 0..lines {
        sleep_until_due(started, number, rate);
        // Whoever started us is gone, or has enough.
        if stop.try_recv() != Err(TryRecvError::Empty) {
            break;
        }
        for (index, service) in services.iter_mut().enumerate() {
            let (level, payload) = line.of(&service.name, number);
            let before = Instant::now();
            // A drop is counted by the publisher, and part of the account.
            let _ = service.publisher.publish(service.topic, level, payload);
            if (number + index as u64).is_multiple_of(MEASURE_EVERY) {
                publish.record(before.elapsed().as_nanos() as u64);
            }
        }
    }
    let mut said = Vec::new();
    for service in &mut services {
        service
            .publisher
            .flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
        said.push(Said {
            service: service.name.clone(),
            published: service.publisher.counts().published,
        });
    }
    talk.say(&Outcome { said, publish })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_of_one_length_and_none_is_there_twice() {
        let mut line = Line::new();
        let lines: Vec<_> = [0, 1, 99_999, 388_799]
            .map(|number| line.of("svc-07", number).1.to_vec())
            .to_vec();
        assert!(lines.iter().all(|line| line.len() == LINE_BYTES));
        assert!(lines.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(lines[3].starts_with(b"svc-07 388799 "));
    }
}
