//! `runaway`: 23 services have a normal day, and one says the same thing all the time.
//!
//! It prints one line at 200/s and then as fast as it goes; the log has a limit over all services. The others are
//! complete to the last line, the runaway is a few lines with exact counts of the repeats, the log never takes
//! more disk than its limit, and the statistics name the culprit. A second phase has a number in each line, so
//! that nothing repeats: then a quota has to protect the others.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, runaway};
//! let report = runaway::run(&runaway::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Level, Publisher, RuleTable, Stats, Topic, sum_since};
use serde::{Deserialize, Serialize};

use crate::clock::sleep_until_due;
use crate::criteria::{Criterion, LogAccount, balance_criterion};
use crate::day::{self, Load};
use crate::disk;
use crate::error::{Error, no_such_phase};
use crate::files::Found;
use crate::process::{Arguments, Host, Talk};
use crate::stage::{Keeping, Stage, log_account, temporary};
use crate::text;
use crate::watch::Watch;

/// The service that runs away, and the label of its publisher.
const CULPRIT: &str = "gateway";
/// What it says, to the byte.
const MESSAGE: &str = "gateway listener: cannot accept a connection, trying on: accept4: Too many open files \
                       (os error 24); fd 1024";
const _: () = assert!(MESSAGE.len() == 108);
const PACED_PER_SECOND: u64 = 200;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(120);
/// As far back as it is asked who it was.
const HISTORY: Duration = Duration::from_secs(600);
/// While a run goes on lines tell of it, less and less often, at last every 10 s; the others are for gaps and for both ends.
const FEW_LINES: u64 = 64;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// The `millpond` program whose `stats` is asked who it is; `None`: only the library is.
    pub millpond: Option<PathBuf>,
    /// Services beside the culprit.
    pub services: u64,
    /// Lines of each.
    pub lines: u64,
    /// Lines of each in a second of the scenario.
    pub per_second: u64,
    /// How long the culprit says its line 200 times a second.
    pub paced: Duration,
    /// How long it then says it as fast as it goes.
    pub unpaced: Duration,
    /// A segment is closed at this size.
    pub segment_bytes: u64,
    /// Limit of the log over all services.
    pub total_bytes: u64,
    /// Whether the phase with one line for ever is played.
    pub same: bool,
    /// Whether the phase with a number in each line is played.
    pub different: bool,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// About three seconds for each phase.
    pub fn ci() -> Self {
        Options {
            host: None,
            millpond: None,
            services: 23,
            lines: 1_000,
            per_second: 400,
            paced: Duration::from_millis(500),
            unpaced: Duration::from_secs(2),
            segment_bytes: 64 << 10,
            total_bytes: 16 << 20,
            same: true,
            different: true,
            dir: None,
        }
    }

    /// 70 seconds for each phase, with a limit of 200 MB.
    pub fn full() -> Self {
        Options {
            lines: 7_000,
            per_second: 100,
            paced: Duration::from_secs(10),
            unpaced: Duration::from_secs(60),
            segment_bytes: 1 << 20,
            total_bytes: 200_000_000,
            ..Self::ci()
        }
    }

    /// Only one of the phases: `same` or `different`.
    ///
    /// # Errors
    /// Names the phases there are, where `phase` is none of them.
    pub fn only(mut self, phase: &str) -> Result<Self, Error> {
        match phase {
            "same" => self.different = false,
            "different" => self.same = false,
            _ => return Err(no_such_phase("runaway", phase, "same, different")),
        }
        Ok(self)
    }
}

/// What came out of one phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Part {
    /// `same` or `different`.
    pub phase: String,
    /// Events that the culprit offered.
    pub offered: u64,
    /// Lines of its own in its log.
    pub culprit_lines: u64,
    /// Repeats that lines of the log tell of, and how many such lines.
    pub told_repeats: (u64, u64),
    /// Losses that lines of the log tell of, and how many such lines.
    pub told_gaps: (u64, u64),
    /// Limit of the log.
    pub limit_bytes: u64,
    /// The most disk that it took, looked at all the time.
    pub disk_bytes_max: u64,
    /// How often it was looked at.
    pub looks: u64,
    /// The most memory of its own that the consumer's process had.
    pub anonymous_bytes: u64,
    /// Processor time of the consumer's process.
    pub cpu_ns: u64,
    /// From the first line to the last one in a file.
    pub elapsed_ns: u64,
    /// The source with the most events, by each of those who count: how they are asked, and whom they name.
    pub named: Vec<(String, String)>,
    /// Services beside the culprit that are complete in the files.
    pub complete: u64,
    /// The culprit first, then the others.
    pub accounts: Vec<LogAccount>,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// One for each phase that was played.
    pub parts: Vec<Part>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let mut report = Report::default();
    for (phase, wanted) in [("same", options.same), ("different", options.different)] {
        if wanted {
            progress(&format!(
                "runaway: {phase}, {:?} at {PACED_PER_SECOND}/s and {:?} unpaced",
                options.paced, options.unpaced
            ));
            let (part, criteria) = play(&host, options, phase)?;
            report.parts.push(part);
            report.criteria.extend(criteria);
        }
    }
    Ok(report)
}

