//! What happens to services, told three ways: in the log of the service, to whoever reads standard error, and to
//! programs.

use std::io::Write;
use std::time::Duration;

use millpond_bus::{Bus, Guarantee, Level, Publisher, Topic};
use millpond_capture::Exit;
use serde_json::{Map, Value, json};

use super::file::signal_name;
use super::nanoseconds;
use crate::args::Settings;
use crate::outcome::Failure;
use crate::print::{BOLD, talk, warning_line};
use crate::units::{format_duration, now_ns, utc};

/// How long the last notes may take to be written.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// How a command ended, or why it was never there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Exited(Exit, Duration),
    NotStarted(String),
    /// It was started, and then its capture failed.
    Lost(String),
}

impl End {
    /// Only 0 is no failure.
    pub(super) fn is_failure(&self) -> bool {
        !matches!(self, End::Exited(Exit::Code(0), _))
    }

    pub(super) fn ran(&self) -> Duration {
        match self {
            End::Exited(_, ran) => *ran,
            End::NotStarted(_) | End::Lost(_) => Duration::ZERO,
        }
    }

    fn text(&self) -> String {
        match self {
            End::Exited(exit, ran) => {
                format!("{exit} after={:.1}s", ran.as_secs_f64())
            }
            End::NotStarted(why) => format!("not started: {why}"),
            End::Lost(why) => format!("its capture failed, and it may still run: {why}"),
        }
    }

    fn json(&self, into: &mut Map<String, Value>) {
        match self {
            End::Exited(Exit::Code(code), _) => into.insert("code".to_owned(), json!(code)),
            End::Exited(Exit::Signal(signal), _) => into.insert("signal".to_owned(), json!(signal)),
            End::NotStarted(why) | End::Lost(why) => into.insert("error".to_owned(), json!(why)),
        };
        into.insert("after_ns".to_owned(), json!(nanoseconds(self.ran())));
    }
}

/// What happened to a service.
#[derive(Debug, Clone)]
pub(super) enum Happened {
    Started {
        process_id: Option<u32>,
    },
    /// And stays so.
    Ended(End),
    Restarting {
        end: End,
        number: u32,
        delay: Duration,
    },
    GaveUp {
        end: End,
        restarts: u32,
    },
    Stopping {
        signal: i32,
        timeout: Duration,
    },
    Killed {
        why: &'static str,
    },
    /// By a stop, before it was started again.
    NotRestarted {
        number: u32,
    },
}

impl Happened {
    fn name(&self) -> &'static str {
        match self {
            Happened::Started { .. } => "started",
            Happened::Ended(_) => "ended",
            Happened::Restarting { .. } => "restarting",
            Happened::GaveUp { .. } => "gave-up",
            Happened::Stopping { .. } => "stopping",
            Happened::Killed { .. } => "killed",
            Happened::NotRestarted { .. } => "not-restarted",
        }
    }

    fn text(&self) -> String {
        match self {
            Happened::Started { process_id: None } => "started".to_owned(),
            Happened::Started {
                process_id: Some(id),
            } => format!("started pid={id}"),
            Happened::Ended(end) => end.text(),
            Happened::Restarting { end, number, delay } => {
                let delay = format_duration(*delay);
                format!("{}; restart {number} in {delay}", end.text())
            }
            Happened::GaveUp { end, restarts } => {
                format!(
                    "{}; given up after {restarts} restarts in a row",
                    end.text()
                )
            }
            Happened::Stopping { signal, timeout } => format!(
                "stopping: {}, after {} SIGKILL",
                signal_name(*signal),
                format_duration(*timeout)
            ),
            Happened::Killed { why } => format!("SIGKILL: {why}"),
            Happened::NotRestarted { number } => {
                format!("stopped while it waited for restart {number}")
            }
        }
    }

    /// For the log; `None`: the capture has written it there itself.
    fn level(&self) -> Option<Level> {
        match self {
            Happened::Started { .. } | Happened::Ended(End::Exited(..)) => None,
            Happened::Ended(_) | Happened::GaveUp { .. } => Some(Level::Error),
            Happened::Restarting { .. } | Happened::Killed { .. } => Some(Level::Warn),
            Happened::Stopping { .. } | Happened::NotRestarted { .. } => Some(Level::Info),
        }
    }

    fn json(&self, into: &mut Map<String, Value>) {
        let mut insert = |key: &str, value: Value| into.insert(key.to_owned(), value);
        match self {
            Happened::Started { process_id } => {
                insert("pid", json!(process_id));
            }
            Happened::Ended(end) => end.json(into),
            Happened::Restarting { end, number, delay } => {
                insert("restart", json!(number));
                insert("delay_ns", json!(nanoseconds(*delay)));
                end.json(into);
            }
            Happened::GaveUp { end, restarts } => {
                insert("restarts", json!(restarts));
                end.json(into);
            }
            Happened::Stopping { signal, timeout } => {
                insert("stop_signal", json!(signal_name(*signal)));
                insert("timeout_ns", json!(nanoseconds(*timeout)));
            }
            Happened::Killed { why } => {
                insert("why", json!(why));
            }
            Happened::NotRestarted { number } => {
                insert("restart", json!(number));
            }
        }
    }
}

