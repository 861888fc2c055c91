//! What is measured, how often and in which order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millpond_loadgen::{Error, Host};

use crate::parts;
use crate::row::{Round, Row};

/// A kind of work.
///
/// ```
/// use millpond_bench::Part;
/// assert_eq!(Part::named("sink"), Some(Part::Sink));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The floors: memory, a bare ring, a bare cache line.
    Ring,
    /// What a publish costs its publisher while the consumer drains.
    Publish,
    /// What draining costs the consumer.
    Drain,
    /// Publisher to daemon to subscribers, in consolidated records.
    Batch,
    /// How long until a receiver has an event: asleep, and polling.
    Wake,
    /// Lines from processes into indexed files.
    Sink,
    /// What operators ask of the files.
    Query,
    /// Terminals and pipes into the log.
    Capture,
}

impl Part {
    /// All, in the order they are run.
    pub const ALL: [Part; 8] = [
        Part::Ring,
        Part::Publish,
        Part::Drain,
        Part::Batch,
        Part::Wake,
        Part::Sink,
        Part::Query,
        Part::Capture,
    ];

    /// Its word on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Part::Ring => "ring",
            Part::Publish => "publish",
            Part::Drain => "drain",
            Part::Batch => "batch",
            Part::Wake => "wake",
            Part::Sink => "sink",
            Part::Query => "query",
            Part::Capture => "capture",
        }
    }

    /// What it measures, for a list.
    pub fn words(self) -> &'static str {
        match self {
            Part::Ring => "the floors of the bus: memory, a bare ring, a bare cache line",
            Part::Publish => "what a publish costs its publisher while the consumer drains",
            Part::Drain => "what draining costs the consumer",
            Part::Batch => "publisher to daemon to subscribers, in consolidated records",
            Part::Wake => "how long until a receiver has an event: asleep, and polling",
            Part::Sink => {
                "lines from processes into indexed files, and each on the disk before the next"
            }
            Part::Query => "what operators ask of the files, whole processes",
            Part::Capture => "terminals and pipes into the log",
        }
    }

    /// The part of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A proof that it runs, in seconds; its figures mean nothing.
    Tiny,
    /// As it is quoted.
    Full,
}

/// What to measure.
///
/// ```
/// let options = millpond_bench::Options::new(millpond_bench::Size::Tiny);
/// assert_eq!((options.parts.len(), options.rounds), (8, 1));
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// These parts, in this order.
    pub parts: Vec<Part>,
    /// How much.
    pub size: Size,
    /// How often each case is measured.
    pub rounds: usize,
    /// How cost grows as well: publishers, payload, rules, lanes, subscribers, services, log size.
    pub growth: bool,
    /// Of [`Options::growth`]: no log is made larger than this.
    pub log_bytes_limit: u64,
    /// Where logs are made, removed at the end; `None`: the temporary directory.
    pub dir: Option<PathBuf>,
    /// The program that plays the roles; `None`: this one, as `PROGRAM bench-role ROLE ..`.
    pub host: Option<Host>,
    /// The program behind `millpond pipe`, `capture` and `query`, which those parts cannot do without.
    pub millpond: Option<PathBuf>,
    /// Whoever sets it has [`run`] end behind the round that it is in, with what was measured until then.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    /// All parts, without growth: five rounds, or one that is tiny.
    pub fn new(size: Size) -> Self {
        Options {
            parts: Part::ALL.to_vec(),
            size,
            rounds: match size {
                Size::Tiny => 1,
                Size::Full => 5,
            },
            growth: false,
            log_bytes_limit: match size {
                Size::Tiny => 1_000_000,
                Size::Full => 10_000_000_000,
            },
            dir: None,
            host: None,
            millpond: None,
            stop: Arc::default(),
        }
    }

    /// Whether somebody wants it to end.
    pub(crate) fn is_stopped(&self) -> bool {
        // ORDERING: Relaxed; it says nothing about anything else.
        self.stop.load(Ordering::Relaxed)
    }

    /// `full`, or few where tiny.
    pub(crate) fn events(&self, full: u64) -> u64 {
        match self.size {
            Size::Tiny => (full / 1000).max(100),
            Size::Full => full,
        }
    }

    /// The logs of one round.
    pub(crate) fn new_dir(&self) -> Result<tempfile::TempDir, Error> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        Ok(tempfile::Builder::new()
            .prefix("millpond-bench.")
            .tempdir_in(parent)?)
    }

    /// The program behind `millpond query` and its like.
    pub(crate) fn millpond(&self) -> Result<PathBuf, Error> {
        // Never this program unasked: one that is not `millpond` could measure all again, and again.
        self.millpond.clone().ok_or_else(|| {
            Error::new("no program `millpond` was named, which query and capture need")
        })
    }

    /// How roles are started.
    pub(crate) fn host(&self) -> Result<Host, Error> {
        match &self.host {
            Some(host) => Ok(host.clone()),
            None => Ok(Host::new(std::env::current_exe()?, &["bench-role"])),
        }
    }
}

/// A row to be, and how one round of it is measured.
pub(crate) struct Case {
    /// Without rounds; `skipped` where it cannot run here.
    pub(crate) row: Row,
    /// One round.
    pub(crate) round: Box<dyn FnMut() -> Result<Round, Error>>,
}

/// What is about to be measured, for a progress display.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The part.
    pub part: Part,
    /// The case: who does it, and how much of what varies.
    pub row: &'a Row,
    /// Its number among all rounds of all cases of the part, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// Measures; `progress` is told of each round before it begins. Blocks for as long as that takes: seconds where tiny,
/// minutes else.
///
/// A round that fails is told in its row, which gets no more of them; the others go on.
///
/// # Errors
/// Where a part cannot be prepared at all: no room for its logs, no shared memory.
pub fn run(options: &Options, progress: &mut dyn FnMut(&Step<'_>)) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for &part in &options.parts {
        if options.is_stopped() {
            break;
        }
        let mut cases = parts::cases(part, options)?;
        let count = cases.len() * options.rounds;
        for round in 0..options.rounds {
            for at in 0..cases.len() {
                let index = (round + at) % cases.len();
                let case = &mut cases[index];
                let has_ended = case.row.skipped.is_some() || case.row.failed.is_some();
                if has_ended || options.is_stopped() {
                    continue;
                }
                progress(&Step {
                    part,
                    row: &case.row,
                    index: round * (count / options.rounds) + at,
                    count,
                });
                match (case.round)() {
                    Ok(figures) => case.row.rounds.push(figures),
                    // What asks this process to stop may have ended its helpers.
                    Err(_) if options.is_stopped() => {}
                    Err(error) => case.row.failed = Some(format!("round {}: {error}", round + 1)),
                }
            }
        }
        rows.extend(cases.into_iter().map(|case| case.row));
    }
    Ok(rows)
}
