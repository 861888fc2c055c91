//! The bus beside what else carries events on one host: the same events, the same checks, side by side.
//!
//! The plan is parts x rounds x peers: within a round all peers take their turn, and the one that begins changes from
//! round to round, so that what else happens on the machine happens to all of them. The ends of a peer are processes
//! (`run`), except for in-process references. A round that takes too long is killed, and its row says so.
//!
//! Run: `cargo run --release --manifest-path benches/compare/peers/Cargo.toml --bin peers-bus -- --size tiny`

mod control;
mod drive;
mod event;
mod memory;
mod peer;
mod peers;
mod run;
mod table;
mod work;

use std::io::Write;
use std::time::Duration;

use millpond_bus::{Bus, BusOptions};
use millpond_peers::Row;

use crate::peer::{AnyPeer, Fallible, Fit};
use crate::work::{Part, Work};

const HELP: &str = "\
Gives the same events to millpond and to what else carries events on one host.

usage: peers-bus [OPTIONS]

  --parts A,B     these parts only: throughput, throughput-1k, publish, wake, wake-pinned, busy, fan-out, fan-in
  --peers A,B     these peers only, by the beginning of their names: millpond, iceoryx2, pipe, ..
  --rounds N      rounds of each pair [default: 5; tiny: 1]
  --size SIZE     `full`, or `tiny`: a proof that it runs, figures mean nothing [default: full]
  --json FILE     writes the rows as JSON lines
  --list          names the peers with their versions, or why they are skipped
";

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["role", task] => return run::role(task, peers::ALL),
        ["daemon", bus, logs] => return peers::millpond::daemon_process(bus, logs.as_ref()),
        _ => {}
    }
    let plan = Plan::parse(&args)?;
    if plan.shows_help {
        print!("{HELP}");
        return Ok(());
    }
    println!("{}; {} rounds", machine(), plan.rounds);
    let rows = plan.run()?;
    if let Some(path) = &plan.json {
        let mut text = String::new();
        for row in &rows {
            text += &serde_json::to_string(row)?;
            text.push('\n');
        }
        std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    if plan.is_tiny {
        println!("\n(a tiny run: the figures mean nothing)");
    }
    Ok(())
}

#[derive(Default)]
struct Plan {
    parts: Vec<Part>,
    peers: Vec<String>,
    rounds: usize,
    is_tiny: bool,
    json: Option<String>,
    shows_help: bool,
    only_lists: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Fallible<Plan> {
        let mut plan = Plan {
            parts: Part::ALL.to_vec(),
            ..Plan::default()
        };
        let mut rounds = None;
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--parts" => {
                    plan.parts = value()?.split(',').map(part).collect::<Result<_, _>>()?
                }
                "--peers" => plan.peers = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => rounds = Some(value()?.parse()?),
                "--json" => plan.json = Some(value()?.clone()),
                "--size" => {
                    plan.is_tiny = match value()?.as_str() {
                        "tiny" => true,
                        "full" => false,
                        other => return Err(format!("--size {other:?}: use tiny or full").into()),
                    }
                }
                "--list" => plan.only_lists = true,
                "--help" | "-h" => plan.shows_help = true,
                other => return Err(format!("{other:?} is unknown: see --help").into()),
            }
        }
        plan.rounds = rounds.unwrap_or(if plan.is_tiny { 1 } else { 5 });
        let is_known = |wanted: &String| peers::ALL.iter().any(|peer| matches(*peer, wanted));
        match plan.peers.iter().find(|wanted| !is_known(wanted)) {
            Some(wanted) => Err(format!("--peers {wanted:?}: see --list").into()),
            None => Ok(plan),
        }
    }

    fn run(&self) -> Fallible<Vec<Row>> {
        let wanted = |peer: &&&'static dyn AnyPeer| {
            self.peers.is_empty() || self.peers.iter().any(|name| matches(**peer, name))
        };
        let peers = peers::ALL.iter().filter(wanted);
        let peers: Vec<_> = peers.map(|peer| (*peer, peer.version())).collect();
        if self.only_lists {
            for (peer, version) in &peers {
                let text = version
                    .as_ref()
                    .map_or_else(|why| format!("skipped: {why}"), String::clone);
                println!("{:32} {text}", peer.about().name);
            }
            return Ok(Vec::new());
        }
        let clock = ClockBus::new()?;
        let limit = Duration::from_secs(if self.is_tiny { 20 } else { 180 });
        let mut all = Vec::new();
        for &part in &self.parts {
            let mut rows: Vec<(&dyn AnyPeer, Work, Row)> = Vec::new();
            for (peer, version) in &peers {
                let about = peer.about();
                let mut skipped = version.as_ref().err().cloned();
                match peer.fit(part) {
                    Fit::Yes => {}
                    Fit::No(why) => skipped = Some(skipped.unwrap_or_else(|| why.to_owned())),
                    Fit::Apart => continue,
                }
                let mut work = Work::new(part, about.speed, self.is_tiny, clock.0.name());
                if !peer.has_receiver() {
                    work.receivers = 0;
                }
                let row = Row {
                    part: part.name().to_owned(),
                    work: format!("{}; {} events", part.words(), work.expected()),
                    peer: about.name.to_owned(),
                    version: version.clone().unwrap_or_default(),
                    guarantees: about.guarantees,
                    rounds: Vec::new(),
                    skipped,
                };
                rows.push((*peer, work, row));
            }
            for round in 0..self.rounds {
                for at in 0..rows.len() {
                    let index = (round + at) % rows.len();
                    let (peer, work, row) = &mut rows[index];
                    if row.skipped.is_some() {
                        continue;
                    }
                    eprint!(
                        "\r\x1b[K{} {}/{}: {}",
                        part.name(),
                        round + 1,
                        self.rounds,
                        row.peer
                    );
                    std::io::stderr().flush()?;
                    match run::round(*peer, work, limit) {
                        Ok(figures) => row.rounds.push(figures),
                        Err(why) => row.skipped = Some(format!("round {}: {why}", round + 1)),
                    }
                }
            }
            eprint!("\r\x1b[K");
            println!("{}", table::title(part));
            for (_, _, row) in &rows {
                println!("{}", table::line(part, row));
            }
            all.extend(rows.into_iter().map(|(_, _, row)| row));
        }
        Ok(all)
    }
}

fn part(name: &str) -> Fallible<Part> {
    let found = Part::ALL.into_iter().find(|part| part.name() == name);
    found.ok_or_else(|| format!("--parts {name:?}: see --help").into())
}

fn matches(peer: &dyn AnyPeer, wanted: &str) -> bool {
    peer.about()
        .name
        .to_lowercase()
        .starts_with(&wanted.to_lowercase())
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

/// Where this runs: kernel, processor, cores.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut names = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = names.next().map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores, {}", peer::kernel())
}
