//! `ptys`: commands on many terminals at once, and nothing of what they write is lost or changed on its way.
//!
//! Eight captures run inside terminals of the scenario's own. Their commands write as fast as they can: numbered
//! lines, progress bars at 30 frames a second, a line of 1 MiB, characters and escape sequences cut in two. They
//! ask where the cursor is, with echo and without, are given other sizes, and end with output pending. The raw
//! stream is byte for byte what each wrote; the log has each line once and in order, one for a progress bar, no
//! answers of the terminal; the exit status is behind the last byte.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, ptys};
//! let report = ptys::run(&ptys::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millpond_bus::{Overflow, Rule, RuleTable, SourceStats, Stats};
use serde::Serialize;

use crate::criteria::{Account, Criterion, LogAccount, balance_criterion};
use crate::disk;
use crate::error::{Error, no_such_phase};
use crate::process::Host;
use crate::stage::{Keeping, Stage, account, counted_account, rules_with, temporary};
use crate::terminal::Terminal;
use crate::text;
use crate::watch::Watch;

mod cast;
mod child;
mod player;
mod script;
mod verify;

pub use self::cast::Cast;
pub(crate) use self::child::child_role;
pub use self::verify::{Part, difference};

/// The same as for a normal day.
const MEMORY_LIMIT_BYTES: u64 = 64 << 20;
/// What a command writes beyond its bursts: the large line, what is pending at its end, bars.
const MORE_BYTES: u64 = 3 << 20;
/// Copy, raw stream, what the terminal received, log: what a byte takes of the disk.
const DISK_FACTOR: u64 = 6;
/// A burst with its bar, its questions and its answers is hardly ever shorter.
const ROUND: Duration = Duration::from_millis(300);

/// How a command has its terminal, and how it is captured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// `pty`, `own`, `raw`, `pipe`: see the role.
    child: &'static str,
    /// Arguments of `millpond capture`.
    flags: &'static [&'static str],
}

impl Way {
    fn name(&self) -> String {
        let how = self.flags.join(" ").replace("--", "");
        match self.child {
            "raw" => format!("{how}, raw"),
            _ => how,
        }
    }
}

