//! `rotation`: a thousand rotations under load, with followers.
//!
//! Each follower sees every record once, whatever rotates, is sealed and is removed behind it; so many segments
//! as were asked for are kept of each service. A real `tail -F` runs beside them: what it saw is told, for it
//! looks at names once a second and misses what came and went in between.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, rotation};
//! let report = rotation::run(&rotation::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Publisher, Topic};
use millpond_logfile::{CURRENT_LINK, Cursor, Followed, Follower, list_segments};
use serde::{Deserialize, Serialize};

use crate::criteria::{Criterion, LogAccount, balance_criterion};
use crate::day::Line;
use crate::error::{Error, no_such_phase};
use crate::files::Numbers;
use crate::process::{Arguments, Host, Process, Talk};
use crate::stage::{Keeping, LOSSLESS, Stage, committed_ends, log_account, rules_with, temporary};
use crate::text;

const SERVICES: [&str; 2] = ["db", "web"];
/// Publishers of each service.
const LABELS: u64 = 2;
/// The smallest that the sink takes: the most rotations for the least text.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Lines of each publisher in a round: each service rotates a few times.
const ROUND_LINES: u64 = 800;
/// Much more than a round or two of segments: the followers are never that far behind.
const GENERATIONS: u32 = 32;
const ROUND_LIMIT: Duration = Duration::from_secs(120);
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// `tail -F` looks at names once a second; what it has not said after this it will not say.
const TAIL_QUIET: Duration = Duration::from_millis(1500);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Rotations, over both services.
    pub rotations: u64,
    /// Processes that follow both services.
    pub followers: u64,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// 100 rotations, a few seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            rotations: 100,
            followers: 3,
            dir: None,
        }
    }

    /// 1,000 rotations.
    pub fn full() -> Self {
        Options {
            rotations: 1000,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("rotation", phase, "none"))
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Segments that were begun after another one.
    pub rotations: u64,
    /// Lines published.
    pub lines: u64,
    /// From the first line to the last one followed.
    pub elapsed_ns: u64,
    /// What each follower saw.
    pub followers: Vec<Seen>,
    /// Lines of one service that `tail -F` showed, of how many; or why it was not there.
    pub tail: Tail,
    /// Segments of each service at the end.
    pub segments: BTreeMap<String, u64>,
    /// How many were to be kept.
    pub generations: u32,
    /// One for each publisher.
    pub accounts: Vec<LogAccount>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// What a `tail -F` of one service saw.
#[derive(Debug, Clone, Serialize)]
pub enum Tail {
    /// Lines shown, of lines published.
    Ran {
        /// Shown.
        shown: u64,
        /// Published.
        of: u64,
    },
    /// Why it did not run.
    Skipped(String),
}

impl Default for Tail {
    fn default() -> Self {
        Tail::Skipped("not played".to_owned())
    }
}

/// What one follower has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Lines.
    pub lines: u64,
    /// Numbers that never came.
    pub missing: u64,
    /// Lines that came again, or late.
    pub again: u64,
    /// Times that retention was ahead of it.
    pub gone: u64,
    /// Lines not of the format.
    pub damaged: u64,
}

/// What the publishers have published so far.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    lines: u64,
}

