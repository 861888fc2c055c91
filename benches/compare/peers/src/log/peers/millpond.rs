//! millpond: publishers in processes of their own, through shared memory, to indexed files that a daemon in another
//! process writes; and lines through a pipe into `millpond pipe`.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use millpond_bus::{Bus as Shared, BusOptions, Guarantee, Level, Overflow, Publisher, Topic};
use millpond_bus::{Rule, RuleTable};
use millpond_daemon::{Daemon, Policy, SyncPolicy};
use millpond_logfile::{Query, Reader};

use crate::lines::{Check, Lines};
use crate::peer::{Peer, Place, Program, Result, Setup, locked, ns_since, version_of};

const SERVICE: &str = "peers";
const TOPIC: &str = "log:peers:out";
/// A publisher waits this long for the daemon before a line is lost, and counted.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishers in Rust.
pub struct Bus {
    /// How many, each in its process.
    pub publishers: u64,
}

/// Lines through a pipe, as other programs take them.
pub struct Pipe;

impl Peer for Bus {
    fn name(&self) -> String {
        match self.publishers {
            1 => "millpond".to_owned(),
            count => format!("millpond, {count} publishers"),
        }
    }

    fn does_durable(&self) -> bool {
        self.publishers == 1
    }

    fn find(&self, _: &Setup) -> Result<String> {
        let version = locked("millpond-daemon");
        let commit = [
            "git",
            "-C",
            env!("CARGO_MANIFEST_DIR"),
            "describe",
            "--always",
            "--dirty",
        ];
        Ok(match version_of(&commit) {
            Ok(commit) => format!("{version} ({commit})"),
            Err(_) => version,
        })
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let (bus, daemon) = start(place, "interval")?;
        let count = lines.remaining();
        let elapsed = if self.publishers == 1 {
            let (mut publisher, topic) = publisher_on(&bus)?;
            let started = Instant::now();
            publish(&mut publisher, topic, lines)?;
            started.elapsed()
        } else {
            let starts = (0..self.publishers).map(|number| number * count / self.publishers);
            let ends = (1..=self.publishers).map(|number| number * count / self.publishers);
            let mut publishers = starts
                .zip(ends)
                .map(|(first, end)| {
                    let span = [first, end].map(|number| number.to_string());
                    let mut publisher =
                        Program::start_self(["publisher", bus.name(), &span[0], &span[1]])?;
                    publisher.read_line()?;
                    Ok(publisher)
                })
                .collect::<Result<Vec<_>>>()?;
            let started = Instant::now();
            publishers.iter_mut().for_each(Program::close_input);
            for publisher in &mut publishers {
                publisher.read_line()?;
            }
            let elapsed = started.elapsed();
            place.note_memory();
            publishers.into_iter().try_for_each(Program::finish)?;
            elapsed
        };
        stop(place, &bus, daemon)?;
        Ok(elapsed)
    }

    fn write_durably(&self, place: &mut Place, lines: &mut Lines) -> Result<Vec<u64>> {
        let (bus, daemon) = start(place, "always")?;
        let (mut publisher, topic) = publisher_on(&bus)?;
        let mut times_ns = Vec::new();
        while let Some(message) = lines.next_message() {
            let started = Instant::now();
            publisher.publish(topic, Level::Info, message)?;
            publisher.flush(Guarantee::Durable, None)?;
            times_ns.push(ns_since(started));
        }
        drop(publisher);
        stop(place, &bus, daemon)?;
        Ok(times_ns)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        if self.publishers > 1 {
            check.allow_any_order();
        }
        read(&place.out(), check)
    }
}

impl Peer for Pipe {
    fn name(&self) -> String {
        "millpond pipe".to_owned()
    }

