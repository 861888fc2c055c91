//! Lines from processes into indexed files, and lines that are on the disk before the next one.
//!
//! All messages have numbers. Every round reads its files back, and fails where a line is missing, changed, out of order or
//! there twice. A floor writes lines of the same length to one file and adds nothing to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use millpond_bus::{Bus, Guarantee, Level, Publisher, Topic};
use millpond_loadgen::{Arguments, Error, Process, Talk, monotonic_ns, used_bytes};
use millpond_logfile::{Level as LineLevel, LineWriter, Query, Reader, Source};
use serde::{Deserialize, Serialize};

use crate::parts::log_stage::{Backend, LIMIT, LogStage, lossless};
use crate::plan::{Case, Options, Size};
use crate::row::{Figure, Guarantees, LatencyNs, Round, Row, Varied};
use crate::usage::Usage;

/// With time, level, source and newline a line of 128 bytes.
const MESSAGE_BYTES: usize = 86;
const LINE_BYTES: usize = 128;
const NUMBER_BYTES: usize = 10;
const LINES: u64 = 2_000_000;
const GROWTH_LINES: u64 = 1_000_000;
const DURABLE_LINES: u64 = 200;
const SERVICES: u64 = 8;
/// A service has so many lines in a row before the next one has.
const RUN_LINES: u64 = 64;
/// One write of the floor that writes in large pieces.
const PIECE_BYTES: usize = 256 << 10;

/// What publishers are given.
#[derive(Debug, Clone, Copy)]
struct Load {
    lines: u64,
    services: u64,
    publishers: u64,
    run_lines: u64,
}

impl Load {
    fn service_of(&self, number: u64) -> u64 {
        number / self.run_lines % self.services
    }

    /// Numbers of a publisher's lines, in order.
    fn share(&self, publisher: u64) -> std::ops::Range<u64> {
        publisher * self.lines / self.publishers..(publisher + 1) * self.lines / self.publishers
    }
}

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let ways = [Backend::Uring, Backend::Pwrite];
    let mut missing = BTreeMap::new();
    for backend in ways {
        missing.insert(backend.name(), backend.missing(options)?);
    }
    let millpond = |row: Row, backend: Backend, round| Case {
        row: Row {
            skipped: missing[backend.name()].clone(),
            ..row
        },
        round,
    };
    let mut cases = Vec::new();
    let lines = options.events(LINES);
    let work = format!("{lines} lines of {LINE_BYTES} B, {SERVICES} services");
    for publishers in [1, 4] {
        for backend in ways {
            let load = Load {
                lines,
                services: SERVICES,
                publishers,
                run_lines: RUN_LINES,
            };
            let peer = match publishers {
                1 => format!("millpond, {}", backend.name()),
                count => format!("millpond, {}, {count} publishers", backend.name()),
            };
            let row = Row::of_millpond("sink", &work, &peer, Figure::Rate, promised(false));
            cases.push(millpond(row, backend, publish(options, load, backend)));
        }
    }
    for floor in [Floor::Buffered, Floor::Pieces] {
        let row = Row::of_floor("sink", &work, floor.name(), Figure::Rate, floor.promised());
        let round = write_plainly(options, floor, lines);
        cases.push(Case { row, round });
    }
    let lines = options.events(DURABLE_LINES);
    let work = format!("{lines} lines of {LINE_BYTES} B, each on the disk before the next");
    for backend in ways {
        let peer = format!("millpond, {}", backend.name());
        let row = Row::of_millpond("durable", &work, &peer, Figure::Latency, promised(true));
        cases.push(millpond(
            row,
            backend,
            publish_durably(options, lines, backend),
        ));
    }
    let floor = Floor::Synced;
    let row = Row::of_floor(
        "durable",
        &work,
        floor.name(),
        Figure::Latency,
        floor.promised(),
    );
    let round = write_plainly(options, floor, lines);
    cases.push(Case { row, round });
    if options.growth {
        let lines = options.events(GROWTH_LINES);
        let most: &[u64] = match options.size {
            Size::Tiny => &[1, 10, 100],
            Size::Full => &[1, 10, 100, 1000],
        };
        let work =
            format!("{lines} lines of {LINE_BYTES} B, each to another service than the one before");
        for (&services, backend) in most.iter().flat_map(|count| ways.map(|way| (count, way))) {
            let load = Load {
                lines,
                services,
                publishers: 1,
                run_lines: 1,
            };
            let peer = format!("millpond, {}", backend.name());
            let row = Row {
                varied: Some(Varied {
                    name: "services".to_owned(),
                    value: services,
                }),
                ..Row::of_millpond("sink", &work, &peer, Figure::Rate, promised(false))
            };
            cases.push(millpond(row, backend, publish(options, load, backend)));
        }
    }
    Ok(cases)
}

