//! The same lines given to millpond and to what others log with: into files as fast as they go, and one by one onto the
//! disk. Everything is read back, and what did not come is counted.
//!
//! Run: `cargo run --release --manifest-path benches/compare/peers/Cargo.toml --bin peers-log -- --size tiny`

#![forbid(unsafe_code)]

mod lines;
mod peer;
mod peers;
mod round;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millpond_peers::{Case, Comparison, Figure, Flags, Found, Guarantees, Row, Size};

use crate::peer::{Part, Peer, Result, Setup, version_of};
use crate::round::Job;

/// Gives the same lines to millpond and to what others log with, reads everything back, and prints a table.
///
/// A peer that is not installed is a row with the reason, and so is one that fails or hangs. Exit codes: 0, 1 millpond
/// itself failed or lost a line, 2 the comparison could not run, 130 interrupted.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    inner: Option<Inner>,
    #[command(flatten)]
    flags: Flags,
    /// A directory on the disk that is measured [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program behind `millpond pipe` [default: millpond of the search path]
    #[arg(long, value_name = "FILE", default_value = "millpond")]
    millpond: PathBuf,
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.inner {
        Some(Inner::Round { job }) => {
            round::run_here(job);
            Ok(ExitCode::SUCCESS)
        }
        Some(Inner::Role { args }) => peers::run_role(args).map(|()| ExitCode::SUCCESS),
        None => compare(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn compare(arguments: &Arguments) -> Result<ExitCode> {
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("millpond-peers.")
        .tempdir_in(std::path::absolute(parent)?)?;
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools)?;
    let millpond = match arguments.millpond.components().count() {
        1 => arguments.millpond.clone(),
        // Rounds have directories of their own.
        _ => std::path::absolute(&arguments.millpond)?,
    };
    let logs = Logs {
        peers: peers::all(),
        setup: Setup {
            tools,
            millpond,
            bus: format!("peers-{}", std::process::id()),
        },
        dir,
        size: arguments.flags.size,
    };
    Ok(millpond_peers::run(&logs, &arguments.flags))
}

struct Logs {
    peers: Vec<Box<dyn Peer>>,
    setup: Setup,
    dir: tempfile::TempDir,
    size: Size,
}

impl Comparison for Logs {
    fn parts(&self) -> Vec<&'static str> {
        Part::ALL.map(Part::name).to_vec()
    }

    fn peers(&self) -> Vec<Found> {
        let find = |peer: &dyn Peer| peer.find(&self.setup).map_err(|why| why.to_string());
        let peers = self.peers.iter();
        peers
            .map(|peer| (peer.name(), find(peer.as_ref())))
            .collect()
    }

    fn cases<'a>(&'a self, part: &str, peers: &[Found]) -> Vec<Case<'a>> {
        let part = Part::ALL.into_iter().find(|known| known.name() == part);
        let cases = peers.iter().enumerate().filter_map(|(index, found)| {
            let peer = self.peers.iter().find(|peer| peer.name() == found.0)?;
            self.case(part?, peer.as_ref(), &found.1, index)
        });
        cases.collect()
    }

    fn is_bad(&self, row: &Row) -> bool {
        let has_lost = row.rounds.iter().any(|round| round.lost > 0);
        row.is_bad() || row.peer.starts_with("millpond") && has_lost
    }
}

impl Logs {
    /// `None` where this work is not what the peer can do.
    fn case(
        &self,
        part: Part,
        peer: &dyn Peer,
        version: &std::result::Result<String, String>,
        index: usize,
    ) -> Option<Case<'_>> {
        if part.is_durable() && !peer.does_durable() {
            return None;
        }
        let job = Job {
            peer: peer.name(),
            is_durable: part.is_durable(),
            lines: self.lines(part),
            dir: self.dir.path().join(format!("round-{index}")),
            setup: self.setup.clone(),
        };
        let row = Row {
            part: part.name().to_owned(),
            work: self.work(part),
            peer: peer.name(),
            version: version.clone().unwrap_or_default(),
            figure: match part {
                Part::Sink => Figure::Rate,
                Part::Durable => Figure::Latency,
            },
            varied: None,
            is_floor: peer.is_floor(),
            guarantees: Guarantees {
                durable: part.is_durable(),
                ..peer.guarantees()
            },
            rounds: Vec::new(),
            skipped: version.as_ref().err().cloned(),
            failed: None,
        };
        Some(Case {
            row,
            round: Box::new(move |watch| round::run(&job, watch)),
        })
    }

    fn lines(&self, part: Part) -> u64 {
        match (self.size, part) {
            (Size::Full, Part::Sink) => 1_000_000,
            (Size::Full, Part::Durable) => 2000,
            (Size::Tiny, Part::Sink) => 20_000,
            (Size::Tiny, Part::Durable) => 50,
        }
    }

    fn work(&self, part: Part) -> String {
        let lines = self.lines(part);
        let dir = self.dir.path().to_string_lossy();
        let disk = version_of(&["stat", "--file-system", "--format=%T", &dir]);
        let disk = disk.unwrap_or_else(|_| "an unknown file system".to_owned());
        match part {
            Part::Sink => format!(
                "{lines} lines from one process (or as many as are named) until all are in the file, on {disk}; to what takes \
                 lines 128 B each, to what adds time and level itself their 86 B of message"
            ),
            Part::Durable => format!("{lines} lines, each on the disk before the next, on {disk}"),
        }
    }
}