fn play(host: &Host, options: &Options, phase: &str) -> Result<(Part, Vec<Criterion>), Error> {
    let logs = temporary(options.dir.as_deref())?;
    // The limit itself, and what is on its way to it.
    disk::check_room(logs.path(), options.total_bytes * 5 / 4)?;
    let keeping = Keeping {
        segment_bytes: Some(options.segment_bytes),
        total_bytes: Some(options.total_bytes),
        // Only where nothing repeats is there enough to need it.
        quota: (phase == "different").then(|| (CULPRIT.to_owned(), options.total_bytes / 4)),
        ..Keeping::default()
    };
    let rules = RuleTable::defaults();
    let stage = Stage::keeping(host, "runaway", rules, &keeping, logs.path())?;
    let load = Load {
        prefix: "svc",
        services: options.services,
        lines: options.lines,
        per_second: options.per_second,
        processes: 2,
    };
    let mut others = load.start(host, stage.name())?;
    let mut culprit = host.start(
        "runaway-publisher",
        &[
            ("bus", &stage.name()),
            ("phase", &phase),
            ("paced-ms", &options.paced.as_millis()),
            ("unpaced-ms", &options.unpaced.as_millis()),
        ],
    )?;
    let watch = Watch::start(stage.consumer_pid(), logs.path())?;
    let started = Instant::now();
    culprit.say("go")?;
    others.go()?;
    let offered: Offered = culprit.result(options.paced + options.unpaced + END_LIMIT)?;
    let (said, _) = others.end()?;
    let elapsed = started.elapsed();
    let stats = stage.settle()?;
    let named = who_is_loudest(&stage.bus, &stats, options.millpond.as_deref())?;
    let stopped = stage.close()?;
    let seen = watch.end()?;
    let (complete, wrong) = day::complete_in_files(logs.path(), &said)?;
    let found = Found::read(&logs.path().join(CULPRIT))?;
    let numbered: u64 = found.numbers.values().map(|numbers| numbers.lines).sum();
    let mut accounts = vec![log_account(&stats, CULPRIT, offered.published)];
    accounts.extend(day::accounts(&stats, &said));
    let part = Part {
        phase: phase.to_owned(),
        offered: offered.published,
        culprit_lines: found.other + numbered,
        told_repeats: found.told("repeat"),
        told_gaps: found.told("gap"),
        limit_bytes: options.total_bytes,
        disk_bytes_max: seen.disk_bytes,
        looks: seen.looks,
        anonymous_bytes: seen.anonymous_bytes,
        cpu_ns: stopped.cpu_ns,
        elapsed_ns: elapsed.as_nanos() as u64,
        named,
        complete,
        accounts,
    };
    let mut criteria = judge(&part, options, wrong);
    for criterion in &mut criteria {
        criterion.text = format!("{phase}: {}", criterion.text);
    }
    Ok((part, criteria))
}

/// The source of the most events: by the counters, by the history, and by the command where there is one.
fn who_is_loudest(
    bus: &Bus,
    stats: &Stats,
    millpond: Option<&Path>,
) -> Result<Vec<(String, String)>, Error> {
    let label = |label: Option<&str>| label.unwrap_or("nobody").to_owned();
    let loudest = stats.sources.iter().max_by_key(|source| source.published);
    let by_counters = label(loudest.map(|source| source.label.as_str()));
    let history = bus.history();
    let since_ns = (history.time_ns).saturating_sub(HISTORY.as_nanos() as u64);
    let loudest = (history.sources.iter())
        .max_by_key(|source| sum_since(&source.intervals, since_ns).published);
    let by_history = label(loudest.map(|source| source.label.as_str()));
    let mut named = vec![
        ("the count of events".to_owned(), by_counters),
        ("the history of ten minutes".to_owned(), by_history),
    ];
    if let Some(program) = millpond {
        let mut command = Command::new(program);
        command.args(["stats", "--bus", bus.name(), "--color", "never"]);
        command.args(["--by", "source", "--since", "10m"]);
        // What is configured on this host is about other buses.
        command.env("MILLPOND_CONFIG", "/dev/null");
        let output = command.stdin(Stdio::null()).output()?;
        // It ends with 1 where something was dropped, and much was.
        if !matches!(output.status.code(), Some(0 | 1)) {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(format!(
                "{command:?} ended with {}: {why}",
                output.status
            )));
        }
        let first = first_of_table(&String::from_utf8_lossy(&output.stdout));
        named.push((
            "`millpond stats --by source --since 10m`".to_owned(),
            label(first.as_deref()),
        ));
    }
    Ok(named)
}

