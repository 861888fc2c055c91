//! What the benchmarks share: sizes, medians, processor time, helper processes.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub mod paths;

/// Whether only a proof is wanted that the benchmark still runs.
pub fn is_tiny() -> bool {
    std::env::var_os("MILLPOND_BENCH_TINY").is_some() || std::env::args().any(|arg| arg == "--test")
}

/// `full` events, or few in a tiny run.
pub fn size(full: u64) -> u64 {
    if is_tiny() {
        (full / 1000).max(100)
    } else {
        full
    }
}

/// How often each measurement is repeated: 7 times; `MILLPOND_BENCH_ROUNDS` says otherwise.
pub fn rounds() -> usize {
    rounds_or(7)
}

/// How often each measurement is repeated, where nobody says otherwise: `usual` times.
pub fn rounds_or(usual: usize) -> usize {
    let wanted = std::env::var("MILLPOND_BENCH_ROUNDS").ok();
    match wanted.and_then(|text| text.parse().ok()) {
        _ if is_tiny() => 1,
        Some(rounds) => rounds,
        None => usual,
    }
}

/// Median, least and greatest of a set of figures.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The figure in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; all zero for none.
    pub fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or_default();
        Spread {
            median: at(figures.len() / 2),
            min: at(0),
            max: at(figures.len().saturating_sub(1)),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:8.1}  ({:.1} to {:.1})",
            self.median, self.min, self.max
        )
    }
}

/// Processor time that process `pid` has used so far, in seconds (user, system); resolution 10 ms.
pub fn cpu_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name is in parentheses and may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |index: usize| -> f64 {
        rest.split_whitespace()
            .nth(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    };
    (field(11) / 100.0, field(12) / 100.0)
}

/// Processor time that all threads of process `pid` have used so far, in ns.
pub fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Times of one round: the middle one, 99 and 99.9 of 100, and the longest, in ns.
pub fn percentiles(mut times_ns: Vec<u64>) -> [u64; 4] {
    times_ns.sort_unstable();
    let at = |share: f64| {
        let index = (times_ns.len() as f64 * share) as usize;
        let last = times_ns.len().saturating_sub(1);
        times_ns.get(index.min(last)).copied().unwrap_or_default()
    };
    [at(0.5), at(0.99), at(0.999), at(1.0)]
}

/// The commit that this was built from, as far as git knows.
pub fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Starts this very program again with `args`, its output readable.
///
/// # Panics
/// Where a process cannot be started, a benchmark cannot run.
pub fn start_self(args: &[String]) -> (Child, BufReader<std::process::ChildStdout>) {
    let this = std::env::current_exe().expect("a program knows its own path");
    let mut child = Command::new(this)
        .args(args)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a process can be started");
    let output = child.stdout.take().expect("its output was asked for");
    (child, BufReader::new(output))
}

/// The next line of a helper process.
///
/// # Panics
/// When the helper has ended instead.
pub fn read_line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    let count = output
        .read_line(&mut line)
        .expect("the helper's output can be read");
    assert!(count > 0, "the helper process ended early");
    line.trim().to_owned()
}

/// Where this ran: kernel, processor, cores.
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}
