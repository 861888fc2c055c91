//! `millpond pipe`: lines of standard input to the bus, at full rate.

use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, FlushError, Guarantee, Level, PublishError, Publisher, Topic, check_event_name,
};
use millpond_logfile::check_service_name;

use crate::Run;
use crate::args::Settings;
use crate::flags::PipeFlags;
use crate::level;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::units::{human_count, human_size};

const READ_BYTES: usize = 256 << 10;
/// A wait for the daemon that is longer than this is explained.
const PATIENCE: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn run(flags: &PipeFlags, settings: &Settings) -> Run {
    check_service_name(&flags.service)?;
    let level = match flags.level.as_str() {
        "auto" => None,
        name => Some(parse_level(name)?),
    };
    let event = format!("log:{}:{}", flags.service, flags.source);
    check_event_name(&event)?;
    if flags.source.ends_with('+') {
        return Err(Failure::new(
            "source may not end with `+`: that marks a record that goes on",
        ));
    }
    let bus = settings.attach()?;
    let mut publisher = bus.publisher(&format!("pipe:{}", flags.service))?;
    let topic = publisher.topic(&event)?;
    let continued = publisher.topic(&format!("{event}+"))?;
    let limit = publisher
        .payload_bytes_limit(topic)
        .min(publisher.payload_bytes_limit(continued));
    let mut lines = Lines {
        bus: &bus,
        publisher,
        topic,
        continued,
        level,
        piece_bytes: limit as usize,
        settings,
        waiting_since: None,
        timeout: flags.timeout,
        started: Instant::now(),
        progress: Progress::new(),
    };
    copy(&mut lines, flags.tee)?;
    lines.finish()
}

pub(crate) fn parse_level(name: &str) -> Result<Level, Failure> {
    let level: millpond_logfile::Level = name.parse().map_err(Failure::new)?;
    Ok(Level::from_u8(level as u8))
}

/// Splits standard input into lines and publishes each.
fn copy(lines: &mut Lines<'_>, tee: bool) -> Result<(), Failure> {
    let mut stdin = io::stdin().lock();
    let mut stdout = io::stdout().lock();
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let count = match stdin.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if tee {
            stdout.write_all(&buffer[filled..filled + count])?;
            stdout.flush()?;
        }
        let end = filled + count;
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', &buffer[filled..end]) {
            lines.publish_line(&buffer[start..filled + newline])?;
            start = filled + newline + 1;
        }
        // A line that fills the buffer goes out in pieces.
        while end - start > lines.piece_bytes {
            lines.publish(lines.continued, &buffer[start..start + lines.piece_bytes])?;
            start += lines.piece_bytes;
        }
        buffer.copy_within(start..end, 0);
        filled = end - start;
        lines.progress.show(count, &lines.publisher);
    }
    if filled > 0 {
        // The last line had no newline: nor does its record.
        lines.publish(lines.continued, &buffer[..filled])?;
    }
    Ok(())
}

struct Lines<'s> {
    bus: &'s Bus,
    publisher: Publisher,
    topic: Topic,
    continued: Topic,
    level: Option<Level>,
    piece_bytes: usize,
    settings: &'s Settings,
    waiting_since: Option<Instant>,
    timeout: Option<Duration>,
    started: Instant,
    progress: Progress,
}

impl Lines<'_> {
    fn publish_line(&mut self, mut line: &[u8]) -> Result<(), Failure> {
        while line.len() > self.piece_bytes {
            let (piece, rest) = line.split_at(self.piece_bytes);
            self.publish(self.continued, piece)?;
            line = rest;
        }
        self.publish(self.topic, line)
    }

    /// Publishes one record. While there is no daemon it waits; a drop is counted by the publisher.
    fn publish(&mut self, topic: Topic, bytes: &[u8]) -> Result<(), Failure> {
        let level = self.level.unwrap_or_else(|| level::detect(bytes));
        match self.publisher.publish(topic, level, bytes) {
            Ok(_) | Err(PublishError::DeadlinePassed | PublishError::Full) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until everything is written, and says what was lost.
    fn finish(mut self) -> Run {
        loop {
            match self.publisher.flush(Guarantee::Written, Some(PATIENCE)) {
                Ok(()) => break,
                Err(FlushError::TimedOut { pending_bytes }) => self.explain_wait(pending_bytes)?,
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.clear();
        let counts = self.publisher.counts();
        if counts.dropped() == 0 {
            return Ok(Outcome::Found);
        }
        let message = format!(
            "{} of {} records were dropped (lane full {}, deadline passed {}, too long {}): raise `lane-bytes` or \
             `block-deadline` of the rule for log:*",
            counts.dropped(),
            counts.published,
            counts.dropped_full,
            counts.dropped_deadline,
            counts.dropped_too_long
        );
        print::error_line(self.settings.color, &message);
        Ok(Outcome::Nothing)
    }

    fn explain_wait(&mut self, pending_bytes: u64) -> Result<(), Failure> {
        let waited = self.started.elapsed();
        let since = *self.waiting_since.get_or_insert_with(|| {
            let bus = &self.settings.bus;
            let state = match self.bus.consumer() {
                None => format!("no consumer on bus {bus:?}: start `millpond daemon --bus {bus}`"),
                Some(_) => "the daemon cannot write: see `millpond stats`".to_owned(),
            };
            let message = format!(
                "waiting for {} to be written; {state}",
                human_size(pending_bytes)
            );
            print::warning_line(self.settings.color, &message);
            Instant::now()
        });
        match self.timeout {
            Some(timeout) if since.elapsed() + PATIENCE > timeout => Err(Failure::new(format!(
                "{} were not written within {waited:?}; they wait in shared memory for a daemon to write them",
                human_size(pending_bytes)
            ))),
            _ => Ok(()),
        }
    }
}

/// One line on a terminal, when it takes longer than a second.
struct Progress {
    started: Instant,
    shown: Option<Instant>,
    bytes: u64,
    enabled: bool,
}

impl Progress {
    fn new() -> Self {
        let enabled = io::stderr().is_terminal() && !io::stdin().is_terminal();
        Progress {
            started: Instant::now(),
            shown: None,
            bytes: 0,
            enabled,
        }
    }

    fn show(&mut self, bytes: usize, publisher: &Publisher) {
        self.bytes += bytes as u64;
        let elapsed = self.started.elapsed();
        let recently = self
            .shown
            .is_some_and(|shown| shown.elapsed() < PROGRESS_INTERVAL);
        if !self.enabled || elapsed < Duration::from_secs(1) || recently {
            return;
        }
        let lines = publisher.counts().published;
        let rate = lines as f64 / elapsed.as_secs_f64();
        eprint!(
            "\r\x1b[K{lines} lines, {}, {}/s",
            human_size(self.bytes),
            human_count(rate)
        );
        self.shown = Some(Instant::now());
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