fn labels() -> impl Iterator<Item = (&'static str, String)> {
    SERVICES
        .into_iter()
        .flat_map(|service| (0..LABELS).map(move |number| (service, format!("{service}-{number}"))))
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let logs = temporary(options.dir.as_deref())?;
    let keeping = Keeping {
        segment_bytes: Some(SEGMENT_BYTES),
        total_bytes: Some(0),
        generations: Some(GENERATIONS),
        ..Keeping::default()
    };
    let mut log = millpond_bus::RuleTable::defaults()
        .iter()
        .find(|rule| rule.service.is_some())
        .cloned()
        .ok_or_else(|| Error::new("no default rule is logged"))?;
    log.overflow = LOSSLESS;
    let rules = rules_with(vec![log])?;
    let stage = Stage::keeping(&host, "rotation", rules, &keeping, logs.path())?;
    let (bus, logs_dir) = (stage.name(), logs.path().display());
    let mut followers = (0..options.followers)
        .map(|_| host.start("rotation-follower", &[("bus", &bus), ("logs", &logs_dir)]))
        .collect::<Result<Vec<Process>, _>>()?;
    let mut publisher = host.start("rotation-publisher", &[("bus", &bus)])?;
    for process in followers.iter_mut().chain([&mut publisher]) {
        process.say("go")?;
    }
    let started = Instant::now();
    let mut tail = None;
    let (mut lines, mut rotations) = (0, 0);
    // The followers read what one round wrote while the next one is written.
    let mut to_follow = None;
    while rotations < options.rotations || to_follow.is_some() {
        let goes_on = rotations < options.rotations;
        if goes_on {
            publisher.say("round")?;
        }
        if let Some(lines) = to_follow.take() {
            follow(&mut followers, lines)?;
        }
        if goes_on {
            lines = publisher.hear::<Published>(ROUND_LIMIT)?.lines;
            to_follow = Some(lines);
            let services = stage.bus.committed_services();
            rotations = services
                .iter()
                .map(|service| service.segments.max(1) - 1)
                .sum();
            // There is a file to follow from the first round on.
            tail.get_or_insert_with(|| TailF::start(&logs.path().join(SERVICES[0])));
            progress(&format!("rotation: {rotations} of {}", options.rotations));
        }
    }
    let elapsed = started.elapsed();
    publisher.say("end")?;
    let said: Published = publisher.result(ROUND_LIMIT)?;
    let seen = followers
        .into_iter()
        .map(|mut follower| {
            follower.say("end")?;
            follower.result(ROUND_LIMIT)
        })
        .collect::<Result<Vec<Seen>, _>>()?;
    let stats = stage.settle()?;
    stage.close()?;
    let each = said.lines / (SERVICES.len() as u64 * LABELS);
    let tail = tail.map_or_else(Tail::default, |tail| tail.end(each * LABELS));
    let mut segments = BTreeMap::new();
    for service in SERVICES {
        let count = list_segments(&logs.path().join(service))?.len();
        segments.insert(service.to_owned(), count as u64);
    }
    let mut report = Report {
        rotations,
        lines,
        elapsed_ns: elapsed.as_nanos() as u64,
        followers: seen,
        tail,
        segments,
        generations: GENERATIONS,
        accounts: labels()
            .map(|(_, label)| log_account(&stats, &label, each))
            .collect(),
        criteria: Vec::new(),
    };
    report.criteria = judge(&report, options);
    Ok(report)
}

/// Waits until each of them has seen so many lines.
fn follow(followers: &mut [Process], lines: u64) -> Result<(), Error> {
    for follower in followers.iter_mut() {
        follower.say(&lines.to_string())?;
    }
    for follower in followers {
        follower.hear::<Seen>(ROUND_LIMIT)?;
    }
    Ok(())
}

fn judge(report: &Report, options: &Options) -> Vec<Criterion> {
    let exact = Seen {
        lines: report.lines,
        ..Seen::default()
    };
    let right = report
        .followers
        .iter()
        .filter(|&&seen| seen == exact)
        .count();
    let wrong = report.followers.iter().find(|&&seen| seen != exact);
    let wrong = wrong.map_or(String::new(), |seen| format!("; one saw {seen:?}"));
    let (kept, wanted) = (&report.segments, u64::from(report.generations));
    // The open segment has no file before its first line.
    let is_kept = |&count: &u64| count == wanted || count + 1 == wanted;
    vec![
        balance_criterion(&report.accounts),
        Criterion::new(
            format!(
                "{} rotations, {} wanted",
                report.rotations, options.rotations
            ),
            report.rotations >= options.rotations,
        ),
        Criterion::new(
            format!(
                "{right} of {} followers saw each of {} lines once{wrong}",
                options.followers, report.lines
            ),
            right as u64 == options.followers,
        ),
        Criterion::new(
            format!("{wanted} segments of each service are kept: {kept:?}"),
            kept.values().all(is_kept),
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "rotation: {} rotations, {} lines, {} followers, {}",
            self.rotations,
            self.lines,
            self.followers.len(),
            text::duration(self.elapsed_ns)
        )?;
        match &self.tail {
            Tail::Ran { shown, of } => {
                writeln!(f, "  tail -F of one service showed {shown} of {of} lines")?;
            }
            Tail::Skipped(why) => writeln!(f, "  tail -F: skipped: {why}")?,
        }
        text::log_accounts(f, &self.accounts)?;
        text::criteria(f, &self.criteria)
    }
}

