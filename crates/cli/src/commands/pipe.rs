//! `millpond pipe`: lines of standard input to the bus, at full rate.
//!
//! What one read brings is one batch: its lines share a stamp, since they came together, and one commit.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, FlushError, Guarantee, Level, Overflow, PublishBatch, PublishError, Publisher, Topic,
    check_event_name,
};
use millpond_capture::{LineSplitter, PIECE_BYTES, View, detect_level};
use millpond_logfile::check_service_name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use crate::Run;
use crate::args::Settings;
use crate::flags::PipeFlags;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::print::progress::Progress;
use crate::units::{format_duration, human_count, human_size};

/// Read at once. More would fall out of the processor's cache between the read and the lane; less would be more
/// commits, each of which costs a look at the consumer.
const READ_BYTES: usize = 128 << 10;
/// Room for the producer to go on while a batch is published. The most that an ordinary user may ask for.
const PIPE_BYTES: usize = 1 << 20;
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
    let topics = Topics {
        line: publisher.topic(&event)?,
        continued: publisher.topic(&format!("{event}+"))?,
    };
    let overflow = bus
        .rules()?
        .resolve(&event)
        .map(|found| found.rule.overflow);
    let view = flags.view.into();
    let mut lines = Lines {
        publisher,
        topics,
        splitter: LineSplitter::new(view, PIECE_BYTES),
        is_exact: view == View::Exact,
        level,
        open_level: None,
        may_wait: overflow != Some(Overflow::DropNewest),
        taken_bytes: 0,
        talk: Talk {
            bus: &bus,
            settings,
            timeout: flags.timeout,
            explained: None,
            meter: Meter::new(flags.tee),
        },
    };
    let mut tee = flags.tee.then(Tee::default);
    copy(&mut lines, flags.partial_delay, tee.as_mut())?;
    let outcome = lines.finish()?;
    match tee.and_then(|tee| tee.failed) {
        Some(error) => Err(Failure::new(format!(
            "standard output was not written to its end: {error}; the log has everything"
        ))),
        None => Ok(outcome),
    }
}

pub(crate) fn parse_level(name: &str) -> Result<Level, Failure> {
    let level: millpond_logfile::Level = name.parse().map_err(Failure::new)?;
    Ok(Level::from_u8(level as u8))
}

/// Reads standard input to its end.
fn copy(
    lines: &mut Lines<'_>,
    partial_delay: Duration,
    mut tee: Option<&mut Tee>,
) -> Result<(), Failure> {
    let stdin = io::stdin();
    // It fails where that is no pipe, or the system has no room for larger ones: then it stays as it is.
    if fcntl_getpipe_size(&stdin).is_ok_and(|bytes| bytes < PIPE_BYTES) {
        let _ = fcntl_setpipe_size(&stdin, PIPE_BYTES);
    }
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if lines.splitter.has_partial() && !wait_for_input(&stdin, Some(partial_delay))? {
            lines.send(Input::Silence)?;
        }
        let count = match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            // Somebody has set it so for all who have this end of the pipe.
            Err(Errno::AGAIN) => {
                wait_for_input(&stdin, None)?;
                continue;
            }
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let bytes = &buffer[..count];
        if let Some(tee) = &mut tee {
            tee.write(bytes, lines.talk.settings);
        }
        lines.send(Input::Bytes(bytes))?;
        lines.talk.meter.count(count, &lines.publisher);
    }
    lines.send(Input::End)
}

/// Whether there is something to read, or the end of it, before `timeout`; `None` waits for ever.
fn wait_for_input(stdin: &impl AsFd, timeout: Option<Duration>) -> Result<bool, Failure> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut ends = [PollFd::new(stdin, PollFlags::IN)];
    loop {
        match poll(&mut ends, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            // A stopped and continued job: the line stands a little longer then.
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// The copy on standard output. As with `tee`, a slow reader of it slows down whoever writes to us: it gets
/// everything. One that has had enough (`| head`) is let go, and the log goes on without it.
#[derive(Default)]
struct Tee {
    is_over: bool,
    /// Why, unless its reader just went away.
    failed: Option<io::Error>,
}

impl Tee {
    fn write(&mut self, mut bytes: &[u8], settings: &Settings) {
        let stdout = io::stdout();
        while !bytes.is_empty() && !self.is_over {
            match rustix::io::write(&stdout, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // An error of it is one of the next write too.
                    let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None);
                }
                Err(Errno::PIPE) => self.is_over = true,
                Err(errno) => {
                    let error = io::Error::from(errno);
                    let message =
                        format!("standard output is not written any more, the log is: {error}");
                    print::warning_line(settings.color, &message);
                    self.failed = Some(error);
                    self.is_over = true;
                }
            }
        }
    }
}

