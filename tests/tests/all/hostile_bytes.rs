//! Any bytes where bytes of others are read. The bodies are in `millpond_tests::fuzz_targets`, each with what it
//! promises; `cargo xtask fuzz` runs the same ones under libFuzzer.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use millpond_bus::Bus;
use millpond_logfile::{SegmentId, list_segments, list_services};
use millpond_tests::fuzz_targets::TARGETS;
use millpond_tests::{Mutator, Random, Watchdog, setting};

use crate::support::{Found, Place, Process, Published, Runs, segment_text, wait_until};

/// Seeds, mutated and random inputs for each target.
fn play(name: &str) {
    let target = (TARGETS.iter())
        .find(|target| target.name == name)
        .expect("a target");
    let seconds = setting("MILLPOND_TEST_SECONDS", 2);
    let _watchdog = Watchdog::start(name, Duration::from_secs(300 + 2 * seconds));
    let mut mutator = Mutator::new(Random::seeded(), (target.seeds)());
    let runs = mutator.run_for(name, Duration::from_secs(seconds), target.run);
    eprintln!("{name}: {runs} inputs in {seconds} s");
}

#[test]
fn any_index() {
    play("index");
}

#[test]
fn any_segment() {
    play("segment");
}

#[test]
fn any_sealed_segment() {
    play("sealed");
}

#[test]
fn any_pattern() {
    play("pattern");
}

#[test]
fn any_schema() {
    play("schema");
}

#[test]
fn any_consolidated_record() {
    play("batch");
}

#[test]
fn any_terminal_output() {
    play("lines");
}

#[test]
fn any_cast() {
    play("cast");
}

#[test]
fn any_bytes_in_lanes_and_outboxes() {
    play("lane");
}

#[test]
fn any_bytes_in_the_control_segment() {
    play("control");
}

/// A part of the control segment, as `docs/formats/shm.md` has it.
struct Area {
    name: &'static str,
    from: u64,
    length: u64,
}

/// The parts up to the rules, where they lie for ever.
const FIXED: &[(&str, u64, u64)] = &[
    ("header", 0, 0x80),
    ("ready", 0x80, 0x80),
    ("doorbell", 0x100, 0x80),
    ("requests", 0x180, 0x80),
    ("consumer", 0x200, 0x80),
    ("calibration", 0x280, 0x180),
    ("texts", 0x400, 0x400),
    ("commit bell", 0x800, 0x80),
];
/// What follows from 0x1000 on, each at a page of its own: how many, and the bytes of one.
const TABLES: &[(&str, u64, u64)] = &[
    ("rules", 2 * 256, 352),
    ("directory", 1024, 8),
    ("names", 4096, 144),
    ("sources", 1024, 408),
    ("lane commits", 2 * 1024, 128),
    ("service commits", 2 * 1024, 256),
    ("schemas", 128, 4112),
    ("channels", 512, 144),
    ("bells", 512, 128),
    ("outboxes", 512, 8),
    ("subscribers", 256, 384),
    ("origins", 1024, 168),
    ("origins of sources", 1024, 168),
    ("figures", 1, 2432),
    ("disks of services", 1024, 64),
    ("history marks", 2048, 4),
    // What lies behind the first blocks of it is a hole: writing there would take memory of the host.
    ("history", 2, HISTORY_BLOCK_BYTES),
];
const HISTORY_BLOCK_BYTES: u64 = 28_672;

fn areas() -> Vec<Area> {
    let fixed = FIXED.iter();
    let fixed = fixed.map(|&(name, from, length)| Area { name, from, length });
    let mut areas: Vec<Area> = fixed.collect();
    let mut from = 0x1000;
    for &(name, count, each) in TABLES {
        let length = count * each;
        areas.push(Area { name, from, length });
        from = (from + length).next_multiple_of(0x1000);
    }
    areas
}

fn area(name: &str) -> Area {
    let mut all = areas().into_iter();
    all.find(|area| area.name == name).expect("an area")
}

fn control_of(place: &Place) -> File {
    let path = format!("/dev/shm/millpond.{}.control", place.name);
    let opened = File::options().read(true).write(true).open(path);
    let control = opened.expect("the control segment");
    // A table that is not as it was moves all that lies behind it.
    let segment_bytes = control.metadata().expect("its length").len();
    let expected_bytes = area("history").from + 2048 * HISTORY_BLOCK_BYTES;
    assert_eq!(segment_bytes, expected_bytes, "another layout: see TABLES");
    control
}

