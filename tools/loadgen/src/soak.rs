//! `soak`: a mixed load and a fault every few seconds, for an hour.
//!
//! Publishers of every class, subscribers, followers and queries run as processes of their own; each of them and
//! the consumer is killed, stopped and ended in order, rules are changed, lanes overflow, the disk of the log is
//! full, files are deleted. Publishers number their events and say through a pipe what is committed; witnesses that
//! no fault is played on read everything. In the end the one is compared with the other, and the system must be as
//! it was before: nothing in shared memory, every index true to its text.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, soak};
//! let report = soak::run(&soak::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millpond_logfile::{
    Level, LevelSet, Order, Query, Reader, list_segments, list_services, rebuild_index,
    verify_segment,
};
use serde::Serialize;

use crate::criteria::{Criterion, LogAccount};
use crate::error::{Error, no_such_phase};
use crate::process::Host;
use crate::random::Random;
use crate::text;

mod faults;
mod judge;
mod load;
mod picture;
mod roles;
mod samples;
mod troupe;

pub use self::faults::{Fault, Played};
pub(crate) use self::roles::{daemon_role, follower_role, publisher_role, subscriber_role};
pub use self::samples::{Course, Sample};
pub use self::troupe::Recovery;

use self::troupe::{Place, Troupe};

const TICK: Duration = Duration::from_millis(5);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const WRITE_EVERY: Duration = Duration::from_secs(60);
const QUERY_EVERY: Duration = Duration::from_secs(2);
const REST_LIMIT: Duration = Duration::from_secs(120);
/// Runs of at least this length let a consumer live for a twelfth of the time, again and again: what it leaks is
/// to be seen.
const SPARING_FROM: Duration = Duration::from_secs(600);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// How long faults are played.
    pub time: Duration,
    /// Each kind of fault is played once, and that is all; `time` says nothing then.
    pub each_once: bool,
    /// Milliseconds between two faults.
    pub pause_ms: Range<u64>,
    /// Pauses within a fault are so much shorter than 3 seconds.
    pub haste: u32,
    /// Where random numbers start.
    pub seed: u64,
    /// Where the report, the samples, the faults and the picture go; `None`: nowhere.
    pub out: Option<PathBuf>,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
    /// Ends the faults early when it is true; the rest is done as always.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    /// Each kind of fault once: a few seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            time: Duration::ZERO,
            each_once: true,
            pause_ms: 50..250,
            haste: 10,
            seed: 1,
            out: None,
            dir: None,
            stop: Arc::default(),
        }
    }

    /// An hour, with a fault every two to five seconds.
    pub fn full() -> Self {
        Options {
            time: Duration::from_secs(3600),
            each_once: false,
            pause_ms: 2000..5000,
            haste: 1,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("soak", phase, "none"))
    }
}

/// How often a kind of fault was played.
#[derive(Debug, Clone, Serialize)]
pub struct FaultCount {
    /// The kind.
    pub fault: Fault,
    /// How often.
    pub played: u64,
    /// Why it was not played, where it could not be.
    pub skipped: Option<String>,
}

/// What became of the events of one publisher, over all its incarnations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fate {
    /// Its label.
    pub label: String,
    /// What is promised of its events.
    pub promise: String,
    /// Processes that it had.
    pub incarnations: u64,
    /// Events whose commit it acknowledged.
    pub acknowledged: u64,
    /// Events offered, by the counts in shared memory.
    pub published: u64,
    /// Events dropped and counted.
    pub dropped: u64,
    /// Events that arrived where they are to be, or are counted there.
    pub arrived: u64,
    /// Events that are neither there nor counted.
    pub lost: u64,
    /// Events that came again.
    pub doubled: u64,
}

/// Queries that ran beside it all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Queries {
    /// Queries asked.
    pub asked: u64,
    /// Lines they gave.
    pub lines: u64,
    /// Errors, the first of them.
    pub errors: Vec<String>,
    /// What was told as damaged: segments without their index while those are deleted among it.
    pub damage: u64,
}