fn promised(is_durable: bool) -> Guarantees {
    Guarantees {
        bounded: true,
        blocking: true,
        lossy: false,
        crash_safe: true,
        durable: is_durable,
    }
}

// ---------------------------------------------------------------------------------------------- millpond

type RoundOf = Box<dyn FnMut() -> Result<Round, Error>>;

/// What a publisher says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    /// When its last line was written, or durable; of the clock that all processes share.
    end_ns: u64,
    /// Since it was told to begin.
    used: Usage,
    latency_ns: Option<LatencyNs>,
}

/// As fast as they go, until a reader of the files finds the last of them.
fn publish(options: &Options, load: Load, backend: Backend) -> RoundOf {
    let options = options.clone();
    Box::new(move || play(&options, load, backend, false))
}

/// One by one.
fn publish_durably(options: &Options, lines: u64, backend: Backend) -> RoundOf {
    let options = options.clone();
    let load = Load {
        lines,
        services: 1,
        publishers: 1,
        run_lines: 1,
    };
    Box::new(move || play(&options, load, backend, true))
}

fn play(options: &Options, load: Load, backend: Backend, is_durable: bool) -> Result<Round, Error> {
    let mut stage = LogStage::start(options, "sink", &lossless()?, backend, is_durable)?;
    let host = options.host()?;
    let mut publishers: Vec<Process> = (0..load.publishers)
        .map(|number| {
            let share = load.share(number);
            host.start(
                "sink-publisher",
                &[
                    ("bus", &stage.bus().name()),
                    ("first", &share.start),
                    ("end", &share.end),
                    ("services", &load.services),
                    ("run", &load.run_lines),
                    ("durable", &is_durable),
                ],
            )
        })
        .collect::<Result<_, _>>()?;
    let before = stage.usage()?;
    let started_ns = monotonic_ns();
    for publisher in &mut publishers {
        publisher.say("go")?;
    }
    let said: Vec<Published> = publishers
        .into_iter()
        .map(|publisher| publisher.result(LIMIT))
        .collect::<Result<_, _>>()?;
    let daemon = stage.usage()?.since(before);
    stage.stop()?;
    let disk_bytes = used_bytes(stage.logs())?;
    check(stage.logs(), &load)?;
    let end_ns = said
        .iter()
        .map(|said| said.end_ns)
        .max()
        .unwrap_or_default();
    let used: Usage = said.iter().map(|said| said.used).chain([daemon]).sum();
    Ok(Round {
        events: load.lines,
        seconds: end_ns.saturating_sub(started_ns) as f64 / 1e9,
        latency_ns: said.first().and_then(|said| said.latency_ns),
        cpu_seconds: used.cpu_seconds(),
        memory_bytes: Some(used.memory_bytes),
        disk_bytes: Some(disk_bytes),
        // A publisher that is told of a drop fails, and so does a line that is not in the files.
        lost: 0,
    })
}

fn service_name(service: u64) -> String {
    format!("s{service}")
}

/// `bus=NAME first=N end=N services=N run=N durable=BOOL`.
pub(super) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let numbers = arguments.get("first")?..arguments.get::<u64>("end")?;
    let load = Load {
        lines: numbers.end,
        services: arguments.get("services")?,
        publishers: 1,
        run_lines: arguments.get("run")?,
    };
    let is_durable: bool = arguments.get("durable")?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let mut publisher = bus.publisher(&format!("bench-{}", numbers.start))?;
    let mut topics = Vec::new();
    for service in 0..load.services {
        let topic = publisher.topic(&format!("log:{}:out", service_name(service)))?;
        // A directory is made once in the life of a service: not part of what a line costs.
        publisher.publish(topic, Level::Info, &opening(numbers.start))?;
        topics.push(topic);
    }
    publisher.flush(Guarantee::Written, None)?;
    talk.ready()?;
    let before = Usage::own()?;
    let mut message = message(numbers.start);
    let mut times_ns = Vec::new();
    for number in numbers {
        let topic = topics[load.service_of(number) as usize];
        match is_durable {
            true => times_ns.push(publish_one(&mut publisher, topic, &message)?),
            false => drop(publisher.publish(topic, Level::Info, &message)?),
        }
        grow(&mut message);
    }
    publisher.flush(Guarantee::Written, None)?;
    let end_ns = monotonic_ns();
    talk.say(&Published {
        end_ns,
        used: Usage::own()?.since(before),
        latency_ns: is_durable.then(|| LatencyNs::of(times_ns)),
    })
}

/// Until it is on the disk.
fn publish_one(publisher: &mut Publisher, topic: Topic, message: &[u8]) -> Result<u64, Error> {
    let started = Instant::now();
    publisher.publish(topic, Level::Info, message)?;
    publisher.flush(Guarantee::Durable, None)?;
    Ok(started.elapsed().as_nanos() as u64)
}