impl Area {
    /// Writes nonsense somewhere in it; mostly in front, where tables are in use.
    fn spoil(&self, control: &File, random: &mut Random) {
        const ODD: [u64; 6] = [0, 1, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX];
        let end = match random.below(2) {
            0 => self.length,
            _ => self.length.min(0x400),
        };
        let at = random.below(end);
        let bytes: Vec<u8> = match random.below(3) {
            0 => ODD[random.below(6) as usize].to_le_bytes().to_vec(),
            _ => (0..1 + random.below(64))
                .map(|_| random.below(256) as u8)
                .collect(),
        };
        let at = if bytes.len() == 8 { at & !7 } else { at };
        let length = bytes.len().min((self.length - at) as usize);
        control
            .write_all_at(&bytes[..length], self.from + at)
            .expect("within the segment");
    }
}

/// Service and number of a segment, and its text: in whichever form, since a segment is sealed when it is full.
type Texts = BTreeMap<(String, SegmentId), Vec<u8>>;

fn texts(logs: &Path) -> Texts {
    let mut texts = Texts::new();
    for service in list_services(logs).expect("services") {
        for id in list_segments(&logs.join(&service)).expect("segments") {
            let (_, text) = segment_text(&logs.join(&service), id).expect("a segment");
            texts.insert((service.clone(), id), text);
        }
    }
    texts
}

fn assert_kept(before: &Texts, logs: &Path, when: &str) {
    let now = texts(logs);
    for ((service, id), text) in before {
        let found = now.get(&(service.clone(), *id)).unwrap_or_else(|| {
            panic!("{when}: segment {id} of {service} is gone");
        });
        assert!(
            found.starts_with(text),
            "{when}: text of segment {id} of {service} changed"
        );
    }
}

/// Ended by itself, not by a signal and not by a panic.
fn assert_ended_well(what: &str, outcome: &(ExitStatus, Vec<String>)) {
    let code = outcome.0.code();
    assert!(matches!(code, Some(0 | 1)), "{what}: {outcome:?}");
}