/// The log at the end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Files {
    /// Segments that are left.
    pub segments: u64,
    /// Of these, segments whose deleted index or filters were made anew first.
    pub rebuilt: u64,
    /// Damage found by verifying them, the first of it.
    pub damage: Vec<String>,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Where random numbers started.
    pub seed: u64,
    /// How long faults were played, in seconds.
    pub time_s: f64,
    /// Every kind of fault.
    pub faults: Vec<FaultCount>,
    /// One for each publisher.
    pub fates: Vec<Fate>,
    /// The accounts of those that are logged.
    pub accounts: Vec<LogAccount>,
    /// From each kill of a consumer to the next commit.
    pub recoveries: Vec<Recovery>,
    /// Consumers that there were.
    pub consumers: u64,
    /// Text of the log ever committed.
    pub text_bytes: u64,
    /// Segments ever begun.
    pub segments: u64,
    /// Queries beside it.
    pub queries: Queries,
    /// The log at the end.
    pub files: Files,
    /// Events that subscribers missed and were told of, by subscriber.
    pub lagged: BTreeMap<String, u64>,
    /// How memory, objects and the like went.
    pub courses: Vec<Course>,
    /// Life of the consumer that lived longest in seconds, and how its memory went.
    pub longest_life: Option<(u64, Course)>,
    /// What the consumer told, with `#` for digits, and how often.
    pub notices: BTreeMap<String, u64>,
    /// What must not happen and did.
    pub failures: Vec<String>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    if let Some(out) = &options.out {
        fs::create_dir_all(out)?;
    }
    let (place, no_disk) = Place::new(options.dir.as_deref())?;
    let skipped = no_disk.map(|why| format!("no small disk can be mounted: {why}"));
    if let Some(why) = &skipped {
        progress(&format!("soak: {}: skipped: {why}", Fault::DiskFull.word()));
    }
    let mut troupe = Troupe::new(host, &place, options.seed, options.haste)?;
    progress(&format!(
        "soak: bus {}, seed {}, log in {}",
        troupe.bus.name(),
        options.seed,
        place.logs().display()
    ));
    let asking = Asking::start(&place.logs())?;
    let mut looks = Looks {
        samples: Vec::new(),
        next: Instant::now(),
        logs_dir: place.logs(),
    };
    let outcome = play(options, &mut troupe, &mut looks, progress);
    let time_s = troupe.time_s();
    let queries = asking.end();
    let mut report = Report {
        seed: options.seed,
        time_s,
        queries,
        ..Report::default()
    };
    // Also where something went wrong on the way: what was seen until then is told.
    let outcome = outcome.and_then(|()| judge::end(&mut troupe, &place, &mut report));
    if let Err(error) = outcome {
        troupe.books.failures.push(error.to_string());
    }
    report.faults = count(&troupe.played, skipped.as_deref());
    report.recoveries = std::mem::take(&mut troupe.recoveries);
    report.consumers = troupe.consumer().0;
    report.courses = samples::courses(&looks.samples);
    report.longest_life = samples::longest_life(&looks.samples);
    report.notices = std::mem::take(&mut troupe.books.notices);
    report.failures = std::mem::take(&mut troupe.books.failures);
    judge::judge(&mut report, options);
    if let Some(out) = &options.out {
        write(out, &report, &looks.samples, &troupe.played)?;
    }
    Ok(report)
}

