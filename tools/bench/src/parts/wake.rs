//! How long until a receiver has an event: one that sleeps, and one that polls.
//!
//! Sender and receiver are two processes, those of the bare futex and the bare cache line two threads. All of them compare
//! stamps of one bus's clock, read on two cores: some tens of ns are in every figure.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Class, Clock, Event, Rule};
use millpond_loadgen::{Arguments, Error, Process, Talk};
use rustix::fs::{CWD, Mode};
use serde::{Deserialize, Serialize};

use super::bare;
use super::bus::{
    LIMIT, Meter, OwnBus, OwnDaemon, PAYLOAD, PAYLOAD_BYTES, Publishing, case, floor, round_of,
    rule, subscribe,
};
use super::place::{Pinned, two_cores};
use super::ring::polled_line;
use crate::plan::{Case, Options, Part, Size};
use crate::row::{Figure, Guarantees, LatencyNs, Round};
use crate::usage::Usage;

const PART: Part = Part::Wake;
/// A sleeping receiver gets this many events first, which do not count.
pub(super) const WARM: u64 = 20;
/// Between two events.
pub(super) const PACE: Duration = Duration::from_millis(1);
const NO_CORES: &str = "there is only one core";

/// How events reach a receiver that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Futex,
    Pipe,
    Socket,
    Alone,
    Daemon,
}

impl Way {
    const ALL: [Way; 5] = [Way::Alone, Way::Daemon, Way::Futex, Way::Pipe, Way::Socket];

    fn peer(self) -> &'static str {
        match self {
            Way::Futex => "bare futex, threads",
            Way::Pipe => "pipe",
            Way::Socket => "unix stream socket",
            Way::Alone => "millpond, no daemon",
            Way::Daemon => "millpond, a daemon beside",
        }
    }
}

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let cores = two_cores()?;
    let mut cases = Vec::new();
    for is_pinned in [true, false] {
        let place = match is_pinned {
            true => "a core for each",
            false => "left to the scheduler",
        };
        let work = format!("64 B to a process that sleeps, 1,000 events/s, {place}");
        for way in Way::ALL {
            let mut case = asleep(options, way, &work, cores.filter(|_| is_pinned));
            if is_pinned && cores.is_none() {
                case.row.skipped = Some(NO_CORES.to_owned());
            }
            cases.push(case);
        }
    }
    let work = "64 B to and fro, one way, both poll, a core for each";
    let shared = options.clone();
    let mut polling = case(PART, work, "millpond", Figure::Latency, move || {
        let cores = cores.ok_or_else(|| Error::new(NO_CORES))?;
        polled(&shared, cores)
    });
    polling.row.skipped = cores.is_none().then(|| NO_CORES.to_owned());
    cases.push(polling);
    cases.push(polled_line(options, PART, work)?);
    Ok(cases)
}

/// A receiver that sleeps; with two cores sender and receiver are kept on one each.
fn asleep(options: &Options, way: Way, work: &str, cores: Option<[usize; 2]>) -> Case {
    let options = options.clone();
    let count = match options.size {
        Size::Tiny => 30,
        Size::Full => 1000,
    };
    if way == Way::Futex {
        return floor(PART, work, way.peer(), Figure::Latency, move || {
            let meter = Meter::start()?;
            let started = Instant::now();
            let times_ns = bare::futex_wake(count, OwnBus::clocks()?, cores)?;
            let round = round_of(count + WARM, started.elapsed(), meter.used()?);
            Ok(Round {
                latency_ns: Some(LatencyNs::of(times_ns)),
                ..round
            })
        });
    }
    let round = move || match way {
        Way::Pipe | Way::Socket => through_kernel(&options, way, count, cores),
        _ => published(&options, way, count, cores),
    };
    match way {
        Way::Pipe | Way::Socket => {
            // Theirs is the kernel's version, but they are something that one could use.
            let mut case = floor(PART, work, way.peer(), Figure::Latency, round);
            case.row.is_floor = false;
            case.row.guarantees = Guarantees {
                crash_safe: true,
                ..case.row.guarantees
            };
            case
        }
        _ => case(PART, work, way.peer(), Figure::Latency, round),
    }
}

/// Without a consumer nobody releases: all events of a round must fit.
fn roomy(pattern: &str) -> Result<Rule, Error> {
    Ok(Rule {
        lane_bytes: 16 << 20,
        ..rule(pattern, Class::Passthrough)?
    })
}

/// What a receiver's process leaves.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    latency_ns: LatencyNs,
    usage: Usage,
}