// ---------------------------------------------------------------------------------------------- the lines

/// How the first line of a service from each publisher begins, which is no part of the load.
const OPENING: &[u8] = b"here begins ";
/// What a message is but for its number.
const FILLER: [u8; MESSAGE_BYTES - NUMBER_BYTES] = [b'm'; MESSAGE_BYTES - NUMBER_BYTES];

/// No two publishers have the same: the log would have one line of them, and a count.
fn opening(first: u64) -> Vec<u8> {
    [OPENING, first.to_string().as_bytes()].concat()
}

fn message(number: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[NUMBER_BYTES..].copy_from_slice(&FILLER);
    message[..NUMBER_BYTES].copy_from_slice(format!("{number:0NUMBER_BYTES$}").as_bytes());
    message
}

/// The message after this one: most change one digit, and making them is not what is measured.
fn grow(message: &mut [u8; MESSAGE_BYTES]) {
    for digit in message[..NUMBER_BYTES].iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

/// Reads all services, and refuses what is not the load: each line once, whole, in its service and in the order of its
/// publisher.
fn check(logs: &Path, load: &Load) -> Result<(), Error> {
    let reader = Reader::open(logs)?;
    let (mut found, mut opened) = (0, 0);
    for service in 0..load.services {
        let name = service_name(service);
        // The next number that each publisher may have here.
        let mut least: Vec<u64> = (0..load.publishers)
            .map(|one| load.share(one).start)
            .collect();
        let mut wrong = None;
        let report = reader.run(&Query::new().service(&name), &mut |hit| {
            if hit.message.starts_with(OPENING) {
                opened += 1;
                return ControlFlow::Continue(());
            }
            match accept(hit.message, service, load, &mut least) {
                true => found += 1,
                false => wrong = Some(String::from_utf8_lossy(hit.line).trim_end().to_owned()),
            }
            match wrong {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        })?;
        if let Some(line) = wrong {
            return Err(Error::new(format!(
                "{name}: a line that is changed, there twice, or not in order: {line}"
            )));
        }
        if let Some(damage) = report.damage.first() {
            return Err(Error::new(format!("{name}: damage: {damage:?}")));
        }
    }
    let (wanted, openings) = (load.lines, load.services * load.publishers);
    if (found, opened) != (wanted, openings) {
        return Err(Error::new(format!(
            "{found} of {wanted} lines and {opened} of {openings} opening ones are in the files, and no publisher was \
             told of a loss"
        )));
    }
    Ok(())
}

/// Whether this is a line of the load that may come next in its service.
fn accept(line: &[u8], service: u64, load: &Load, least: &mut [u64]) -> bool {
    let Some((digits, rest)) = line.split_at_checked(NUMBER_BYTES) else {
        return false;
    };
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    let Ok(number) = digits.parse::<u64>() else {
        return false;
    };
    let publisher = (0..load.publishers).find(|&one| load.share(one).contains(&number));
    let Some(least) = publisher.and_then(|publisher| least.get_mut(publisher as usize)) else {
        return false;
    };
    let is_next = number >= *least && load.service_of(number) == service;
    *least = number + 1;
    is_next && rest == FILLER
}

// ---------------------------------------------------------------------------------------------- floors

/// Somebody who writes and does nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    Buffered,
    Pieces,
    Synced,
}

impl Floor {
    const ALL: [Floor; 3] = [Floor::Buffered, Floor::Pieces, Floor::Synced];

    fn name(self) -> &'static str {
        match self {
            Floor::Buffered => "BufWriter, by lines",
            Floor::Pieces => "write, 256 KiB at a time",
            Floor::Synced => "write and fdatasync",
        }
    }

    fn promised(self) -> Guarantees {
        Guarantees {
            crash_safe: self != Floor::Buffered,
            ..promised(self == Floor::Synced)
        }
    }
}

/// What it says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    elapsed_ns: u64,
    used: Usage,
    latency_ns: Option<LatencyNs>,
}

fn write_plainly(options: &Options, floor: Floor, lines: u64) -> RoundOf {
    let options = options.clone();
    Box::new(move || {
        let dir = options.new_dir()?;
        let mut writer = options.host()?.start(
            "sink-floor",
            &[
                ("how", &floor.name()),
                ("file", &dir.path().join("lines").display()),
                ("lines", &lines),
            ],
        )?;
        writer.say("go")?;
        let said: Written = writer.result(LIMIT)?;
        Ok(Round {
            events: lines,
            seconds: said.elapsed_ns as f64 / 1e9,
            latency_ns: said.latency_ns,
            cpu_seconds: said.used.cpu_seconds(),
            memory_bytes: Some(said.used.memory_bytes),
            disk_bytes: Some(used_bytes(dir.path())?),
            lost: 0,
        })
    })
}