/// Memory that a process holds now, in KiB; `None` where it has ended.
fn resident_kib(process: &Process) -> Option<u64> {
    let path = format!("/proc/{}/status", process.pid());
    let status = std::fs::read_to_string(path).expect("nobody has waited for it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Of the publishers that go on until they are told: one that runs as it can fills the disk of a test that hangs.
const RATE: &str = "rate=50000";

/// What is promised where a member of the bus writes anything anywhere in its control segment:
///
/// * Nobody panics, hangs, grows or is killed by it.
/// * What is in the log files stays there, also over a consumer that comes up on the damaged bus.
/// * While the consumer lives, events of the lanes that it has open reach the log, each once and in order,
///   whatever area is damaged. Where it cannot know its bus again it ends, in words, and what it has written until then
///   has no hole.
/// * One that comes up on the damaged bus runs, or says what is wrong; and a new bus of the same name is as any other.
fn nonsense_in_an_area(area: &Area, random: &mut Random, duration: Duration) {
    let place = Place::new("nonsense in the control segment", "peers");
    let mut daemon = place.daemon("auto", &[]);
    let calm = Published::of(
        place
            .publisher("calm", "log:web:calm", &["count=2000"])
            .finish(),
    );
    let before = texts(&place.logs());
    let busy = place.publisher("busy", "log:web:busy", &["size=100", RATE]);
    let mut source = place.source("source", "batch:load:x", &["rate=5000", "flush=0"]);
    let mut reader = place.subscriber("reader", "batch:*", &[]);
    wait_until(|| {
        let stats = place.bus.stats();
        let is_written = |label, count| {
            let mut of = stats.sources.iter().filter(|of| of.label == label);
            of.any(|of| of.delivered > count)
        };
        is_written("busy", 100) && is_written("source", 10)
    });
    let resident_before = resident_kib(&daemon).expect("it runs");
    let control = control_of(&place);
    let started = Instant::now();
    let mut writes = 0;
    while started.elapsed() < duration {
        for _ in 0..20 {
            area.spoil(&control, random);
            writes += 1;
        }
        // What looks at it from the side comes to its end as well.
        place.bus.stats();
        place.bus.history();
        let _ = Bus::open(&place.name).map(|bus| bus.stats());
        std::thread::sleep(random.millis(2));
    }
    let resident_now = resident_kib(&daemon);
    let grown_kib = resident_now.map_or(0, |now| now.saturating_sub(resident_before));
    assert!(grown_kib < 64 << 10, "{}: {grown_kib} KiB more", area.name);
    source.let_go();
    reader.let_go();
    // Their bus says nothing true any more; they end.
    assert_ended_well("a source", &source.end());
    assert_ended_well("a reader", &reader.end());
    // A consumer that has seen that this is not its bus any more has said so, and takes nothing from it.
    let has_left = daemon.has_ended();
    let busy = busy.end();
    let stopped = daemon.end();
    assert_ended_well("the daemon", &stopped);
    assert_kept(&before, &place.logs(), area.name);
    let found = Found::read(&place.logs());
    found.assert_orderly();
    let is_whole = |label, published: Published| {
        assert_eq!(published.dropped(), 0, "{}: {label}", area.name);
        let whole = Runs(vec![(0, published.published - 1)]);
        let runs = found.sequences.get(label);
        assert_eq!(runs, Some(&whole), "{}: {label}", area.name);
    };
    is_whole("calm", calm);
    if has_left {
        let last = stopped.1.last().cloned().unwrap_or_default();
        assert!(last.contains(&place.name), "{}: {last:?}", area.name);
        assert_ended_well("a publisher", &busy);
        let Runs(runs) = &found.sequences["busy"];
        assert!(matches!(runs[..], [(0, _)]), "{}: {runs:?}", area.name);
    } else {
        is_whole("busy", Published::of(busy));
    }
    let busy_events = found.sequences["busy"].count();
    let before = texts(&place.logs());

    let mut second = place.start_daemon("auto", &[]);
    let first_line = second.line_with("");
    assert!(
        first_line.starts_with("ready") || first_line.contains(&place.name),
        "{}: {first_line}",
        area.name
    );
    assert_ended_well("a second daemon", &second.end());
    assert_kept(&before, &place.logs(), area.name);

    for object in place.objects("") {
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(object));
    }
    let third = place.daemon("auto", &[]);
    let after = place.publisher("after", "log:web:after", &["count=1000"]);
    assert_eq!(Published::of(after.finish()).published, 1000);
    third.stop();
    assert_kept(&before, &place.logs(), area.name);
    let found = Found::read(&place.logs());
    let whole = Runs(vec![(0, 999)]);
    assert_eq!(found.sequences.get("after"), Some(&whole), "{}", area.name);
    eprintln!(
        "{}: {writes} writes beside {} events; then {first_line:?}",
        area.name, busy_events
    );
}

/// A few areas, or all of them again and again where there is time.
#[test]
fn nonsense_in_the_control_segment_of_a_running_bus() {
    let seconds = setting("MILLPOND_TEST_SECONDS", 2);
    let _watchdog = Watchdog::start(
        "nonsense in the control segment",
        Duration::from_secs(300 + 4 * seconds),
    );
    let mut random = Random::seeded();
    let started = Instant::now();
    let only = std::env::var("MILLPOND_TEST_AREA").ok();
    let areas = areas();
    let mut number = random.below(areas.len() as u64) as usize;
    let mut rounds = 0;
    while started.elapsed() < Duration::from_secs(2 * seconds) || rounds < 3 {
        let area = &areas[number % areas.len()];
        // Neighbours in the list are alike, so a short run takes big steps.
        number += 7;
        if only.as_deref().is_none_or(|only| only == area.name) {
            nonsense_in_an_area(area, &mut random, Duration::from_millis(200));
            rounds += 1;
        }
    }
}

const SERVICE_COMMITS: u64 = 0x16_5000;
const SERVICE_COMMIT_BANK: u64 = 0x4_0000;
const SERVICE_COMMIT: u64 = 256;

/// What is written to the slots of the commit point, in both banks.
type Nonsense = fn(&File, &mut Random);

fn in_both_banks(control: &File, at: u64, bytes: &[u8]) {
    for bank in 0..2 {
        let from = SERVICE_COMMITS + bank * SERVICE_COMMIT_BANK + at;
        control.write_all_at(bytes, from).expect("the commit point");
    }
}

const NONSENSE: [(&str, Nonsense); 6] = [
    ("segment 0", |control, _| {
        (0..3).for_each(|slot| in_both_banks(control, slot * SERVICE_COMMIT + 64, &[0; 8]));
    }),
    ("length 0", |control, _| {
        (0..3).for_each(|slot| in_both_banks(control, slot * SERVICE_COMMIT + 72, &[0; 8]));
    }),
    ("zeros", |control, _| in_both_banks(control, 0, &[0; 1024])),
    ("the first is gone", |control, _| {
        in_both_banks(control, 0, &[0; SERVICE_COMMIT as usize]);
    }),
    ("ones", |control, _| {
        in_both_banks(control, 64, &[0xff; 1024])
    }),
    ("anything", |control, random| {
        let slots = area("service commits");
        (0..200).for_each(|_| slots.spoil(control, random));
    }),
];

/// A member writes to the commit point while nobody looks, between a daemon that was killed and the next one: no text
/// that was committed goes, it is told, and what is published on is there once.
#[test]
fn nonsense_in_the_commit_point_of_a_killed_daemon_removes_no_text() {
    let mut random = Random::seeded();
    for (what, write) in NONSENSE {
        let place = Place::new("nonsense in the commit point", "peers");
        // Small segments, so that many are later than any that is named.
        let more = [
            "segment_bytes=65536",
            "group_bytes=65536",
            "seal=0",
            "tell=1",
        ];
        let daemon = place.daemon("auto", &more);
        for (label, count) in [("calm", "count=4000"), ("quiet", "count=10")] {
            let event = format!("log:{label}:{label}");
            let publisher = place.publisher(label, &event, &[count, "size=100"]);
            publisher.finish();
        }
        place.settled();
        daemon.kill();
        let before = texts(&place.logs());
        assert!(before.len() > 4, "{what}: {} segments", before.len());
        let control = control_of(&place);
        let mut name = [0; 4];
        control
            .read_exact_at(&mut name, SERVICE_COMMITS)
            .expect("a slot");
        assert_eq!(&name, b"calm", "the commit point is somewhere else");
        write(&control, &mut random);

        let mut second = place.daemon("auto", &more);
        assert_kept(&before, &place.logs(), what);
        if what != "anything" {
            let notice = second.line_with("twice");
            assert!(notice.contains("kept"), "{what}: {notice}");
        }
        let after = place.publisher("after", "log:calm:after", &["count=1000"]);
        assert_eq!(Published::of(after.finish()).published, 1000);
        second.stop();
        assert_kept(&before, &place.logs(), what);
        let found = Found::read(&place.logs());
        for (label, count) in [("calm", 4000), ("quiet", 10), ("after", 1000)] {
            // All of it was committed when the daemon was killed, so nothing is there twice.
            let whole = Runs(vec![(0, count - 1)]);
            assert_eq!(found.sequences.get(label), Some(&whole), "{what}: {label}");
        }
    }
}

/// A member of the bus enters the lane of another a second time: its events are still taken once.
#[test]
fn a_lane_that_stands_in_the_directory_twice_is_read_once() {
    let place = Place::new("a lane twice in the directory", "peers");
    let daemon = place.daemon("auto", &[]);
    let mut busy = place.publisher("busy", "log:web:busy", &["size=100", RATE]);
    wait_until(|| place.bus.stats().sources.iter().any(|of| of.written > 1000));
    let control = control_of(&place);
    let directory = area("directory");
    let mut words = vec![0; 64];
    control
        .read_exact_at(&mut words, directory.from)
        .expect("the directory");
    let word = *words.first_chunk::<8>().expect("64 bytes");
    assert_ne!(word, [0; 8], "its lane is in the first place");
    for place in 1..4 {
        control
            .write_all_at(&word, directory.from + 8 * place)
            .expect("the directory");
    }
    // A new publisher has the consumer look at the directory.
    let other = place.publisher("other", "log:web:other", &["count=100"]);
    assert_eq!(Published::of(other.finish()).published, 100);
    wait_until(|| {
        control
            .read_exact_at(&mut words, directory.from)
            .expect("the directory");
        words.chunks(8).filter(|found| *found == word).count() == 1
    });
    busy.let_go();
    let busy = Published::of(busy.end());
    daemon.stop();
    let counts = [("busy", busy.published), ("other", 100)];
    let counts = counts.map(|(label, count)| (label.to_owned(), count));
    Found::read(&place.logs()).assert_complete(&BTreeMap::from(counts));
}