/// Sends through a pipe or a socket.
fn through_kernel(
    options: &Options,
    way: Way,
    count: u64,
    cores: Option<[usize; 2]>,
) -> Result<Round, Error> {
    let bus = OwnBus::with_rules("wake", vec![roomy("ping:*")?])?;
    let clock = bus.clock();
    let dir = options.new_dir()?;
    let path = dir.path().join("way");
    if way == Way::Pipe {
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).map_err(std::io::Error::from)?;
    }
    let mut receiver = start_receiver(options, way, count, &bus, &path, cores)?;
    let mut sender: Box<dyn Write> = match way {
        // Open for both, so that it does not wait for a receiver that may have failed.
        Way::Pipe => Box::new(File::options().read(true).write(true).open(&path)?),
        _ => Box::new(UnixStream::connect(&path)?),
    };
    receiver.say("go")?;
    let mut payload = PAYLOAD;
    let round = paced(count, cores, || {
        payload[..8].copy_from_slice(&clock.now_ns().to_le_bytes());
        Ok(sender.write_all(&payload)?)
    })?;
    received(round, receiver)
}

/// Publishes to a subscriber of a passthrough rule.
fn published(
    options: &Options,
    way: Way,
    count: u64,
    cores: Option<[usize; 2]>,
) -> Result<Round, Error> {
    let bus = OwnBus::with_rules("wake", vec![roomy("ping:*")?])?;
    let mut daemon = match way {
        Way::Daemon => Some(OwnDaemon::start(options, &bus)?),
        _ => None,
    };
    // A lane that is there before the subscriber is the usual case.
    let mut publishing = Publishing::new(&bus, "bench", "ping:wake")?;
    let mut receiver = start_receiver(options, way, count, &bus, Path::new(""), cores)?;
    let before = daemon.as_mut().map(OwnDaemon::usage).transpose()?;
    receiver.say("go")?;
    let round = paced(count, cores, || publishing.publish(1, 1, &PAYLOAD))?;
    let mut round = received(round, receiver)?;
    if let (Some(mut daemon), Some(before)) = (daemon, before) {
        let used = daemon.usage()?.since(before);
        round.cpu_seconds += used.cpu_seconds();
        round.memory_bytes = round.memory_bytes.map(|bytes| bytes + used.memory_bytes);
        daemon.stop()?;
    }
    Ok(round)
}

/// Sends, one each millisecond.
fn paced(
    count: u64,
    cores: Option<[usize; 2]>,
    mut send: impl FnMut() -> Result<(), Error>,
) -> Result<Round, Error> {
    let meter = Meter::start()?;
    let _pinned = cores.map(|cores| Pinned::to(cores[0])).transpose()?;
    let started = Instant::now();
    for _ in 0..count + WARM {
        std::thread::sleep(PACE);
        send()?;
    }
    Ok(round_of(count + WARM, started.elapsed(), meter.used()?))
}

/// The sender's round, with what the receiver saw.
fn received(round: Round, receiver: Process) -> Result<Round, Error> {
    let seen: Seen = receiver.result(LIMIT)?;
    Ok(Round {
        latency_ns: Some(seen.latency_ns),
        cpu_seconds: round.cpu_seconds + seen.usage.cpu_seconds(),
        memory_bytes: round
            .memory_bytes
            .map(|bytes| bytes + seen.usage.memory_bytes),
        ..round
    })
}

fn start_receiver(
    options: &Options,
    way: Way,
    count: u64,
    bus: &Bus,
    path: &Path,
    cores: Option<[usize; 2]>,
) -> Result<Process, Error> {
    let how = match way {
        Way::Pipe => "pipe",
        Way::Socket => "socket",
        _ => "bus",
    };
    options.host()?.start(
        "bus-sleeper",
        &[
            ("how", &how),
            ("count", &count),
            ("bus", &bus.name()),
            ("path", &path.display()),
            ("core", &core_text(cores)),
        ],
    )
}

/// The receiver's core as an argument: empty leaves it to the scheduler.
fn core_text(cores: Option<[usize; 2]>) -> String {
    cores.map_or_else(String::new, |cores| cores[1].to_string())
}

fn pinned(arguments: &Arguments<'_>) -> Result<Option<Pinned>, Error> {
    match arguments.text("core")? {
        "" => Ok(None),
        _ => arguments.get("core").and_then(Pinned::to).map(Some),
    }
}

/// How long each event was under way.
struct Times {
    all_ns: Vec<u64>,
    total: u64,
}

impl Times {
    fn new(total: u64) -> Self {
        Times {
            all_ns: Vec::with_capacity(total as usize),
            total,
        }
    }