/// The first word below the header of a table of sources.
fn first_of_table(text: &str) -> Option<String> {
    let mut lines = text.lines();
    lines.find(|line| line.split_whitespace().next() == Some("source"))?;
    let word = lines.next()?.split_whitespace().next();
    word.map(str::to_owned)
}

fn judge(part: &Part, options: &Options, wrong: Option<String>) -> Vec<Criterion> {
    let mut criteria = vec![balance_criterion(&part.accounts)];
    for (how, label) in &part.named {
        criteria.push(Criterion::new(
            format!("{how} names {label} as the source of the most"),
            label == CULPRIT,
        ));
    }
    let others = &part.accounts[1..];
    let written = others
        .iter()
        .filter(|account| account.is_complete())
        .count();
    criteria.push(Criterion::new(
        format!(
            "{written} of {} other services lost nothing",
            options.services
        ),
        written as u64 == options.services,
    ));
    let is_same = part.phase == "same";
    // What protects them: that repeats cost nothing, or that the culprit pays first.
    let wrong = wrong.map_or(String::new(), |wrong| format!("; {wrong}"));
    criteria.push(Criterion::new(
        format!(
            "{} of {} other services have every line in the files{wrong}",
            part.complete, options.services
        ),
        part.complete == options.services,
    ));
    let (disk, limit) = (part.disk_bytes_max, part.limit_bytes);
    criteria.push(Criterion::new(
        format!(
            "the log never took more than its {}: at most {} in {} looks",
            text::bytes(limit),
            text::bytes(disk),
            part.looks
        ),
        disk <= limit,
    ));
    if is_same {
        let account = &part.accounts[0];
        let (repeats, repeat_lines) = part.told_repeats;
        let lines = part.culprit_lines;
        criteria.push(Criterion::new(
            format!(
                "{lines} lines + {repeats} repeats told = {} published - {} dropped",
                account.published, account.dropped
            ),
            lines + repeats == account.published - account.dropped,
        ));
        let few = FEW_LINES + 2 * part.told_gaps.1;
        criteria.push(Criterion::new(
            format!("it is few lines: {lines}, and {repeat_lines} that tell of repeats"),
            lines + repeat_lines <= few,
        ));
    }
    criteria
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            let (repeats, repeat_lines) = part.told_repeats;
            let (lost, gap_lines) = part.told_gaps;
            writeln!(
                f,
                "runaway, {}: {} lines offered in {}",
                part.phase,
                part.offered,
                text::duration(part.elapsed_ns)
            )?;
            writeln!(
                f,
                "  in its log: {} lines, {repeats} repeats in {repeat_lines} lines, {lost} lost in {gap_lines} gaps",
                part.culprit_lines
            )?;
            writeln!(
                f,
                "  disk: at most {} of {}; daemon: {} of its own, {} CPU",
                text::bytes(part.disk_bytes_max),
                text::bytes(part.limit_bytes),
                text::bytes(part.anonymous_bytes),
                text::duration(part.cpu_ns)
            )?;
            text::log_accounts(f, &part.accounts)?;
        }
        text::criteria(f, &self.criteria)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    published: u64,
}

struct Culprit {
    publisher: Publisher,
    topic: Topic,
    is_different: bool,
    number: u64,
}

impl Culprit {
    fn say(&mut self) {
        // A drop is counted by the publisher, and part of the account.
        let _ = if self.is_different {
            let text = format!(
                "{CULPRIT} {} {}",
                self.number,
                &MESSAGE[CULPRIT.len() + 1..]
            );
            let text = text.as_bytes();
            self.publisher.publish(self.topic, Level::Error, text)
        } else {
            let text = MESSAGE.as_bytes();
            self.publisher.publish(self.topic, Level::Error, text)
        };
        self.number += 1;
    }
}

/// `bus=NAME phase=same|different paced-ms=N unpaced-ms=N`.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let is_different = arguments.text("phase")? == "different";
    let paced = Duration::from_millis(arguments.get("paced-ms")?);
    let unpaced = Duration::from_millis(arguments.get("unpaced-ms")?);
    let mut publisher = bus.publisher(CULPRIT)?;
    let topic = publisher.topic(&format!("log:{CULPRIT}:err"))?;
    let mut culprit = Culprit {
        publisher,
        topic,
        is_different,
        number: 0,
    };
    talk.ready()?;
    let started = Instant::now();
    while started.elapsed() < paced {
        sleep_until_due(started, culprit.number, PACED_PER_SECOND);
        culprit.say();
    }
    let started = Instant::now();
    while started.elapsed() < unpaced {
        culprit.say();
    }
    let mut publisher = culprit.publisher;
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    let published = publisher.counts().published;
    talk.say(&Offered { published })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_is_below_the_header() {
        let text = "bus b: 3 lanes\n\nin the last 10m:\nsource   rule   published\ngateway  log:*  12\na  b  1\n";
        assert_eq!(first_of_table(text).as_deref(), Some("gateway"));
        assert_eq!(first_of_table("source"), None);
        assert_eq!(first_of_table(""), None);
    }
}
