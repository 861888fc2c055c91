//! `normal-day`: 24 services that each say 143 bytes 4.5 times a second, time compressed.
//!
//! Nothing is lost, the consumer's memory stays within 64 MiB beyond the rings, and what a million lines cost
//! is told in processor time.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, normal_day};
//! let report = normal_day::run(&normal_day::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use millpond_bus::RuleTable;
use serde::Serialize;

use crate::criteria::{Criterion, LogAccount, balance_criterion};
use crate::day::{self, LINE_BYTES, Load};
use crate::disk;
use crate::error::{Error, no_such_phase};
use crate::latencies::Summary;
use crate::process::Host;
use crate::stage::{Keeping, Stage, temporary};
use crate::text;
use crate::watch::Watch;

/// What the consumer may use beyond its rings.
const MEMORY_LIMIT_BYTES: u64 = 64 << 20;
/// Time, level and source of a line, and its newline.
const LINE_HEAD_BYTES: u64 = 42;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Services.
    pub services: u64,
    /// Lines of each: 4.5 a second are 388,800 a day.
    pub lines: u64,
    /// Lines of each in a second of the scenario.
    pub per_second: u64,
    /// Processes that share the services.
    pub processes: u64,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// 48,000 lines in about two seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            services: 24,
            lines: 2_000,
            per_second: 1_000,
            processes: 4,
            dir: None,
        }
    }

    /// A day, 9.3 million lines, in 80 seconds; about 2 GB of disk.
    pub fn full() -> Self {
        Options {
            lines: 388_800,
            per_second: 4_860,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("normal-day", phase, "none"))
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Services.
    pub services: u64,
    /// Lines of all of them.
    pub lines: u64,
    /// Bytes of text in the files.
    pub text_bytes: u64,
    /// Disk that the log takes at the end.
    pub disk_bytes: u64,
    /// From the first line to the last one in a file.
    pub elapsed_ns: u64,
    /// The most memory of its own that the consumer's process had.
    pub anonymous_bytes: u64,
    /// The most shared memory of that process: rings and outboxes.
    pub shared_bytes: u64,
    /// Processor time of the consumer's process for a million lines.
    pub cpu_ns_per_million: u64,
    /// Calls of `publish`, one in 31.
    pub publish: Summary,
    /// One for each service.
    pub accounts: Vec<LogAccount>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end, a disk that is too small among it; criteria that are not met are
/// none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let logs = temporary(options.dir.as_deref())?;
    let lines = options.services * options.lines;
    let needed = lines * (LINE_BYTES as u64 + LINE_HEAD_BYTES) * 5 / 4;
    let left = disk::check_room(logs.path(), needed)?;
    progress(&format!(
        "normal-day: {} services, {lines} lines; disk: about {} needed, {} left",
        options.services,
        text::bytes(needed),
        text::bytes(left)
    ));
    let keeping = Keeping {
        total_bytes: Some(0),
        ..Keeping::default()
    };
    let rules = RuleTable::defaults();
    let stage = Stage::keeping(&host, "normal-day", rules, &keeping, logs.path())?;
    let load = Load {
        prefix: "svc",
        services: options.services,
        lines: options.lines,
        per_second: options.per_second,
        processes: options.processes,
    };
    let mut publishers = load.start(&host, stage.name())?;
    let watch = Watch::start(stage.consumer_pid(), logs.path())?;
    let started = Instant::now();
    publishers.go()?;
    let (said, publish) = publishers.end()?;
    let elapsed = started.elapsed();
    let stats = stage.settle()?;
    let seen = watch.end()?;
    let stopped = stage.close()?;
    progress("normal-day: reading the files");
    let (complete, wrong) = day::complete_in_files(logs.path(), &said)?;
    let mut report = Report {
        services: options.services,
        lines,
        text_bytes: stats.services.iter().map(|service| service.bytes).sum(),
        disk_bytes: disk::used_bytes(logs.path())?,
        elapsed_ns: elapsed.as_nanos() as u64,
        anonymous_bytes: seen.anonymous_bytes,
        shared_bytes: seen.shared_bytes,
        cpu_ns_per_million: (u128::from(stopped.cpu_ns) * 1_000_000 / u128::from(lines.max(1)))
            as u64,
        publish: publish.summary(),
        accounts: day::accounts(&stats, &said),
        criteria: Vec::new(),
    };
    report.criteria = judge(&report, complete, wrong);
    Ok(report)
}

fn judge(report: &Report, complete: u64, wrong: Option<String>) -> Vec<Criterion> {
    let written: u64 = report.accounts.iter().map(|account| account.written).sum();
    let dropped: u64 = report.accounts.iter().map(|account| account.dropped).sum();
    let memory = text::bytes(report.anonymous_bytes);
    let wrong = wrong.map_or(String::new(), |wrong| format!("; {wrong}"));
    vec![
        balance_criterion(&report.accounts),
        Criterion::new(
            format!(
                "{written} of {} lines written, {dropped} dropped",
                report.lines
            ),
            written == report.lines && dropped == 0,
        ),
        Criterion::new(
            format!(
                "{complete} of {} services have every line in the files, once and in order{wrong}",
                report.services
            ),
            complete == report.services,
        ),
        Criterion::new(
            format!("the daemon has {memory} of its own, beyond its rings: less than 64 MiB"),
            report.anonymous_bytes < MEMORY_LIMIT_BYTES,
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second =
            u128::from(self.lines) * 1_000_000_000 / u128::from(self.elapsed_ns.max(1));
        writeln!(
            f,
            "normal-day: {} services, {} lines in {} ({per_second}/s)",
            self.services,
            self.lines,
            text::duration(self.elapsed_ns)
        )?;
        writeln!(
            f,
            "            {} of text on {} of disk",
            text::bytes(self.text_bytes),
            text::bytes(self.disk_bytes)
        )?;
        writeln!(
            f,
            "  daemon: {} CPU per million lines; {} of its own, {} of rings",
            text::duration(self.cpu_ns_per_million),
            text::bytes(self.anonymous_bytes),
            text::bytes(self.shared_bytes)
        )?;
        text::log_accounts(f, &self.accounts)?;
        text::latencies(f, &[("publish", self.publish)])?;
        text::criteria(f, &self.criteria)
    }
}