    fn find(&self, setup: &Setup) -> Result<String> {
        let program = setup.millpond.to_string_lossy();
        let said = version_of(&[&program, "--version"])?;
        Ok(said.trim_start_matches("millpond ").to_owned())
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let (bus, daemon) = start(place, "interval")?;
        let mut command = Command::new(&place.setup.millpond);
        command
            .args([
                "pipe",
                "--config",
                "/dev/null",
                "--service",
                SERVICE,
                "--bus",
            ])
            .arg(bus.name());
        let elapsed = place.feed(&mut command, lines)?;
        stop(place, &bus, daemon)?;
        Ok(elapsed)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        read(&place.out(), check)
    }
}

fn options() -> Result<BusOptions> {
    let rule = Rule {
        service: Some("*".into()),
        lane_bytes: 4 << 20,
        max_events: 1 << 20,
        overflow: Overflow::Block { deadline: PATIENCE },
        ..Rule::new("log:*".parse()?)
    };
    Ok(BusOptions {
        rules: RuleTable::new(vec![rule])?,
        ..BusOptions::default()
    })
}

/// A bus, and a daemon in a process of its own that writes what comes on it.
fn start(place: &Place, sync: &str) -> Result<(Shared, Program)> {
    let bus = Shared::attach(&place.setup.bus, &options()?)?;
    let logs = place.out().display().to_string();
    let mut daemon = Program::start_self(["daemon", bus.name(), &logs, sync])?;
    daemon.read_line()?;
    Ok((bus, daemon))
}

fn stop(place: &mut Place, bus: &Shared, daemon: Program) -> Result<()> {
    place.note_memory();
    daemon.finish()?;
    Ok(bus.remove()?)
}

fn publisher_on(bus: &Shared) -> Result<(Publisher, Topic)> {
    let mut publisher = bus.publisher(SERVICE)?;
    let topic = publisher.topic(TOPIC)?;
    Ok((publisher, topic))
}

/// Publishes all of them, and waits until they are in the files.
fn publish(publisher: &mut Publisher, topic: Topic, lines: &mut Lines) -> Result<()> {
    while let Some(message) = lines.next_message() {
        publisher.publish(topic, Level::Info, message)?;
    }
    Ok(publisher.flush(Guarantee::Written, None)?)
}

fn read(logs: &Path, check: &mut Check) -> Result<()> {
    let reader = Reader::open(logs)?;
    let report = reader.run(&Query::new().service(SERVICE), &mut |hit| {
        check.line(hit.message);
        ControlFlow::Continue(())
    })?;
    match report.damage.first() {
        Some(damage) => Err(format!("the log is damaged: {damage:?}").into()),
        None => Ok(()),
    }
}

/// The other processes of these rounds: `daemon BUS LOGS SYNC`, `publisher BUS FIRST END`.
///
/// # Errors
/// What went wrong.
pub fn run_role(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["daemon", bus, logs, sync] => daemon(bus, Path::new(logs), sync),
        ["publisher", bus, first, end] => {
            let (mut publisher, topic) = publisher_on(&Shared::open(bus)?)?;
            let mut lines = Lines::new(first.parse()?, end.parse()?);
            println!("ready");
            wait_for_end_of_input()?;
            publish(&mut publisher, topic, &mut lines)?;
            println!("written");
            Ok(())
        }
        _ => Err(format!("no such role: {}", args.join(" ")).into()),
    }
}

fn daemon(bus: &str, logs: &Path, sync: &str) -> Result<()> {
    let bus = Shared::open(bus)?;
    let policy = Policy {
        sync: match sync {
            "always" => SyncPolicy::Always,
            _ => SyncPolicy::default(),
        },
        // A comparison of any size: nothing is removed.
        total_bytes_limit: None,
        ..Policy::default()
    };
    let running = Daemon::builder(&bus, logs).policy(policy).spawn()?;
    println!("ready");
    wait_for_end_of_input()?;
    running.stop()?;
    Ok(())
}

/// Whoever started us closes our input when we may go on.
fn wait_for_end_of_input() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