/// Tells it. Waits for nobody.
pub(super) struct Teller<'s> {
    settings: &'s Settings,
    bus: Bus,
    publisher: Publisher,
    /// By service.
    topics: Vec<Topic>,
}

impl<'s> Teller<'s> {
    /// For these services.
    pub(super) fn new<'n>(
        bus: &Bus,
        names: impl Iterator<Item = &'n str>,
        settings: &'s Settings,
    ) -> Result<Self, Failure> {
        // Not `capture:NAME`: by that, captures know of one another.
        let mut publisher = bus.publisher("capture-file")?;
        let topics = names.map(|name| publisher.topic(&format!("log:{name}:capture")));
        let topics = topics.collect::<Result<Vec<_>, _>>()?;
        Ok(Teller {
            settings,
            bus: bus.clone(),
            publisher,
            topics,
        })
    }

    /// `service`: its place, and its name.
    pub(super) fn tell(&mut self, (place, name): (usize, &str), happened: &Happened) {
        let text = happened.text();
        if let Some(level) = happened.level() {
            // A drop is counted, and shows in `millpond stats`.
            let _ = (self.publisher).try_publish(self.topics[place], level, text.as_bytes());
        }
        if self.settings.json {
            let mut object = self.object(happened.name());
            object.insert("service".to_owned(), json!(name));
            happened.json(&mut object);
            print_json(object);
        } else {
            talk(self.settings.color, BOLD, name, &text);
        }
    }

    /// Something that is about all of them.
    pub(super) fn warn(&self, message: &str) {
        warning_line(self.settings.color, &message);
    }

    /// The last word: `failed` did not end in order. Waits a moment for the notes to be written.
    pub(super) fn done(mut self, code: u8, failed: &[&str]) {
        if self.settings.json {
            let mut object = self.object("done");
            object.insert("code".to_owned(), json!(code));
            object.insert("failed".to_owned(), json!(failed));
            print_json(object);
        } else if !failed.is_empty() {
            self.warn(&format!("did not end in order: {}", failed.join(", ")));
        }
        if self.bus.consumer().is_some() {
            // What is not written by now waits in shared memory.
            let _ = (self.publisher).flush(Guarantee::Written, Some(FLUSH_LIMIT));
        }
    }

    fn object(&self, event: &str) -> Map<String, Value> {
        let time_ns = now_ns();
        let mut object = Map::new();
        object.insert("version".to_owned(), json!(1));
        object.insert("time".to_owned(), json!(utc(time_ns)));
        object.insert("time_ns".to_owned(), json!(time_ns));
        object.insert("event".to_owned(), json!(event));
        object
    }
}

fn print_json(object: Map<String, Value>) {
    let mut out = std::io::stdout().lock();
    // The services go on when nobody listens any more.
    let _ = writeln!(out, "{}", Value::Object(object)).and_then(|()| out.flush());
}