struct Topics {
    /// The end of a line.
    line: Topic,
    /// A piece that goes on.
    continued: Topic,
}

/// What happens on standard input.
enum Input<'b> {
    Bytes(&'b [u8]),
    /// Nothing, for as long as a line may be held back.
    Silence,
    End,
}

struct Lines<'s> {
    publisher: Publisher,
    topics: Topics,
    splitter: LineSplitter,
    /// Every byte is published as it came.
    is_exact: bool,
    level: Option<Level>,
    /// That of the line of which a piece is published already.
    open_level: Option<Level>,
    /// Whether a full lane is waited for; not where the rule says `drop-newest`.
    may_wait: bool,
    /// Bytes of standard input that are in the lane, or counted as dropped.
    taken_bytes: u64,
    talk: Talk<'s>,
}

impl Lines<'_> {
    /// Publishes what becomes lines by this, with one commit.
    fn send(&mut self, input: Input<'_>) -> Result<(), Failure> {
        let mut sender = Sender {
            batch: self.publisher.batch(self.topics.line)?,
            topics: &self.topics,
            payload_bytes_limit: 0,
            is_line: true,
            is_exact: self.is_exact,
            level: self.level,
            open_level: &mut self.open_level,
            may_wait: self.may_wait,
            taken_bytes: &mut self.taken_bytes,
            talk: &mut self.talk,
        };
        sender.note_limit();
        let mut out = |piece: &[u8], is_continued: bool| sender.publish(piece, is_continued);
        match input {
            Input::Bytes(bytes) => self.splitter.push(bytes, &mut out)?,
            Input::Silence => self.splitter.flush(&mut out)?,
            Input::End => self.splitter.finish(&mut out)?,
        }
        if let (Input::Bytes(bytes), false) = (input, sender.is_exact) {
            *sender.taken_bytes += bytes.len() as u64;
        }
        sender.batch.commit();
        Ok(())
    }
}

/// Publishes pieces, as one batch.
struct Sender<'p, 's> {
    batch: PublishBatch<'p>,
    topics: &'p Topics,
    /// The longest record that the rules allow.
    payload_bytes_limit: usize,
    /// The batch's topic is that of ended lines.
    is_line: bool,
    is_exact: bool,
    level: Option<Level>,
    open_level: &'p mut Option<Level>,
    may_wait: bool,
    taken_bytes: &'p mut u64,
    talk: &'p mut Talk<'s>,
}

impl Sender<'_, '_> {
    /// Rules may change whenever something was committed.
    fn note_limit(&mut self) {
        let publisher = self.batch.publisher();
        let limit = |topic| publisher.payload_bytes_limit(topic) as usize;
        // A rule that allows nothing is one whose records are refused, not one to wait for for ever.
        self.payload_bytes_limit = limit(self.topics.line)
            .min(limit(self.topics.continued))
            .max(1);
    }

    #[inline]
    fn publish(&mut self, mut piece: &[u8], is_continued: bool) -> Result<(), Failure> {
        while piece.len() > self.payload_bytes_limit {
            let (first, rest) = piece.split_at(self.payload_bytes_limit);
            self.publish_record(first, true)?;
            piece = rest;
        }
        self.publish_record(piece, is_continued)
    }

