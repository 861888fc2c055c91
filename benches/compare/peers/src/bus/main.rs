//! The bus beside what else carries events on one host: the same events, the same checks, side by side.
//!
//! The ends of a peer are processes (`run`), except for in-process references.
//!
//! Run: `cargo run --release --manifest-path benches/compare/peers/Cargo.toml --bin peers-bus -- --size tiny`

mod control;
mod drive;
mod event;
mod memory;
mod peer;
mod peers;
mod run;
mod threads;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millpond_bus::{Bus, BusOptions};
use millpond_peers::{Case, Comparison, Fallible, Flags, Found, Row, Size};

use crate::peer::{AnyPeer, Fit};
use crate::work::{Part, Work};

/// Gives the same events to millpond and to what else carries events on one host, checks every byte that arrives, and
/// prints a table.
///
/// A peer that is not installed is a row with the reason, and so is one that fails or hangs. Exit codes: 0, 1 millpond
/// itself failed, 2 the comparison could not run, 130 interrupted.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    inner: Option<Inner>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Inner {
    /// An end of a round
    #[command(hide = true)]
    Role { task: String },
    /// The daemon of a round
    #[command(hide = true)]
    Daemon { bus: String, logs: PathBuf },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.inner {
        Some(Inner::Role { task }) => run::role(&task, peers::ALL).map(|()| ExitCode::SUCCESS),
        Some(Inner::Daemon { bus, logs }) => {
            peers::millpond::daemon_process(&bus, &logs).map(|()| ExitCode::SUCCESS)
        }
        None => compare(&arguments.flags),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn compare(flags: &Flags) -> Fallible<ExitCode> {
    let buses = Buses {
        clock: ClockBus::new()?,
        is_tiny: flags.size == Size::Tiny,
    };
    Ok(millpond_peers::run(&buses, flags))
}

struct Buses {
    clock: ClockBus,
    is_tiny: bool,
}

impl Comparison for Buses {
    fn parts(&self) -> Vec<&'static str> {
        Part::ALL.map(Part::name).to_vec()
    }

    fn peers(&self) -> Vec<Found> {
        let peers = peers::ALL.iter();
        peers
            .map(|peer| (peer.about().name.to_owned(), peer.version()))
            .collect()
    }

    fn cases<'a>(&'a self, part: &str, peers: &[Found]) -> Vec<Case<'a>> {
        let part = Part::ALL.into_iter().find(|known| known.name() == part);
        let cases = peers.iter().filter_map(|(name, version)| {
            let mut all = peers::ALL.iter();
            let peer = *all.find(|peer| peer.about().name == name)?;
            self.case(part?, peer, version)
        });
        cases.collect()
    }
}

impl Buses {
    /// `None` where this work is not what the peer is for.
    fn case(
        &self,
        part: Part,
        peer: &'static dyn AnyPeer,
        version: &Result<String, String>,
    ) -> Option<Case<'static>> {
        let about = peer.about();
        let unfit = match peer.fit(part) {
            Fit::Yes => None,
            Fit::No(why) => Some(why.to_owned()),
            Fit::Apart => return None,
        };
        let mut work = Work::new(part, about.speed, self.is_tiny, self.clock.0.name());
        if !peer.has_receiver() {
            work.receivers = 0;
        }
        let row = Row {
            part: part.name().to_owned(),
            work: part.words().to_owned(),
            peer: about.name.to_owned(),
            version: version.clone().unwrap_or_default(),
            figure: part.figure(),
            varied: None,
            is_floor: about.is_floor,
            guarantees: about.guarantees,
            rounds: Vec::new(),
            skipped: version.as_ref().err().cloned().or(unfit),
            failed: None,
        };
        Some(Case {
            row,
            round: Box::new(move |watch| run::round(peer, &work, watch)),
        })
    }
}

/// The bus whose clock all stamps come from.
struct ClockBus(Bus);

impl ClockBus {
    fn new() -> Fallible<Self> {
        let name = format!("peers-clock-{}", std::process::id());
        Ok(ClockBus(Bus::attach(&name, &BusOptions::default())?))
    }
}

impl Drop for ClockBus {
    fn drop(&mut self) {
        // What is left where this fails is shared memory, and there is nobody to tell.
        drop(self.0.remove());
    }
}
