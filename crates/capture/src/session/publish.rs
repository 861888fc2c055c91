//! Lines to the bus, and what the capture itself has to say.

use std::time::{Duration, Instant};

use millpond_bus::{Bus, Counts, Guarantee, Level, PublishError, Publisher, Topic};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};

use crate::error::Error;
use crate::level::detect_level;
use crate::lines::{LineSplitter, PIECE_BYTES, View};
use crate::raw::RawName;

/// How long the last lines may wait for a consumer that is alive.
const FLUSH_WAIT: Duration = Duration::from_millis(500);

/// Lines leave so much of the lane to what the capture itself has to say, so that how a command ended is in the log
/// where its lines found no room.
const NOTES_BYTES: usize = 4 << 10;

/// The publisher of a capture.
pub(crate) struct Notes {
    pub(crate) publisher: Publisher,
    topic: Topic,
    /// Of the streams, which are the same in each run.
    topics: Vec<(String, Topic)>,
    /// Of the runs before.
    before: Counts,
    /// Until when whoever drains is waited for at the end of a run; `None`: nobody drains.
    patience: Option<Instant>,
}

/// `@PID` where another capture of this service is under way on the bus, which started earlier.
pub(crate) fn name(bus: &Bus, service: &str) -> RawName {
    let label = format!("capture:{service}");
    let own = getpid();
    let is_other = |pid: u32| {
        Pid::from_raw(pid.cast_signed()).is_some_and(|pid| {
            // Not permitted to signal it: it is there.
            pid != own && !matches!(test_kill_process(pid), Err(Errno::SRCH))
        })
    };
    let is_taken = bus
        .stats()
        .lanes
        .iter()
        .any(|lane| lane.label == label && is_other(lane.origin.pid));
    RawName {
        service: service.to_owned(),
        pid: is_taken.then(|| own.as_raw_nonzero().get().unsigned_abs()),
    }
}

/// `@PID`, or nothing.
fn suffix(name: &RawName) -> String {
    name.pid.map(|pid| format!("@{pid}")).unwrap_or_default()
}

impl Notes {
    pub(crate) fn new(bus: &Bus, name: &RawName) -> Result<Self, millpond_bus::Error> {
        let suffix = suffix(name);
        let mut publisher = bus.publisher(&format!("capture:{}{suffix}", name.service))?;
        let topic = publisher.topic(&format!("log:{}:capture{suffix}", name.service))?;
        Ok(Notes {
            publisher,
            topic,
            topics: Vec::new(),
            before: Counts::default(),
            patience: None,
        })
    }

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        self.before = self.publisher.counts();
    }

    /// What this run has offered, and what of it was dropped.
    pub(crate) fn counts(&self) -> Counts {
        let (now, before) = (self.publisher.counts(), &self.before);
        Counts {
            published: now.published - before.published,
            dropped_full: now.dropped_full - before.dropped_full,
            dropped_deadline: now.dropped_deadline - before.dropped_deadline,
            dropped_too_long: now.dropped_too_long - before.dropped_too_long,
        }
    }

    /// The same for the same name: a publisher keeps what it has made.
    fn topic(&mut self, event_name: &str) -> Result<Topic, Error> {
        let known = self.topics.iter().find(|(name, _)| name == event_name);
        if let Some((_, topic)) = known {
            return Ok(*topic);
        }
        let topic = self.publisher.topic(event_name)?;
        self.topics.push((event_name.to_owned(), topic));
        Ok(topic)
    }

    /// A note in between: dropped and counted as a line is.
    pub(crate) fn say(&mut self, level: Level, text: &str) {
        let _ = self
            .publisher
            .try_publish(self.topic, level, text.as_bytes());
    }

    /// The last one: nobody is kept from anything any more, so it may wait a little for room, where somebody makes it.
    pub(crate) fn say_last(&mut self, bus: &Bus, level: Level, text: &str) {
        self.patience = bus.consumer().map(|_| Instant::now() + FLUSH_WAIT);
        if self.patience.is_some() {
            self.publisher
                .wait_for_space(self.topic, text.len(), FLUSH_WAIT);
        }
        // Lines leave room for it; where others took that, it is a drop: counted, and told by the gap's line.
        self.say(level, text);
    }

    /// Waits a little for the consumer, and tells what was offered and dropped in this run.
    pub(crate) fn finish(&mut self) -> Counts {
        if let Some(patience) = self.patience.take() {
            // What is not written in that time waits in shared memory for it.
            let left = patience.saturating_duration_since(Instant::now());
            let _ = self.publisher.flush(Guarantee::Written, Some(left));
        }
        self.counts()
    }
}