    /// Publishes one record. While the lane is full it waits, unless the rule says to drop then; a drop is
    /// counted by the publisher.
    #[inline]
    fn publish_record(&mut self, bytes: &[u8], is_continued: bool) -> Result<(), Failure> {
        if self.is_line == is_continued {
            self.batch.set_topic(match is_continued {
                true => self.topics.continued,
                false => self.topics.line,
            })?;
            self.is_line = !is_continued;
        }
        if self.may_wait && !self.batch.has_room(bytes.len()) {
            self.wait_for_room(bytes.len())?;
        }
        let level = match (self.level, *self.open_level) {
            // All pieces of a line have the level that its beginning names.
            (Some(level), _) | (None, Some(level)) => level,
            (None, None) => detect_level(bytes),
        };
        *self.open_level = is_continued.then_some(level);
        match self.batch.push(level, bytes) {
            Ok(()) | Err(PublishError::DeadlinePassed | PublishError::Full) => {}
            Err(error) => return Err(error.into()),
        }
        if self.is_exact {
            *self.taken_bytes += bytes.len() as u64 + u64::from(!is_continued);
        }
        Ok(())
    }

    #[cold]
    fn wait_for_room(&mut self, record_bytes: usize) -> Result<(), Failure> {
        let mut wait = Wait::start(self.talk.timeout);
        loop {
            if self.batch.wait_for_space(record_bytes, wait.slice()) {
                self.note_limit();
                return Ok(());
            }
            let taken = *self.taken_bytes;
            if let Some(timeout) = wait.has_ended() {
                return Err(Failure::new(format!(
                    "standard input was not taken from byte {taken} on: the lane is full, and had no room within \
                     {}; {}; what was taken waits in shared memory to be written",
                    format_duration(timeout),
                    self.talk.state()
                )));
            }
            self.talk.explain(&mut wait, &|| {
                format!("waiting for room in the lane after {}", human_size(taken))
            });
        }
    }
}

impl Lines<'_> {
    /// Waits until everything is written, and says what was lost.
    fn finish(mut self) -> Run {
        let mut wait = Wait::start(self.talk.timeout);
        loop {
            match self.publisher.flush(Guarantee::Written, Some(wait.slice())) {
                Ok(()) => break,
                Err(FlushError::TimedOut { pending_bytes }) => {
                    let pending = human_size(pending_bytes);
                    if let Some(timeout) = wait.has_ended() {
                        return Err(Failure::new(format!(
                            "{pending} were not written within {}; {}; they wait in shared memory to be written",
                            format_duration(timeout),
                            self.talk.state()
                        )));
                    }
                    self.talk.explain(&mut wait, &|| {
                        format!("waiting for {pending} to be written")
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.talk.meter.progress.finish();
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
        print::error_line(self.talk.settings.color, &message);
        Ok(Outcome::Nothing)
    }
}

/// What people are told.
struct Talk<'s> {
    bus: &'s Bus,
    settings: &'s Settings,
    timeout: Option<Duration>,
    /// When a wait was last explained.
    explained: Option<Instant>,
    meter: Meter,
}

impl Talk<'_> {
    /// Says once per wait, and not too often over all, what is waited for.
    fn explain(&mut self, wait: &mut Wait, what: &dyn Fn() -> String) {
        let recently = |explained: Instant| explained.elapsed() < EXPLAIN_INTERVAL;
        if std::mem::replace(&mut wait.explained, true) || self.explained.is_some_and(recently) {
            return;
        }
        self.explained = Some(Instant::now());
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

/// How much has come, for people.
struct Meter {
    started: Instant,
    told: Option<Instant>,
    bytes: u64,
    progress: Progress,
}

impl Meter {
    /// Who types the lines, or sees them all, needs no count of them.
    fn new(is_teed: bool) -> Self {
        let is_seen = io::stdin().is_terminal() || (is_teed && io::stdout().is_terminal());
        let progress = match (is_seen, is_teed) {
            (true, _) => Progress::none(),
            (false, true) => Progress::for_output(Progress::in_words),
            (false, false) => Progress::in_words(),
        };
        Meter {
            started: Instant::now(),
            told: None,
            bytes: 0,
            progress,
        }
    }

    fn count(&mut self, bytes: usize, publisher: &Publisher) {
        self.bytes += bytes as u64;
        let recently = |told: Instant| told.elapsed() < PROGRESS_INTERVAL;
        if self.told.is_some_and(recently) {
            return;
        }
        self.told = Some(Instant::now());
        let lines = publisher.counts().published;
        let rate = lines as f64 / self.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let (size, rate) = (human_size(self.bytes), human_count(rate));
        self.progress
            .say(format!("{lines} lines, {size}, {rate}/s"));
    }
}
