//! `millpond pipe`: lines of standard input to the bus, at full rate.

use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, FlushError, Guarantee, Level, Overflow, PublishError, Publisher, Topic, check_event_name,
};
use millpond_logfile::check_service_name;

use crate::Run;
use crate::args::Settings;
use crate::flags::PipeFlags;
use crate::level;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::units::{format_duration, human_count, human_size};

const READ_BYTES: usize = 256 << 10;
/// A wait for the daemon that is longer than this is explained.
const PATIENCE: Duration = Duration::from_secs(1);
/// A daemon that is slow all the time is not talked about all the time.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(60);
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
    let overflow = bus
        .rules()?
        .resolve(&event)
        .map(|found| found.rule.overflow);
    let mut lines = Lines {
        bus: &bus,
        publisher,
        topic,
        continued,
        level,
        may_wait: overflow != Some(Overflow::DropNewest),
        taken_bytes: 0,
        settings,
        timeout: flags.timeout,
        explained: None,
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
        if filled == buffer.len() {
            // A line that the rule allows in one record is longer than the buffer.
            let wanted = (2 * buffer.len()).min(lines.piece_bytes() + 1);
            buffer.resize(wanted.max(filled + 1), 0);
        }
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
        // A line that is longer than a record goes out in pieces.
        while end - start > lines.piece_bytes() {
            let piece = &buffer[start..start + lines.piece_bytes()];
            lines.publish(lines.continued, piece)?;
            start += piece.len();
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
    /// Whether a full lane is waited for; not where the rule says `drop-newest`.
    may_wait: bool,
    /// Bytes of standard input that are in the lane, or counted as dropped.
    taken_bytes: u64,
    settings: &'s Settings,
    timeout: Option<Duration>,
    /// When a wait was last explained.
    explained: Option<Instant>,
    progress: Progress,
}

impl Lines<'_> {
    /// The longest record that the rule allows: read each time, since rules may change under way.
    fn piece_bytes(&self) -> usize {
        let limit = |topic| self.publisher.payload_bytes_limit(topic) as usize;
        limit(self.topic).min(limit(self.continued))
    }

    fn publish_line(&mut self, mut line: &[u8]) -> Result<(), Failure> {
        while line.len() > self.piece_bytes() {
            let (piece, rest) = line.split_at(self.piece_bytes());
            self.publish(self.continued, piece)?;
            line = rest;
        }
        self.publish(self.topic, line)?;
        self.taken_bytes += 1;
        Ok(())
    }

    /// Publishes one record. While the lane is full it waits, unless the rule says to drop then; a drop is
    /// counted by the publisher.
    fn publish(&mut self, topic: Topic, bytes: &[u8]) -> Result<(), Failure> {
        if self.may_wait && !self.publisher.has_room(topic, bytes.len()) {
            self.wait_for_room(topic, bytes.len())?;
        }
        let level = self.level.unwrap_or_else(|| level::detect(bytes));
        match self.publisher.publish(topic, level, bytes) {
            Ok(_) | Err(PublishError::DeadlinePassed | PublishError::Full) => {
                self.taken_bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    #[cold]
    fn wait_for_room(&mut self, topic: Topic, record_bytes: usize) -> Result<(), Failure> {
        let mut wait = Wait::start(self.timeout);
        loop {
            let slice = wait.slice();
            if self.publisher.wait_for_space(topic, record_bytes, slice) {
                return Ok(());
            }
            let taken = self.taken_bytes;
            if let Some(timeout) = wait.has_ended() {
                return Err(Failure::new(format!(
                    "standard input was not taken from byte {taken} on: the lane is full, and had no room within \
                     {}; {}; what was taken waits in shared memory to be written",
                    format_duration(timeout),
                    self.state()
                )));
            }
            self.explain(&mut wait, &|| {
                format!("waiting for room in the lane after {}", human_size(taken))
            });
        }
    }

    /// Waits until everything is written, and says what was lost.
    fn finish(mut self) -> Run {
        let mut wait = Wait::start(self.timeout);
        loop {
            match self.publisher.flush(Guarantee::Written, Some(wait.slice())) {
                Ok(()) => break,
                Err(FlushError::TimedOut { pending_bytes }) => {
                    let pending = human_size(pending_bytes);
                    if let Some(timeout) = wait.has_ended() {
                        return Err(Failure::new(format!(
                            "{pending} were not written within {}; {}; they wait in shared memory to be written",
                            format_duration(timeout),
                            self.state()
                        )));
                    }
                    self.explain(&mut wait, &|| {
                        format!("waiting for {pending} to be written")
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.clear();
        let counts = self.publisher.counts();
        if counts.dropped() == 0 {
            return Ok(Outcome::Found);
        }
        let message = format!(
            "{} of {} records were dropped (lane full {}, deadline passed {}, too long {}): raise `lane-bytes` of \
             the rule for log:*, or make its `overflow` `block`",
            counts.dropped(),
            counts.published,
            counts.dropped_full,
            counts.dropped_deadline,
            counts.dropped_too_long
        );
        print::error_line(self.settings.color, &message);
        Ok(Outcome::Nothing)
    }

    /// Says once per wait, and not too often over all, what is waited for.
    fn explain(&mut self, wait: &mut Wait, what: &dyn Fn() -> String) {
        let recently = |explained: Instant| explained.elapsed() < EXPLAIN_INTERVAL;
        if std::mem::replace(&mut wait.explained, true) || self.explained.is_some_and(recently) {
            return;
        }
        self.explained = Some(Instant::now());
        self.progress.clear();
        let message = format!("{}; {}", what(), self.state());
        print::warning_line(self.settings.color, &message);
    }

    /// Why nothing moves, and what to do.
    fn state(&self) -> String {
        let bus = &self.settings.bus;
        match self.bus.consumer() {
            None => format!("no consumer on bus {bus:?}: start `millpond daemon --bus {bus}`"),
            Some(_) => "the daemon cannot write: see `millpond stats`".to_owned(),
        }
    }
}

/// One wait for the daemon.
struct Wait {
    started: Instant,
    timeout: Option<Duration>,
    explained: bool,
}

impl Wait {
    fn start(timeout: Option<Duration>) -> Self {
        Wait {
            started: Instant::now(),
            timeout,
            explained: false,
        }
    }

    /// How long to wait before looking up.
    fn slice(&self) -> Duration {
        let left = |timeout: Duration| timeout.saturating_sub(self.started.elapsed());
        self.timeout
            .map_or(PATIENCE, |timeout| left(timeout).min(PATIENCE))
    }

    /// The timeout, where it has passed.
    fn has_ended(&self) -> Option<Duration> {
        let passed = |timeout: &Duration| self.started.elapsed() >= *timeout;
        self.timeout.filter(passed)
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