/// One stream of the command, as lines.
pub(crate) struct Lines {
    splitter: LineSplitter,
    topic: Topic,
    continued: Topic,
    /// Of all lines, where it was said.
    level: Option<Level>,
    /// Of the line that goes on with the next piece.
    level_of_line: Option<Level>,
    partial_delay: Duration,
    deadline: Option<Instant>,
    full_screen_since: Option<Instant>,
}

impl Lines {
    pub(crate) fn new(
        notes: &mut Notes,
        name: &RawName,
        source: &str,
        view: View,
        level: Option<Level>,
        partial_delay: Duration,
    ) -> Result<Self, Error> {
        let event = format!("log:{}:{source}{}", name.service, suffix(name));
        let topic = notes.topic(&event)?;
        let continued = notes.topic(&format!("{event}+"))?;
        let limit = |topic| notes.publisher.payload_bytes_limit(topic) as usize;
        let piece_bytes = PIECE_BYTES.min(limit(topic)).min(limit(continued)).max(1);
        Ok(Lines {
            splitter: LineSplitter::new(view, piece_bytes),
            topic,
            continued,
            level,
            level_of_line: None,
            partial_delay,
            deadline: None,
            full_screen_since: None,
        })
    }

    /// When [`Lines::flush_partial`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How wide the terminal is from now on.
    pub(crate) fn set_columns(&mut self, columns: u16) {
        self.splitter.set_columns(columns);
    }

    pub(crate) fn push(&mut self, notes: &mut Notes, bytes: &[u8]) {
        self.send(&mut notes.publisher, Input::Bytes(bytes));
        self.deadline = match self.splitter.has_partial() {
            true => Instant::now().checked_add(self.partial_delay),
            false => None,
        };
        self.watch_full_screen(notes);
    }

    /// Tells of a full-screen program that has ended.
    fn watch_full_screen(&mut self, notes: &mut Notes) {
        let ended = self.splitter.take_note();
        let since = match self.splitter.is_full_screen() {
            true => *self.full_screen_since.get_or_insert_with(Instant::now),
            false if ended.is_none() => return,
            false => self.full_screen_since.take().unwrap_or_else(Instant::now),
        };
        if let Some(note) = ended {
            let text = format!(
                "left out of the lines: {} bytes of a full-screen program, in {:.1}s; `--raw-to FILE` keeps them",
                note.bytes,
                since.elapsed().as_secs_f64()
            );
            notes.say(Level::Info, &text);
        }
    }

    /// The line has stood there long enough without its end.
    pub(crate) fn flush_partial(&mut self, publisher: &mut Publisher) {
        self.deadline = None;
        self.send(publisher, Input::Silence);
    }

    pub(crate) fn finish(&mut self, notes: &mut Notes) {
        self.deadline = None;
        self.send(&mut notes.publisher, Input::End);
        self.watch_full_screen(notes);
    }

    /// Publishes what becomes lines by this, as one batch: it came together. What finds no room is dropped, and
    /// counted by the publisher.
    fn send(&mut self, publisher: &mut Publisher, input: Input<'_>) {
        let Lines {
            splitter,
            topic,
            continued,
            level,
            level_of_line,
            ..
        } = self;
        let Ok(mut batch) = publisher.batch(*topic) else {
            // It made the topics itself.
            return;
        };
        let mut is_line = true;
        let mut out = |piece: &[u8], is_continued: bool| -> Result<(), PublishError> {
            if is_line == is_continued {
                batch.set_topic(if is_continued { *continued } else { *topic })?;
                is_line = !is_continued;
            }
            let known = level.or(*level_of_line);
            if is_continued {
                let level = known.unwrap_or_else(|| detect_level(piece));
                *level_of_line = Some(level);
                let _ = batch.try_push(|| level, piece, NOTES_BYTES);
            } else {
                *level_of_line = None;
                // A flood that finds no room is dropped without a look.
                let level = || known.unwrap_or_else(|| detect_level(piece));
                let _ = batch.try_push(level, piece, NOTES_BYTES);
            }
            Ok(())
        };
        let _ = match input {
            Input::Bytes(bytes) => splitter.push(bytes, &mut out),
            Input::Silence => splitter.flush(&mut out),
            Input::End => splitter.finish(&mut out),
        };
        batch.commit();
    }
}

/// What happens on a stream.
enum Input<'b> {
    Bytes(&'b [u8]),
    /// Nothing, for as long as a line may be held back.
    Silence,
    End,
}
