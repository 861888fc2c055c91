//! What millpond says of itself, on standard error: events of `tracing` by level, and the notices of the daemon.
//!
//! Whoever logs never waits: a line goes into a queue of fixed length, and a thread of its own writes it. Where standard
//! error is full, closed, or stopped with its terminal, lines that find no room are counted and the count is told once
//! there is room; nothing else stops. Each callsite may say [`limit::BURST`] lines in [`limit::WINDOW`]; how many more there were
//! is told at the end of it. Memory is what the queue and the table of callsites take, whatever happens.
//!
//! Never through the bus: a bus in trouble could not tell of it.

mod limit;

use std::fmt::{self, Display};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields, Writer};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::limit::{Limiter, Taken};
use crate::flags::Color;
use crate::print::{self, DIM, PLAIN, RED, YELLOW};
use crate::units::{now_ns, utc};

/// Lines that may wait for standard error.
const QUEUE_LINES: usize = 256;
/// A longer line is cut: what waits takes at most a megabyte.
const LINE_BYTES_MAX: usize = 4 << 10;
/// How long the end of the process waits for standard error to take what is left.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// Crates whose events are told; those of others are never.
const CRATES: [&str; 3] = ["daemon", "sink", "telemetry"];

/// `warn`, or `info,sink=debug`: a level for all of millpond, and for crates of it.
#[derive(Debug, Clone)]
pub(crate) struct Levels {
    targets: Targets,
    highest: LevelFilter,
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut levels = [LevelFilter::WARN; CRATES.len()];
        let parse = |text: &str| {
            let is_known = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
            let level = is_known.then(|| text.parse().ok()).flatten();
            level.ok_or_else(|| {
                format!("{text:?} is no level: write off, error, warn, info, debug or trace")
            })
        };
        // As if the variable were not set.
        let text = match text {
            "" => "warn",
            text => text,
        };
        // What is said of all goes first, wherever it stands.
        let (of_all, of_one): (Vec<&str>, Vec<&str>) = text
            .split(',')
            .map(str::trim)
            .partition(|part| !part.contains('='));
        for part in of_all {
            levels = [parse(part)?; CRATES.len()];
        }
        for (name, level) in of_one.iter().filter_map(|part| part.split_once('=')) {
            let place = CRATES.iter().position(|known| *known == name);
            let place = place.ok_or_else(|| {
                let known = CRATES.join(", ");
                format!(
                    "{name:?} is nothing that logs: write LEVEL, or NAME=LEVEL with one of {known}"
                )
            })?;
            levels[place] = parse(level)?;
        }
        let targets = CRATES.iter().zip(levels);
        Ok(Levels {
            targets: targets
                .map(|(name, level)| (format!("millpond_{name}"), level))
                .collect(),
            highest: levels.into_iter().max().unwrap_or(LevelFilter::OFF),
        })
    }
}