/// `how=FLOOR file=PATH lines=N`.
pub(super) fn floor_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let how = arguments.text("how")?;
    let floor = Floor::ALL.into_iter().find(|floor| floor.name() == how);
    let floor = floor.ok_or_else(|| Error::new(format!("there is no floor {how:?}")))?;
    let lines: u64 = arguments.get("lines")?;
    let mut text = Vec::new();
    let (mut writer, source) = (LineWriter::new(), Source::new("out"));
    for number in 0..PIECE_BYTES / LINE_BYTES {
        let time_ns = 1_795_224_593_000_000_000 + number as u64 * 137;
        writer.write(
            &mut text,
            time_ns,
            LineLevel::Info,
            &source,
            &message(number as u64),
        );
    }
    let path = Path::new(arguments.text("file")?);
    let mut file = File::create(path)?;
    // Its name is on the disk before its first line is.
    File::open(path.parent().unwrap_or(path))?.sync_all()?;
    talk.ready()?;
    let before = Usage::own()?;
    let started = Instant::now();
    let mut each = text.chunks_exact(LINE_BYTES).cycle().take(lines as usize);
    let mut times_ns = Vec::new();
    match floor {
        Floor::Buffered => {
            let mut out = BufWriter::new(file);
            each.try_for_each(|line| out.write_all(line))?;
            out.flush()?;
        }
        Floor::Pieces => {
            let mut left = lines as usize * LINE_BYTES;
            while left > 0 {
                let piece = &text[..left.min(text.len())];
                file.write_all(piece)?;
                left -= piece.len();
            }
        }
        Floor::Synced => {
            for line in each {
                let started = Instant::now();
                file.write_all(line)?;
                file.sync_data()?;
                times_ns.push(started.elapsed().as_nanos() as u64);
            }
        }
    }
    talk.say(&Written {
        elapsed_ns: started.elapsed().as_nanos() as u64,
        used: Usage::own()?.since(before),
        latency_ns: (floor == Floor::Synced).then(|| LatencyNs::of(times_ns)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_logfile::{BlockWriter, SegmentId};

    const LOAD: Load = Load {
        lines: 8,
        services: 2,
        publishers: 2,
        run_lines: 1,
    };

    /// Of two services.
    type Messages = [Vec<Vec<u8>>; 2];

    /// The log of `LOAD` as `change` leaves it, given the messages of each service.
    fn checked(change: impl Fn(&mut Messages)) -> Result<(), Error> {
        let place = tempfile::tempdir().expect("a place for the log");
        let mut services = [0, 1].map(|service| {
            let mut lines = vec![opening(0), opening(4)];
            let numbers = (0..LOAD.lines).filter(|&number| LOAD.service_of(number) == service);
            lines.extend(numbers.map(|number| message(number).to_vec()));
            lines
        });
        change(&mut services);
        for (service, lines) in (0..).zip(services) {
            let dir = place.path().join(service_name(service));
            std::fs::create_dir(&dir).expect("a new directory");
            let (mut text, mut block) = (Vec::new(), BlockWriter::new());
            for (at, line) in (0..).zip(lines) {
                block.append(
                    &mut text,
                    1000 + at,
                    LineLevel::Info,
                    &Source::new("out"),
                    &line,
                );
            }
            std::fs::write(SegmentId::from_ns(1000).log_path(&dir), text).expect("room for it");
        }
        check(place.path(), &LOAD)
    }

    #[test]
    fn a_whole_log_is_accepted_and_every_fault_is_found() {
        checked(|_| {}).expect("nothing is wrong with it");
        let fault = |change: &dyn Fn(&mut Messages)| {
            checked(change).expect_err("something is wrong").to_string()
        };
        let missing = fault(&|services| drop(services[1].pop()));
        assert!(missing.contains("7 of 8 lines"), "{missing}");
        let opening = fault(&|services| drop(services[0].remove(0)));
        assert!(opening.contains("3 of 4 opening"), "{opening}");
        let others: [&dyn Fn(&mut Messages); 4] = [
            &|services| services[0].swap(2, 3),
            &|services| services[0].push(message(6).to_vec()),
            &|services| services[1].push(message(6).to_vec()),
            &|services| services[1][4][MESSAGE_BYTES - 1] ^= 1,
        ];
        for change in others {
            let told = fault(change);
            assert!(
                told.contains("changed, there twice, or not in order"),
                "{told}"
            );
        }
    }

    #[test]
    fn messages_grow_as_numbers_do() {
        let mut grown = message(0);
        for number in 0..2000 {
            assert_eq!(grown, message(number));
            grow(&mut grown);
        }
    }

    #[test]
    fn publishers_share_all_lines() {
        let load = Load {
            lines: 10,
            publishers: 3,
            ..LOAD
        };
        let all: Vec<u64> = (0..3).flat_map(|publisher| load.share(publisher)).collect();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