/// `tail -n +1 -F current.log`, its lines counted.
struct TailF {
    child: Result<Child, String>,
    shown: Arc<AtomicU64>,
}

impl TailF {
    fn start(service_dir: &Path) -> Self {
        let shown = Arc::new(AtomicU64::new(0));
        let mut command = Command::new("tail");
        command
            .args(["-n", "+1", "-F"])
            .arg(service_dir.join(CURRENT_LINK));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| error.to_string());
        if let Some(output) = child.as_mut().ok().and_then(|child| child.stdout.take()) {
            let shown = Arc::clone(&shown);
            // Ends with the pipe, that is with the child.
            std::thread::spawn(move || {
                for _ in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    // ORDERING: Relaxed; a number that says only itself.
                    shown.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        TailF { child, shown }
    }

    fn end(mut self, of: u64) -> Tail {
        match &mut self.child {
            Err(why) => Tail::Skipped(format!("tail cannot be started: {why}")),
            Ok(child) => {
                // Nothing says that it has shown what it is going to show.
                std::thread::sleep(TAIL_QUIET);
                let _ = child.kill();
                let _ = child.wait();
                // ORDERING: Relaxed; as above.
                let shown = self.shown.load(Ordering::Relaxed);
                Tail::Ran { shown, of }
            }
        }
    }
}

impl Drop for TailF {
    fn drop(&mut self) {
        if let Ok(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Source {
    label: String,
    publisher: Publisher,
    topic: Topic,
    number: u64,
}

/// `bus=NAME`. Each line it hears is a round; `end` ends it.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let mut sources = Vec::new();
    for (service, label) in labels() {
        let mut publisher = bus.publisher(&label)?;
        let topic = publisher.topic(&format!("log:{service}:{label}"))?;
        sources.push(Source {
            label,
            publisher,
            topic,
            number: 0,
        });
    }
    talk.ready()?;
    let mut line = Line::new();
    let published = |sources: &[Source]| Published {
        lines: sources.iter().map(|source| source.number).sum(),
    };
    while talk.hear()? != "end" {
        for _ in 0..ROUND_LINES {
            for source in &mut sources {
                let (level, payload) = line.of(&source.label, source.number);
                source.publisher.publish(source.topic, level, payload)?;
                source.number += 1;
            }
        }
        for source in &mut sources {
            source
                .publisher
                .flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
        }
        talk.say(&published(&sources))?;
    }
    talk.say(&published(&sources))
}

/// `bus=NAME logs=DIR`. Each line it hears is a number of lines to have seen; `end` ends it.
pub(crate) fn follower_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let mut follower = Follower::new(Path::new(arguments.text("logs")?), Cursor::default());
    for service in SERVICES {
        follower.add_service(service);
    }
    talk.ready()?;
    let mut numbers: BTreeMap<Vec<u8>, Numbers> = BTreeMap::new();
    let mut seen = Seen::default();
    loop {
        let wanted = match talk.hear()?.parse::<u64>() {
            Ok(wanted) => wanted,
            Err(_) => return talk.say(&seen),
        };
        let patience = Instant::now();
        while seen.lines < wanted && patience.elapsed() < ROUND_LIMIT / 2 {
            let commits = bus.commits();
            let ends = committed_ends(&bus);
            let report = follower.read(&|service| ends.get(service).copied(), &mut |found| {
                match found {
                    Followed::Line { hit, .. } => {
                        let text = std::str::from_utf8(hit.message).unwrap_or_default();
                        let number = text.split(' ').nth(1).and_then(|word| word.parse().ok());
                        match number {
                            Some(number) => {
                                numbers.entry(hit.source.to_vec()).or_default().add(number);
                            }
                            None => seen.damaged += 1,
                        }
                    }
                    Followed::Gone(_) => seen.gone += 1,
                }
                ControlFlow::Continue(())
            })?;
            seen.damaged += report.damaged_lines;
            seen.lines = numbers.values().map(|numbers| numbers.lines).sum();
            seen.missing = numbers.values().map(|numbers| numbers.missing).sum();
            seen.again = numbers.values().map(|numbers| numbers.again).sum();
            if seen.lines < wanted {
                bus.wait_for_commit(commits, Some(Duration::from_secs(1)));
            }
        }
        talk.say(&seen)?;
    }
}