/// Sends events of `levels` to standard error from now on. Costs no thread until there is one.
pub(crate) fn start(levels: &Levels, color: Color) {
    let (form, limiter) = (Form::of_stderr(color), Arc::new(Limiter::new()));
    let queue = QUEUE.get_or_init(|| Queue::new(form, limiter));
    if levels.highest == LevelFilter::OFF {
        return;
    }
    let layer = Stderr { queue }.with_filter(levels.targets.clone());
    // Only a program that has one already refuses; this one has none.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// `warning: ..`, without ever waiting for whoever reads it.
pub(crate) fn warning(message: &dyn Display) {
    say(
        Level::WARN,
        &format!("{YELLOW}warning:{YELLOW:#} {message}"),
    );
}

/// `error: ..`, likewise.
pub(crate) fn error(message: &dyn Display) {
    say(Level::ERROR, &format!("{RED}error:{RED:#} {message}"));
}

/// What is neither.
pub(crate) fn notice(message: &dyn Display) {
    say(Level::INFO, &message.to_string());
}

fn say(level: Level, text: &str) {
    if let Some(queue) = QUEUE.get() {
        queue.push(queue.form.notice(level, text));
    }
}

/// Waits until what was said is written, at most [`END_PATIENCE`]: who does not read by then does not get it.
pub(crate) fn flush() {
    let Some(lines) = QUEUE.get().and_then(|queue| queue.lines.get()) else {
        return;
    };
    let (written, is_written) = sync_channel(1);
    let until = Instant::now() + END_PATIENCE;
    let mut mark = Said::Mark(written);
    while let Err(TrySendError::Full(back)) = lines.try_send(mark) {
        if Instant::now() >= until {
            return;
        }
        mark = back;
        thread::sleep(Duration::from_millis(5));
    }
    let left = until.saturating_duration_since(Instant::now());
    let _ = is_written.recv_timeout(left);
}

static QUEUE: OnceLock<Queue> = OnceLock::new();

enum Said {
    Line(String),
    /// Something was left out for the first time: look at the limiter at this time.
    LookAt(Instant),
    Mark(SyncSender<()>),
}

/// Between those who say something and the thread that writes it.
struct Queue {
    form: Form,
    limiter: Arc<Limiter>,
    lines: OnceLock<SyncSender<Said>>,
    /// Lines that found no room.
    missing: Arc<AtomicU64>,
}

impl Queue {
    fn new(form: Form, limiter: Arc<Limiter>) -> Self {
        Queue {
            form,
            limiter,
            lines: OnceLock::new(),
            missing: Arc::default(),
        }
    }

    fn push(&self, line: String) {
        self.send(Said::Line(line));
    }

    fn send(&self, said: Said) {
        let lines = self.lines.get_or_init(|| {
            let (lines, said) = sync_channel(QUEUE_LINES);
            let (form, limiter) = (self.form, Arc::clone(&self.limiter));
            let missing = Arc::clone(&self.missing);
            // Without a thread the queue fills, and nobody hears of it; the daemon runs.
            let _ = thread::Builder::new()
                .name("millpond-log".to_owned())
                .spawn(move || write_all(&said, form, &limiter, &missing));
            lines
        });
        if lines.try_send(said).is_err() {
            // ORDERING: Relaxed; a count that says only itself.
            self.missing.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread: the only one that standard error may keep waiting.
fn write_all(said: &Receiver<Said>, form: Form, limiter: &Limiter, missing: &AtomicU64) {
    let mut look_at: Option<Instant> = None;
    loop {
        let left = look_at.map(|at| at.saturating_duration_since(Instant::now()));
        let next = match left {
            None => said.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(left) => said.recv_timeout(left),
        };
        match next {
            Ok(Said::Line(line)) => {
                write_stderr(line.as_bytes());
                // ORDERING: Relaxed; as above.
                match missing.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => write_stderr(form.missing(count).as_bytes()),
                }
            }
            Ok(Said::LookAt(at)) => look_at = Some(look_at.map_or(at, |old| old.min(at))),
            Ok(Said::Mark(written)) => {
                let _ = written.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                for (metadata, count) in limiter.take_left_out(Instant::now()) {
                    write_stderr(form.left_out(metadata, count).as_bytes());
                }
                look_at = limiter.next_end();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Writes past the lock of the standard library, so that a reader who does not read stops this thread alone: not one
/// that panics, nor the end of the process. What cannot be written is nobody's any more.
fn write_stderr(bytes: &[u8]) {
    print::progress::aside(|| write_whole(bytes));
}

fn write_whole(mut bytes: &[u8]) {
    let stderr = rustix::stdio::stderr();
    while !bytes.is_empty() {
        match rustix::io::write(stderr, bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ends = [PollFd::new(&stderr, PollFlags::OUT)];
                let _ = poll(&mut ends, None);
            }
            Err(_) => return,
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    colour: bool,
    /// The journal adds the time, and reads the priority off the front.
    journal: bool,
}

impl Form {
    fn of_stderr(color: Color) -> Self {
        let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stderr = std::fs::metadata("/proc/self/fd/2").ok();
        // A child may have inherited the variable and not the stream.
        let journal =
            stderr.is_some_and(|found| named == format!("{}:{}", found.dev(), found.ino()));
        Form {
            colour: !journal && print::is_coloured_stderr(color),
            journal,
        }
    }

    /// What people should hear of, as it has always looked.
    fn notice(self, level: Level, styled: &str) -> String {
        let text = match self.colour {
            true => styled.to_owned(),
            false => anstream::adapter::strip_str(styled).to_string(),
        };
        self.finish(level, &text)
    }

    fn event(self, level: Level, target: &str, text: &str) -> String {
        let target = short(target);
        if self.journal {
            return self.finish(level, &format!("{target}: {text}"));
        }
        let (style, dim) = match self.colour {
            true => (style(level), DIM),
            false => (PLAIN, PLAIN),
        };
        let (time, level_name) = (utc(now_ns()), level.as_str());
        self.finish(
            level,
            &format!("{dim}{time}{dim:#} {style}{level_name:<5}{style:#} {target}: {text}"),
        )
    }

    /// One line, whatever is in it, and not longer than a line may be.
    fn finish(self, level: Level, text: &str) -> String {
        let mut line = match self.journal {
            true => format!("<{}>", priority(level)),
            false => String::new(),
        };
        for character in text.chars() {
            if line.len() + character.len_utf8() >= LINE_BYTES_MAX {
                line.push('…');
                break;
            }
            match character {
                // Our own styles, where there are any.
                '\u{1b}' if self.colour => line.push(character),
                character if character.is_control() => line.extend(character.escape_default()),
                character => line.push(character),
            }
        }
        line.push('\n');
        line
    }

    fn left_out(self, metadata: &Metadata<'_>, count: u64) -> String {
        let (file, line) = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
        let file = file.rsplit('/').next().unwrap_or(file);
        let text = format!(
            "{count} more from {file}:{line} within {} s left out",
            limit::WINDOW.as_secs()
        );
        self.event(*metadata.level(), metadata.target(), &text)
    }

    fn missing(self, count: u64) -> String {
        let text = format!("{count} lines left out here: nobody read standard error");
        self.notice(Level::WARN, &format!("{YELLOW}warning:{YELLOW:#} {text}"))
    }
}

/// `millpond_sink::writer`: `sink`.
fn short(target: &str) -> &str {
    let name = target.split("::").next().unwrap_or(target);
    name.strip_prefix("millpond_").unwrap_or(name)
}

/// As syslog counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn style(level: Level) -> Style {
    match level {
        Level::ERROR => RED,
        Level::WARN => YELLOW,
        Level::INFO => AnsiColor::Green.on_default(),
        _ => DIM,
    }
}

/// Takes events of libraries.
struct Stderr {
    queue: &'static Queue,
}

impl<S: Subscriber> Layer<S> for Stderr {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        match self.queue.limiter.take(metadata, Instant::now()) {
            Taken::Told => {}
            Taken::LeftOut => return,
            Taken::FirstLeftOut { ends } => return self.queue.send(Said::LookAt(ends)),
        }
        let mut text = String::new();
        let form: Result<(), fmt::Error> =
            DefaultFields::new().format_fields(Writer::new(&mut text), event);
        if form.is_ok() {
            let line = (self.queue.form).event(*metadata.level(), metadata.target(), &text);
            self.queue.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Form = Form {
        colour: false,
        journal: false,
    };

    #[test]
    fn levels_are_for_all_or_for_one_and_a_mistake_says_what_to_write() {
        for good in [
            "",
            "off",
            "warn",
            "info,sink=debug",
            "sink=trace, daemon=off",
        ] {
            assert!(good.parse::<Levels>().is_ok(), "{good}");
        }
        for (bad, said) in [
            ("loud", "write off, error, warn"),
            ("sink=5", "write off, error, warn"),
            ("bus=debug", "one of daemon, sink, telemetry"),
        ] {
            let error = bad.parse::<Levels>().expect_err(bad);
            assert!(error.contains(said), "{bad}: {error}");
        }
        let levels: Levels = "sink=debug,error".parse().expect("levels");
        assert!(levels.targets.would_enable("millpond_sink", &Level::DEBUG));
        assert!(!levels.targets.would_enable("millpond_daemon", &Level::WARN));
        assert!(!levels.targets.would_enable("tokio_uring", &Level::ERROR));
    }

    #[test]
    fn a_line_is_one_line_and_has_an_end() {
        let told = PIPE.notice(Level::WARN, "\u{1b}[33mwarning:\u{1b}[0m a\nb\u{7}");
        // Without colour what is no text goes together with the styles.
        assert_eq!(told, "warning: a\\nb\n");
        let long = PIPE.notice(Level::WARN, &"ü".repeat(LINE_BYTES_MAX));
        assert!(
            long.len() < LINE_BYTES_MAX + 8 && long.ends_with("…\n"),
            "{}",
            long.len()
        );
        let event = PIPE.event(Level::INFO, "millpond_sink::writer", "segment closed");
        assert!(event.ends_with(" INFO  sink: segment closed\n"), "{event}");
        assert!(event.starts_with("20"), "a time: {event}");
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let journal = Form {
            journal: true,
            ..PIPE
        };
        assert_eq!(journal.notice(Level::WARN, "warning: x"), "<4>warning: x\n");
        let event = journal.event(Level::DEBUG, "millpond_sink::writer", "segment closed");
        assert_eq!(event, "<7>sink: segment closed\n");
    }
}