const WAYS: [Way; 8] = {
    const fn way(child: &'static str, flags: &'static [&'static str]) -> Way {
        Way { child, flags }
    }
    [
        way("pty", &["--newlines", "kernel"]),
        way("own", &["--newlines", "own"]),
        way("raw", &["--newlines", "kernel"]),
        way("pipe", &["--pipe"]),
        way("pty", &["--newlines", "auto"]),
        way("own", &["--newlines", "own"]),
        way("raw", &["--newlines", "own"]),
        way("pipe", &["--pipe"]),
    ]
};

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// The `millpond` program that captures; `None`: this program.
    pub millpond: Option<PathBuf>,
    /// Captures.
    pub captures: usize,
    /// How long the commands write.
    pub time: Duration,
    /// Bytes written as fast as they go between two progress bars.
    pub burst_bytes: u64,
    /// Limit of what bursts write in all, for each command; `None`: as much as goes in the time.
    pub bytes_limit: Option<u64>,
    /// Frames of a progress bar, 30 in a second.
    pub frames: usize,
    /// The lane of each; `None`: as the daemon has it.
    pub lane_bytes: Option<u32>,
    /// Whether lines may be dropped, where they are counted.
    pub may_drop: bool,
    /// Makes the same output again.
    pub seed: u64,
    /// Where everything goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// About five seconds. No more is written than a lane holds, so nothing can be dropped.
    pub fn ci() -> Self {
        Options {
            host: None,
            millpond: None,
            captures: WAYS.len(),
            time: Duration::from_secs(3),
            burst_bytes: 192 << 10,
            bytes_limit: Some(2 << 20),
            frames: 12,
            lane_bytes: Some(16 << 20),
            may_drop: false,
            seed: 1,
            dir: None,
        }
    }

    /// A minute, as much as goes, with lanes smaller than a burst: what they do not hold is dropped and counted.
    pub fn full() -> Self {
        Options {
            time: Duration::from_secs(60),
            burst_bytes: 1 << 20,
            bytes_limit: None,
            frames: 10,
            lane_bytes: Some(512 << 10),
            may_drop: true,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("ptys", phase, "none"))
    }

    fn child_bytes(&self) -> u64 {
        let rounds = self.time.as_millis() / ROUND.as_millis() + 3;
        let bursts = rounds as u64 * self.burst_bytes;
        self.bytes_limit.map_or(bursts, |limit| limit.min(bursts)) + MORE_BYTES
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Makes the same output again.
    pub seed: u64,
    /// One for each capture.
    pub parts: Vec<Part>,
    /// The lines of each.
    pub accounts: Vec<LogAccount>,
    /// The raw stream of each.
    pub raw_accounts: Vec<Account>,
    /// From the first start to the last end.
    pub elapsed_ns: u64,
    /// The most memory of its own that the consumer's process had.
    pub anonymous_bytes: u64,
    /// Processor time of the consumer's process.
    pub cpu_ns: u64,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

fn service(index: usize) -> String {
    format!("pty-{index}")
}

/// Another one for each, so that none is taken for another's.
fn code(index: usize) -> i32 {
    3 * index as i32
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let millpond = match &options.millpond {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    let place = temporary(options.dir.as_deref())?;
    let needed = options.child_bytes() * options.captures as u64 * DISK_FACTOR;
    let left = disk::check_room(place.path(), needed)?;
    progress(&format!(
        "ptys: {} captures for {:?}, seed {}; disk: about {} needed, {} left",
        options.captures,
        options.time,
        options.seed,
        text::bytes(needed),
        text::bytes(left)
    ));
    let logs = place.path().join("logs");
    let keeping = Keeping {
        total_bytes: Some(0),
        ..Keeping::default()
    };
    let stage = Stage::keeping(&host, "ptys", rules(options)?, &keeping, &logs)?;
    let watch = Watch::start(stage.consumer_pid(), &logs)?;
    let started = Instant::now();
    let mut threads = Vec::new();
    for index in 0..options.captures {
        let (words, size) = capture_words(options, &host, &millpond, &stage, place.path(), index);
        let environment = [
            ("MILLPOND_CONFIG", OsStr::new("/dev/null")),
            ("MILLPOND_LOGS", logs.as_os_str()),
        ];
        let terminal = Terminal::start(&host, size, &environment, &words)?;
        let (seed, received) = (
            options.seed + index as u64,
            file(place.path(), index, "received"),
        );
        threads.push(std::thread::spawn(move || {
            player::play(terminal, size, seed, &received)
        }));
    }
    let mut played = Vec::new();
    for thread in threads {
        let outcome = thread.join();
        played.push(outcome.map_err(|_| Error::new("a player panicked"))??);
    }
    let elapsed = started.elapsed();
    progress("ptys: reading what is there");
    let stats = stage.settle()?;
    let stopped = stage.close()?;
    let seen = watch.end()?;
    let mut report = Report {
        seed: options.seed,
        elapsed_ns: elapsed.as_nanos() as u64,
        anonymous_bytes: seen.anonymous_bytes,
        cpu_ns: stopped.cpu_ns,
        ..Report::default()
    };
    for (index, played) in played.iter().enumerate() {
        let (way, prefix) = (&WAYS[index % WAYS.len()], place.path().join(service(index)));
        let service_dir = logs.join(service(index));
        let part = verify::verify(way, index, &prefix, &service_dir, played)?;
        report.accounts.push(line_account(&stats, &part.service));
        report.raw_accounts.push(raw_account(&stats, &part.service));
        report.parts.push(part);
    }
    report.criteria = judge(&report, options);
    Ok(report)
}

fn file(place: &Path, index: usize, what: &str) -> PathBuf {
    place.join(service(index)).with_extension(what)
}

fn rules(options: &Options) -> Result<RuleTable, Error> {
    let Some(lane_bytes) = options.lane_bytes else {
        return Ok(RuleTable::defaults());
    };
    let defaults = RuleTable::defaults();
    let lines = (defaults.iter()).find(|rule| rule.pattern.as_str() == "log:*");
    let lines = lines.ok_or_else(|| Error::new("no rule for log:* by default"))?;
    rules_with(vec![Rule {
        lane_bytes,
        overflow: Overflow::DropNewest,
        ..lines.clone()
    }])
}

/// `millpond capture .. -- ROLE ..`, and the size that its terminal has first.
fn capture_words(
    options: &Options,
    host: &Host,
    millpond: &Path,
    stage: &Stage,
    place: &Path,
    index: usize,
) -> (Vec<OsString>, (u16, u16)) {
    let way = &WAYS[index % WAYS.len()];
    let mut words: Vec<OsString> = vec![millpond.into(), "capture".into()];
    let mut add = |word: &dyn AsRef<OsStr>| words.push(word.as_ref().to_owned());
    for word in ["--bus", stage.name(), "--service", &service(index)] {
        add(&word);
    }
    // A command that has no processor for a while must not have its bar torn in two.
    for word in ["--partial-delay", "10m", "--raw-to"] {
        add(&word);
    }
    add(&file(place, index, "cast"));
    way.flags.iter().for_each(|flag| add(flag));
    add(&"--");
    let role = host.command("ptys-child");
    add(&role.get_program());
    role.get_args().for_each(|word| add(&word));
    let bytes = options.bytes_limit.unwrap_or(u64::MAX);
    for (key, value) in [
        ("seed", options.seed + index as u64),
        ("millis", options.time.as_millis() as u64),
        ("burst", options.burst_bytes),
        ("bytes", bytes),
        ("frames", options.frames as u64),
        ("code", code(index) as u64),
    ] {
        add(&format!("{key}={value}"));
    }
    add(&format!("way={}", way.child));
    add(&format!("place={}", place.join(service(index)).display()));
    (words, (80 + index as u16, 24))
}

/// The account of the lines; what was published is what shared memory says, the capture has no other count.
fn line_account(stats: &Stats, service: &str) -> LogAccount {
    let label = format!("capture:{service}");
    let is_it = |entry: &&SourceStats| entry.label == label && entry.pattern == "log:*";
    counted_account(&label, stats.sources.iter().filter(is_it))
}

fn raw_account(stats: &Stats, service: &str) -> Account {
    let label = format!("capture:{service}");
    let mut of_raw = stats.clone();
    (of_raw.sources).retain(|entry| entry.pattern == "pty:*" && entry.label == label);
    let published = of_raw.sources.iter().map(|entry| entry.published).sum();
    account(&of_raw, &label, "pty:*", published, None, 0)
}

fn judge(report: &Report, options: &Options) -> Vec<Criterion> {
    let parts = &report.parts;
    let count = parts.len();
    let mut criteria = Vec::new();
    // How many are as they should be, and what the first is that is not.
    let mut all = |what: &str, wrong: &dyn Fn(&Part) -> Option<String>| {
        let mut bad = parts.iter().filter_map(|part| {
            wrong(part).map(|why| format!("; {} ({}): {why}", part.service, part.way))
        });
        let first = bad.next();
        let good = count - bad.count() - usize::from(first.is_some());
        let is_met = first.is_none() && count > 0;
        let first = first.unwrap_or_default();
        criteria.push(Criterion::new(
            format!("{good} of {count}: {what}{first}"),
            is_met,
        ));
    };
    all(
        "the raw stream is byte for byte what the command wrote",
        &|part| part.raw_differs.clone(),
    );
    all("the terminal in front received the same", &|part| {
        part.received_differs.clone()
    });
    all(
        "no answers of the terminal, in lines or raw stream",
        &|part| {
            let (lines, raw) = part.answers_found;
            (lines + raw > 0).then(|| format!("{lines} in lines, {raw} in the raw stream"))
        },
    );
    all("every question was answered", &|part| {
        let (asked, answered) = part.answered;
        (asked != answered).then(|| format!("{asked} asked, {answered} answered"))
    });
    all("the sizes set are the sizes seen, in order", &|part| {
        part.sizes_differ.clone()
    });
    all("no control characters in lines", &|part| {
        let count = part.control_characters;
        (count > 0).then(|| format!("{count}"))
    });
    all(
        "the exit status is the last line, behind the last byte",
        &|part| {
            let is_last = part
                .last_note
                .starts_with(&format!("exited code={} ", part.exit_codes.0));
            (!is_last || part.behind_the_end > 0)
                .then(|| format!("{} lines behind {:?}", part.behind_the_end, part.last_note))
        },
    );
    all("the raw stream ends with the exit status", &|part| {
        let wanted = part.exit_codes.0.to_string();
        (part.raw_exit.as_ref() != Some(&wanted)).then(|| format!("{:?}", part.raw_exit))
    });
    all("the capture ends with the code of its command", &|part| {
        let (wanted, got) = part.exit_codes;
        (wanted != got).then(|| format!("{got} for {wanted}"))
    });
    let dropped: u64 = report.accounts.iter().map(|account| account.dropped).sum();
    let dropped_of = |part: &Part| {
        let label = format!("capture:{}", part.service);
        let accounts = report.accounts.iter();
        let mut mine = accounts.filter(|account| account.source == label);
        mine.next().map_or(0, |account| account.dropped)
    };
    all(
        "every line is there once, whole and in order, or counted as dropped",
        &|part| {
            let missing = part.lines - part.whole_lines.min(part.lines);
            let first = part.first_wrong.as_deref().unwrap_or_default();
            (missing.max(part.wrong_lines) > dropped_of(part)).then(|| {
                format!(
                    "{} of {} lines, {} others, {} records dropped; {first:?}",
                    part.whole_lines,
                    part.lines,
                    part.wrong_lines,
                    dropped_of(part)
                )
            })
        },
    );
    all("one line for each progress bar", &|part| {
        let (bars, lines) = part.bars;
        let is_well = lines <= bars && bars <= lines + dropped_of(part);
        (!is_well).then(|| format!("{lines} lines for {bars} bars"))
    });
    all(
        "who sits in front is told where lines are missing",
        &|part| {
            let dropped = dropped_of(part);
            (part.warned != (dropped > 0)).then(|| format!("{dropped} dropped"))
        },
    );
    all("gap lines tell exactly what was dropped", &|part| {
        let dropped = dropped_of(part);
        (part.told_dropped != dropped)
            .then(|| format!("{} told, {dropped} dropped", part.told_dropped))
    });
    let written: u64 = report.accounts.iter().map(|account| account.written).sum();
    let in_files: u64 = parts.iter().map(|part| part.records + part.notes).sum();
    criteria.push(Criterion::new(
        format!("{written} records counted as written, {in_files} in the files"),
        written == in_files && written > 0,
    ));
    criteria.push(balance_criterion(&report.accounts));
    let good = report.raw_accounts.iter();
    let good = good
        .filter(|account| account.balances() && account.published > 0)
        .count();
    criteria.push(Criterion::new(
        format!(
            "{good} of {count} accounts of raw streams balance: published = delivered + dropped"
        ),
        good == count,
    ));
    if !options.may_drop {
        criteria.push(Criterion::new(
            format!("{dropped} lines dropped"),
            dropped == 0,
        ));
    }
    let memory = text::bytes(report.anonymous_bytes);
    criteria.push(Criterion::new(
        format!("the daemon has {memory} of its own, beyond its rings: less than 64 MiB"),
        report.anonymous_bytes < MEMORY_LIMIT_BYTES,
    ));
    criteria
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.parts.iter().map(|part| part.wrote_bytes).sum();
        writeln!(
            f,
            "ptys: {} captures, {} in {}, seed {}; daemon: {} of its own, {} CPU",
            self.parts.len(),
            text::bytes(bytes),
            text::duration(self.elapsed_ns),
            self.seed,
            text::bytes(self.anonymous_bytes),
            text::duration(self.cpu_ns)
        )?;
        let header = ["service", "wrote", "lines", "bars", "asked", "sizes", "how"];
        let mut table = text::Table::new(&header);
        for part in &self.parts {
            table.row(vec![
                part.service.clone(),
                text::bytes(part.wrote_bytes),
                part.lines.to_string(),
                part.bars.0.to_string(),
                part.answered.0.to_string(),
                part.sizes.to_string(),
                part.way.clone(),
            ]);
        }
        write!(f, "{table}")?;
        text::log_accounts(f, &self.accounts)?;
        text::criteria(f, &self.criteria)
    }
}
