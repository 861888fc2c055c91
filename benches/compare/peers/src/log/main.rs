//! The same lines given to millpond and to what others log with: into files as fast as they go, and one by one onto the
//! disk. Everything is read back, and what did not come is counted.
//!
//! Run: `cargo run --release --manifest-path benches/compare/peers/Cargo.toml --bin peers-log -- --size tiny`

#![forbid(unsafe_code)]

mod lines;
mod peer;
mod peers;
mod round;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use millpond_peers::Row;

use crate::peer::{Part, Peer, Result, Setup, version_of};
use crate::round::{Job, Trouble};

/// Gives the same lines to millpond and to what others log with, reads everything back, and prints a table.
///
/// A peer that is not installed is a row with the reason, and so is one that fails or hangs. Exit codes: 0, 1 millpond
/// itself failed or lost a line, 2 the comparison could not run.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    inner: Option<Inner>,
    /// What is measured
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "sink,durable"
    )]
    parts: Vec<Part>,
    /// Prints the names of the peers, and their versions or why they cannot run here
    #[arg(long)]
    list: bool,
    /// Only peers whose names contain one of these
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<String>,
    /// How often each is measured, interleaved [default: 5; 1 where tiny]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// 1,000,000 lines (2,000 durable ones), or 20,000 (50), which only shows that all of it runs
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Writes the rows there, a line of JSON each
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A directory on the disk that is measured [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program behind `millpond pipe` [default: millpond of the search path]
    #[arg(long, value_name = "FILE", default_value = "millpond")]
    millpond: PathBuf,
    /// A round that takes longer is killed [default: 300; 30 where tiny]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Subcommand)]
enum Inner {
    /// A round, in a process of its own
    #[command(hide = true)]
    Round { job: String },
    /// Another process of a round
    #[command(hide = true)]
    Role { args: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    Tiny,
    Full,
}

impl Size {
    fn lines(self, part: Part) -> u64 {
        match (self, part) {
            (Size::Full, Part::Sink) => 1_000_000,
            (Size::Full, Part::Durable) => 2000,
            (Size::Tiny, Part::Sink) => 20_000,
            (Size::Tiny, Part::Durable) => 50,
        }
    }

    fn rounds(self) -> usize {
        if self == Size::Tiny { 1 } else { 5 }
    }

    fn timeout_s(self) -> u64 {
        if self == Size::Tiny { 30 } else { 300 }
    }
}

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    let done = match flags.inner.take() {
        Some(Inner::Round { job }) => {
            round::run_here(&job);
            Ok(ExitCode::SUCCESS)
        }
        Some(Inner::Role { args }) => peers::run_role(&args).map(|()| ExitCode::SUCCESS),
        None => compare(&flags),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn compare(flags: &Flags) -> Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let parent = std::path::absolute(flags.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let dir = tempfile::Builder::new()
        .prefix("millpond-peers.")
        .tempdir_in(parent)?;
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools)?;
    let millpond = match flags.millpond.components().count() {
        1 => flags.millpond.clone(),
        // Rounds have directories of their own.
        _ => std::path::absolute(&flags.millpond)?,
    };
    let setup = Setup {
        tools,
        millpond,
        bus: format!("peers-{}", std::process::id()),
    };
    let peers = wanted(&flags.peers)?;
    let found: Vec<_> = peers.iter().map(|peer| peer.find(&setup)).collect();
    if flags.list {
        table::print_found(&peers, &found);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", machine());
    println!("to {} ({})", dir.path().display(), file_system(dir.path()));
    let rounds = flags.rounds.unwrap_or(flags.size.rounds()).max(1);
    let limit = Duration::from_secs(flags.timeout.unwrap_or(flags.size.timeout_s()));
    let mut all = Vec::new();
    for &part in &flags.parts {
        let mut rows = Vec::new();
        let mut places = Vec::new();
        for (peer, found) in peers.iter().zip(&found) {
            if peer.parts().contains(&part) {
                rows.push(row(peer.as_ref(), part, flags.size, found));
                places.push(dir.path().join(format!("round-{}", places.len())));
            }
        }
        let count = rows.len();
        for round in 0..rounds {
            for at in 0..count {
                // The first writer of a round pays for the write-back of the last one: each round begins elsewhere.
                let at = (round + at) % count;
                let row = &mut rows[at];
                if row.skipped.is_some() {
                    continue;
                }
                eprintln!("{} {} of {rounds}: {}", part.name(), round + 1, row.peer);
                let job = Job {
                    peer: row.peer.clone(),
                    is_durable: part.is_durable(),
                    lines: flags.size.lines(part),
                    dir: places[at].clone(),
                    setup: setup.clone(),
                };
                match round::run(&job, limit, &interrupted) {
                    Ok(round) => row.rounds.push(round),
                    Err(Trouble::Interrupted) => return Ok(ExitCode::from(130)),
                    Err(trouble) => row.skipped = Some(trouble.to_string()),
                }
                if interrupted.load(Ordering::Relaxed) {
                    return Ok(ExitCode::from(130));
                }
            }
        }
        table::print(&rows);
        all.append(&mut rows);
    }
    if flags.size == Size::Tiny {
        println!("\n(a tiny run: the figures mean nothing)");
    }
    if let Some(path) = &flags.json {
        write_json(path, &all)?;
    }
    let is_bad = |row: &Row| {
        row.peer == "millpond"
            && (row.skipped.is_some() || row.rounds.iter().any(|round| round.lost > 0))
    };
    Ok(if all.iter().any(is_bad) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn wanted(names: &[String]) -> Result<Vec<Box<dyn Peer>>> {
    let mut peers = peers::all();
    for name in names {
        if !peers.iter().any(|peer| peer.name().contains(name.as_str())) {
            return Err(format!("no peer is named {name:?}: `--list` prints the names").into());
        }
    }
    peers.retain(|peer| {
        names.is_empty() || names.iter().any(|name| peer.name().contains(name.as_str()))
    });
    Ok(peers)
}

fn row(peer: &dyn Peer, part: Part, size: Size, found: &Result<String>) -> Row {
    let lines = size.lines(part);
    let work = match part {
        Part::Sink => format!(
            "{lines} lines from one process (or as many as are named) until all are in the file; to what takes lines 128 B each, \
             to what adds time and level itself their 86 B of message"
        ),
        Part::Durable => format!("{lines} lines, each on the disk before the next"),
    };
    Row {
        part: part.name().to_owned(),
        work,
        peer: peer.name(),
        version: found.as_ref().map_or_else(|_| String::new(), Clone::clone),
        guarantees: peer.guarantees(part),
        rounds: Vec::new(),
        skipped: found.as_ref().err().map(|why| format!("skipped: {why}")),
    }
}

fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    let mut file =
        std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for row in rows {
        writeln!(file, "{}", serde_json::to_string(row)?)?;
    }
    Ok(())
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn file_system(dir: &Path) -> String {
    let dir = dir.to_string_lossy();
    version_of(&["stat", "--file-system", "--format=%T", &dir])
        .unwrap_or_else(|_| "unknown".to_owned())
}