/// Faults, until the time is over or each was played.
fn play(
    options: &Options,
    troupe: &mut Troupe<'_>,
    looks: &mut Looks,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    // Drawn apart from what happens within a fault: the order of the kinds does not depend on how long things take.
    let mut random = Random::new(options.seed ^ 0x736f_616b);
    let mut to_play: Vec<Fault> = Vec::new();
    if options.each_once {
        to_play.extend(Fault::ALL.iter().map(|&(fault, _)| fault));
        to_play.retain(|&fault| troupe.can_play(fault));
        for index in (1..to_play.len()).rev() {
            to_play.swap(index, random.below(index as u64 + 1) as usize);
        }
    }
    let started = Instant::now();
    let is_over = |to_play: &[Fault]| match options.each_once {
        true => to_play.is_empty(),
        false => started.elapsed() >= options.time,
    };
    let pause = |random: &mut Random| {
        let Range { start, end } = options.pause_ms;
        Duration::from_millis(start + random.below(end.saturating_sub(start)))
    };
    let mut next_fault = Instant::now() + pause(&mut random);
    let mut next_write = Instant::now() + WRITE_EVERY;
    // ORDERING: Relaxed; says only itself.
    while !is_over(&to_play) && !options.stop.load(Ordering::Relaxed) {
        troupe.tick()?;
        looks.look(troupe)?;
        if Instant::now() >= next_fault {
            let fault = match options.each_once {
                true => to_play.last().copied(),
                false => draw(&mut random, troupe, spares(options.time, started.elapsed())),
            };
            let played = fault.map(|fault| troupe.play(fault)).transpose()?.flatten();
            if let Some(played) = played {
                to_play.pop();
                next_fault = Instant::now() + pause(&mut random);
                tell(options.out.as_deref(), &played)?;
            } else {
                // Nobody was there to play it on: soon again, another one where there is a choice.
                next_fault = Instant::now() + TICK * 4;
            }
        }
        if Instant::now() >= next_write {
            next_write += WRITE_EVERY;
            let samples = &looks.samples;
            if let (Some(out), Some(last)) = (&options.out, samples.last()) {
                progress(&format!(
                    "soak: {:.0} s, {} faults, {} events, {} consumers, {} failures",
                    last.time_s,
                    troupe.played.len(),
                    last.published,
                    last.consumer,
                    troupe.books.failures.len()
                ));
                write_samples(out, samples, &troupe.played)?;
            }
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Whether no consumer is ended now.
fn spares(time: Duration, elapsed: Duration) -> bool {
    let block_s = time.as_secs() / 12;
    time >= SPARING_FROM && elapsed.as_secs() / block_s.max(1) % 2 == 1
}

fn draw(random: &mut Random, troupe: &Troupe<'_>, spares: bool) -> Option<Fault> {
    let may = |fault: Fault| troupe.can_play(fault) && !(spares && fault.ends_consumer());
    let choice = || Fault::ALL.iter().filter(|&&(fault, _)| may(fault));
    let mut number = random.below(choice().map(|(_, weight)| weight).sum());
    let mut found = choice().find(|&&(_, weight)| {
        let is_it = number < weight;
        number = number.saturating_sub(weight);
        is_it
    });
    found.take().map(|&(fault, _)| fault)
}

fn count(played: &[Played], no_disk: Option<&str>) -> Vec<FaultCount> {
    let counts = Fault::ALL.iter().map(|&(fault, _)| {
        let of_it = played.iter().filter(|played| played.fault == fault);
        let skipped = no_disk.filter(|_| fault == Fault::DiskFull);
        FaultCount {
            fault,
            played: of_it.count() as u64,
            skipped: skipped.map(str::to_owned),
        }
    });
    counts.collect()
}

/// Samples, once a second.
struct Looks {
    samples: Vec<Sample>,
    next: Instant,
    logs_dir: PathBuf,
}

impl Looks {
    fn look(&mut self, troupe: &Troupe<'_>) -> Result<(), Error> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next += SAMPLE_EVERY;
        let stats = troupe.bus.stats();
        let (time_s, consumer) = (troupe.time_s(), troupe.consumer());
        let sample = Sample::take(time_s, consumer, &stats, &self.logs_dir)?;
        self.samples.push(sample);
        Ok(())
    }
}

/// Queries on a thread of their own.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Queries>,
}

impl Asking {
    fn start(logs_dir: &Path) -> Result<Self, Error> {
        let stop: Arc<AtomicBool> = Arc::default();
        let (end, logs_dir) = (Arc::clone(&stop), logs_dir.to_owned());
        let thread = std::thread::Builder::new()
            .name("queries".to_owned())
            .spawn(move || {
                let mut queries = Queries::default();
                let mut next = Instant::now();
                // ORDERING: Relaxed; says only itself.
                while !end.load(Ordering::Relaxed) {
                    if Instant::now() >= next {
                        next = Instant::now() + QUERY_EVERY;
                        if let Err(error) = queries.ask(&logs_dir) {
                            queries.errors.push(error.to_string());
                            queries.errors.truncate(20);
                        }
                    }
                    std::thread::sleep(TICK * 4);
                }
                queries
            })?;
        Ok(Asking { stop, thread })
    }

    fn end(self) -> Queries {
        // ORDERING: Relaxed; as above.
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| Queries {
            errors: vec!["the queries panicked".to_owned()],
            ..Queries::default()
        };
        self.thread.join().unwrap_or_else(panicked)
    }
}

impl Queries {
    /// In turn: the newest lines of a service, a substring, the newest errors.
    fn ask(&mut self, logs_dir: &Path) -> Result<(), Error> {
        self.asked += 1;
        let newest = || Query::new().order(Order::Newest);
        let query = match self.asked % 3 {
            0 => newest().service("web").limit(200),
            1 => newest().contains("web-a 0 77").limit(20),
            _ => newest().levels(LevelSet::at_least(Level::Error)).limit(50),
        };
        // A service that has not written yet is none that could be asked.
        let reader = Reader::open(logs_dir)?;
        if !reader.services().iter().any(|service| service == "web") {
            return Ok(());
        }
        let report = reader.run(&query, &mut |_| ControlFlow::Continue(()))?;
        self.lines += report.matched;
        self.damage += report.damage.len() as u64 + report.damage_left_out;
        Ok(())
    }
}

impl Files {
    fn verify(logs_dir: &Path) -> Result<Self, Error> {
        let mut files = Files::default();
        for service in list_services(logs_dir)? {
            let dir = logs_dir.join(&service);
            for id in list_segments(&dir)? {
                files.segments += 1;
                let is_sealed = id.sealed_path(&dir).exists();
                let has_index = id.index_path(&dir).exists();
                if !has_index || (is_sealed && !id.filter_path(&dir).exists()) {
                    rebuild_index(&dir, id, false)?;
                    files.rebuilt += 1;
                }
                let damage = verify_segment(&dir, id)?.damage;
                files
                    .damage
                    .extend(damage.iter().map(ToString::to_string).take(5));
            }
        }
        files.damage.truncate(20);
        Ok(files)
    }
}

fn tell(out: Option<&Path>, played: &Played) -> Result<(), Error> {
    let Some(out) = out else {
        return Ok(());
    };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(out.join("faults.jsonl"))?;
    let mut line = serde_json::to_string(played)?;
    line.push('\n');
    Ok(std::io::Write::write_all(&mut file, line.as_bytes())?)
}

fn write_samples(out: &Path, samples: &[Sample], played: &[Played]) -> Result<(), Error> {
    let mut csv = String::from(
        "time_s,consumer,anonymous_bytes,resident_bytes,handles,threads,objects,outboxes,objects_bytes,lag_bytes,log_bytes,\
         published,dropped\n",
    );
    for sample in samples {
        // Writing to a String cannot fail.
        let _ = writeln!(
            csv,
            "{:.2},{},{},{},{},{},{},{},{},{},{},{},{}",
            sample.time_s,
            sample.consumer,
            sample.anonymous_bytes,
            sample.resident_bytes,
            sample.handles,
            sample.threads,
            sample.objects,
            sample.outboxes,
            sample.objects_bytes,
            sample.lag_bytes,
            sample.log_bytes,
            sample.published,
            sample.dropped
        );
    }
    fs::write(out.join("samples.csv"), csv)?;
    let minutes = samples.last().map_or(0.0, |sample| sample.time_s / 60.0);
    let title = format!("Soak: {minutes:.0} minutes, {} faults", played.len());
    fs::write(out.join("soak.svg"), picture::svg(samples, played, &title))?;
    Ok(())
}

fn write(out: &Path, report: &Report, samples: &[Sample], played: &[Played]) -> Result<(), Error> {
    write_samples(out, samples, played)?;
    let json = serde_json::to_string_pretty(report)?;
    fs::write(out.join("report.json"), json + "\n")?;
    Ok(fs::write(out.join("report.txt"), report.to_string())?)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let played: u64 = self.faults.iter().map(|count| count.played).sum();
        let published: u64 = self.fates.iter().map(|fate| fate.published).sum();
        writeln!(
            f,
            "soak: {:.0} s, seed {}: {played} faults, {published} events, {} consumers",
            self.time_s, self.seed, self.consumers
        )?;
        writeln!(
            f,
            "      {} of text in {} segments, {} of them left, {} rebuilt; {} queries",
            text::bytes(self.text_bytes),
            self.segments,
            self.files.segments,
            self.files.rebuilt,
            self.queries.asked
        )?;
        let mut table = text::Table::new(&["fault", "played"]);
        for count in &self.faults {
            let played = match &count.skipped {
                Some(_) => "skipped".to_owned(),
                None => count.played.to_string(),
            };
            table.row(vec![count.fault.word().to_owned(), played]);
        }
        write!(f, "{table}")?;
        for why in self
            .faults
            .iter()
            .filter_map(|count| count.skipped.as_ref())
        {
            writeln!(f, "  skipped: {why}")?;
        }
        let header = [
            "publisher",
            "starts",
            "acknowledged",
            "published",
            "dropped",
            "arrived",
            "lost",
            "doubled",
        ];
        let mut table = text::Table::new(&header);
        for fate in &self.fates {
            let numbers = [
                fate.incarnations,
                fate.acknowledged,
                fate.published,
                fate.dropped,
                fate.arrived,
                fate.lost,
                fate.doubled,
            ];
            let cells = numbers.iter().map(u64::to_string);
            table.row([fate.label.clone()].into_iter().chain(cells).collect());
        }
        write!(f, "{table}")?;
        let times = |of: fn(&Recovery) -> u64| {
            let mut times: Vec<u64> = self.recoveries.iter().map(of).collect();
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let max = times.last().copied().unwrap_or_default();
            (text::duration(median), text::duration(max))
        };
        let from_start = times(|recovery| recovery.from_start_ns);
        let from_kill = times(|recovery| recovery.from_kill_ns);
        writeln!(
            f,
            "  {} recoveries: start to first commit median {}, max {}; kill to first commit, pauses included, \
             median {}, max {}",
            self.recoveries.len(),
            from_start.0,
            from_start.1,
            from_kill.0,
            from_kill.1
        )?;
        let header = [
            "course",
            "first tenth",
            "last tenth",
            "slope/h",
            "lowest",
            "highest",
            "unit",
        ];
        let mut table = text::Table::new(&header);
        let longest = self.longest_life.iter().map(|(_, course)| course);
        for course in self.courses.iter().chain(longest) {
            let numbers = [
                course.first_tenth,
                course.last_tenth,
                course.slope_per_hour,
                course.range.0,
                course.range.1,
            ];
            let cells = numbers.iter().map(|number| format!("{number:.2}"));
            let unit = course.unit.clone();
            table.row(
                [course.name.clone()]
                    .into_iter()
                    .chain(cells)
                    .chain([unit])
                    .collect(),
            );
        }
        write!(f, "{table}")?;
        if let Some((seconds, _)) = &self.longest_life {
            writeln!(f, "  the longest consumer was looked at for {seconds} s")?;
        }
        for (subscriber, lagged) in &self.lagged {
            writeln!(f, "  {subscriber}: missed {lagged} events, and was told")?;
        }
        for (notice, times) in &self.notices {
            writeln!(f, "  notice, {times} times: {notice}")?;
        }
        for failure in &self.failures {
            writeln!(f, "  FAILURE {failure}")?;
        }
        text::criteria(f, &self.criteria)
    }
}
