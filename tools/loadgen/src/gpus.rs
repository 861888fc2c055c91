//! `gpus`: telemetry of eight GPUs, ten times a second, as one consolidated record a second for each.
//!
//! The sampler of `millpond telemetry` plays recorded samples: 8 GPUs with 22 numbers each, 10 times a second. The rule
//! `gpu:*` has windows of 1 s: each gives one record for each GPU with count, min, max, mean and last of every number,
//! which are computed here a second time, from what the sampler says it has published. One GPU is lost on the way: its
//! name is marked stale while the others go on. At the end all are.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, gpus};
//! let report = gpus::run(&gpus::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::criteria::{Account, Criterion, all_complete};
use crate::error::{Error, no_such_phase};
use crate::process::Host;
use crate::text;

mod play;
mod truth;

pub(crate) use self::play::sampler_role;

/// GPUs that the recording has.
const GPUS: usize = 8;
/// The one that is lost.
const LOST_GPU: usize = 5;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Samples of each GPU; of the one that is lost a third of them.
    pub samples: u64,
    /// Time between two samples.
    pub interval: Duration,
    /// `max_delay` of the rule.
    pub window: Duration,
}

impl Options {
    /// Six seconds of samples, and the silence behind them.
    pub fn ci() -> Self {
        Options {
            host: None,
            samples: 60,
            interval: Duration::from_millis(100),
            window: Duration::from_secs(1),
        }
    }

    /// A minute of samples.
    pub fn full() -> Self {
        Options {
            samples: 600,
            ..Self::ci()
        }
    }

    /// There is only one phase.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("gpus", phase, "none"))
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// GPUs.
    pub gpus: usize,
    /// Samples published.
    pub samples: u64,
    /// Numbers in them that the GPUs have.
    pub readings: u64,
    /// Samples of each GPU in a second.
    pub hz: f64,
    /// Numbers a second while all GPUs were there.
    pub readings_per_second: f64,
    /// Consolidated records received, marks of stale ones not among them.
    pub records: u64,
    /// Windows in which all GPUs were there, the first to last of them.
    pub windows_of_all: u64,
    /// Windows after one was lost.
    pub windows_of_the_rest: u64,
    /// Records a second while all GPUs were there, by the times of their events.
    pub records_per_second: f64,
    /// Numbers (count, min, max, mean, last) that were computed a second time.
    pub numbers_checked: u64,
    /// The first that were not the same.
    pub wrong: Vec<String>,
    /// Marks that a name fell silent.
    pub stale: u64,
    /// Intervals that the sampler had no time for.
    pub intervals_skipped: u64,
    /// Processor time of the sampler's threads.
    pub sampler_cpu_ns: u64,
    /// How long it sampled.
    pub sampler_elapsed_ns: u64,
    /// Processor time of the consumer's process, from its start to its end.
    pub daemon_cpu_ns: u64,
    /// One for the sampler.
    pub accounts: Vec<Account>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    progress(&format!(
        "gpus: {GPUS} GPUs, {} samples of each, one in {} ms",
        options.samples,
        options.interval.as_millis()
    ));
    let (mut report, seen) = play::run(&host, options)?;
    report.criteria = judge(&report, &seen, options);
    Ok(report)
}

/// What has to come out, beside the numbers of the report.
struct Seen {
    /// GPUs in each window, in the order of the windows.
    windows: Vec<Vec<usize>>,
    /// Samples published, and those the records stand for, of each GPU.
    samples: Vec<(u64, u64)>,
    /// Marks of each GPU.
    stale: Vec<u64>,
    /// The lost one was marked before the last window of the others.
    marked_while_others_went_on: bool,
    /// Samples whose numbers are not those of the file.
    unlike_the_file: u64,
}

fn judge(report: &Report, seen: &Seen, options: &Options) -> Vec<Criterion> {
    let all = report.windows_of_all as usize;
    let (of_all, of_the_rest) = seen.windows.split_at(all);
    // The last may end in the middle of a round.
    let rest = &of_the_rest[..of_the_rest.len().saturating_sub(1)];
    let is_whole = |window: &Vec<usize>, gpus: usize| window.len() == gpus;
    let whole = of_all.iter().filter(|it| is_whole(it, GPUS)).count();
    let rest_whole = rest.iter().filter(|it| is_whole(it, GPUS - 1)).count();
    let window_ms = options.window.as_millis();
    let complete = |&&(published, consolidated): &&(u64, u64)| published == consolidated;
    let complete = seen.samples.iter().filter(complete).count();
    let marks: u64 = seen.stale.iter().sum();
    vec![
        Criterion::new(
            "the account of the sampler balances, nothing lost",
            all_complete(&report.accounts),
        ),
        Criterion::new(
            format!(
                "{whole} of {all} windows of {window_ms} ms gave {GPUS} records, one for each GPU"
            ),
            whole == all && all > 0,
        ),
        Criterion::new(
            format!(
                "{rest_whole} of {} windows after GPU {LOST_GPU} was lost gave {}",
                rest.len(),
                GPUS - 1
            ),
            rest_whole == rest.len() && !rest.is_empty(),
        ),
        Criterion::new(
            format!("the records of {complete} of {GPUS} GPUs stand for all their samples"),
            complete == GPUS,
        ),
        Criterion::new(
            format!(
                "{} numbers computed again, {} of them not the same",
                report.numbers_checked,
                report.wrong.len()
            ),
            report.wrong.is_empty() && report.numbers_checked > 0,
        ),
        Criterion::new(
            format!(
                "{} of {} samples have other numbers than the recording",
                seen.unlike_the_file, report.samples
            ),
            seen.unlike_the_file == 0 && report.samples > 0,
        ),
        Criterion::new(
            format!("GPU {LOST_GPU} was marked stale while the others went on"),
            seen.marked_while_others_went_on,
        ),
        Criterion::new(
            format!("{marks} marks, one for each of {GPUS} GPUs that stopped"),
            seen.stale.iter().all(|&marks| marks == 1),
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "gpus: {} GPUs at {:.1} Hz, {:.0} readings/s: {} samples, {} readings",
            self.gpus, self.hz, self.readings_per_second, self.samples, self.readings
        )?;
        writeln!(
            f,
            "      {} records in {} + {} windows, {:.1} records/s; {} marked stale",
            self.records,
            self.windows_of_all,
            self.windows_of_the_rest,
            self.records_per_second,
            self.stale
        )?;
        let share = self.sampler_cpu_ns as f64 / self.sampler_elapsed_ns.max(1) as f64;
        writeln!(
            f,
            "      sampler: {:.2} % of a processor, {} a sample, {} intervals skipped",
            share * 100.0,
            text::duration(self.sampler_cpu_ns / self.samples.max(1)),
            self.intervals_skipped
        )?;
        writeln!(
            f,
            "      daemon: {} of processor time, start and end included",
            text::duration(self.daemon_cpu_ns)
        )?;
        text::accounts(f, &self.accounts)?;
        for wrong in self.wrong.iter().take(10) {
            writeln!(f, "  wrong: {wrong}")?;
        }
        text::criteria(f, &self.criteria)
    }
}