    fn is_full(&self) -> bool {
        self.all_ns.len() as u64 >= self.total
    }

    fn add(&mut self, clock: &Clock, stamp_ns: u64) {
        self.all_ns.push(clock.now_ns().saturating_sub(stamp_ns));
    }

    /// What was seen, without the first `warm`.
    fn seen(mut self, warm: u64, meter: &Meter) -> Result<Seen, Error> {
        self.all_ns.drain(..warm as usize);
        Ok(Seen {
            latency_ns: LatencyNs::of(self.all_ns),
            usage: meter.used()?,
        })
    }
}

/// `how=pipe|socket|bus count=N bus=NAME path=PATH core=N|`: sleeps until an event comes, for all of them.
pub(super) fn sleeper_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let _pinned = pinned(arguments)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let clock = bus.clock();
    let path = arguments.text("path")?;
    let mut times = Times::new(arguments.get::<u64>("count")? + WARM);
    let meter = match arguments.text("how")? {
        "pipe" => {
            // Open for both: it neither waits for the sender nor sees an end before it.
            let mut pipe = File::options().read(true).write(true).open(path)?;
            talk.ready()?;
            let meter = Meter::start()?;
            read_stamps(&mut pipe, &clock, &mut times)?;
            meter
        }
        "socket" => {
            let listener = UnixListener::bind(path)?;
            talk.ready()?;
            let meter = Meter::start()?;
            let (mut stream, _) = listener.accept()?;
            read_stamps(&mut stream, &clock, &mut times)?;
            meter
        }
        _ => {
            let mut subscription = subscribe(&bus, "ping:*", false)?;
            talk.ready()?;
            let meter = Meter::start()?;
            while !times.is_full() {
                let mut take = |event: &Event<'_>| times.add(&clock, event.time_ns);
                // Whoever sends ends this process when no more come.
                subscription.run(&mut take, None)?;
            }
            meter
        }
    };
    talk.say(&times.seen(WARM, &meter)?)
}

fn read_stamps(from: &mut impl Read, clock: &Clock, times: &mut Times) -> Result<(), Error> {
    let mut payload = [0; PAYLOAD_BYTES];
    while !times.is_full() {
        from.read_exact(&mut payload)?;
        let (stamp, rest) = payload.split_at(8);
        black_box(rest);
        let stamp = stamp.try_into().map(u64::from_le_bytes);
        times.add(clock, stamp.unwrap_or_default());
    }
    Ok(())
}

/// To and fro between two processes that poll.
fn polled(options: &Options, cores: [usize; 2]) -> Result<Round, Error> {
    let count = options.events(50_000);
    let bus = OwnBus::with_rules("poll", vec![roomy("ping:*")?, roomy("pong:*")?])?;
    let mut publishing = Publishing::new(&bus, "bench", "ping:poll")?;
    let mut replies = subscribe(&bus, "pong:*", true)?;
    let arguments: [(&str, &dyn std::fmt::Display); 3] = [
        ("bus", &bus.name()),
        ("count", &count),
        ("core", &core_text(Some(cores))),
    ];
    let mut receiver = options.host()?.start("bus-echo", &arguments)?;
    receiver.say("go")?;
    let meter = Meter::start()?;
    let pinned = Pinned::to(cores[0])?;
    let started = Instant::now();
    for _ in 0..count {
        publishing.publish(1, 1, &PAYLOAD)?;
        let came = replies.run(&mut |_: &Event<'_>| {}, Some(LIMIT))?;
        if came != 1 {
            return Err(Error::new(format!("{came} replies came to one event")));
        }
    }
    let round = round_of(count, started.elapsed(), meter.used()?);
    drop(pinned);
    received(round, receiver)
}

/// `bus=NAME count=N core=N`: answers each event.
pub(super) fn echo_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let _pinned = pinned(arguments)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let clock = bus.clock();
    let mut times = Times::new(arguments.get("count")?);
    let mut publishing = Publishing::new(&bus, "echo", "pong:poll")?;
    let mut subscription = subscribe(&bus, "ping:*", true)?;
    talk.ready()?;
    let meter = Meter::start()?;
    while !times.is_full() {
        let mut take = |event: &Event<'_>| times.add(&clock, event.time_ns);
        // No limit, which would have it read a clock while it polls: whoever sends ends this process when no more come.
        subscription.run(&mut take, None)?;
        publishing.publish(1, 1, &PAYLOAD)?;
    }
    let warm = times.total / 10;
    talk.say(&times.seen(warm, &meter)?)
}
