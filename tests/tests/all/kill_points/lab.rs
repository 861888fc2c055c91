//! The lab itself: who is killed where, under which load, and what must be true afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millpond_bus::{Bus, Level, SubscribeOptions};
use millpond_kill_points::LABELS;
use millpond_logfile::{list_segments, list_services, verify_segment};
use millpond_tests::{Random, setting};

use crate::peers::Report;
use crate::support::{
    Found, Place, Process, Published, assert_identity, outcomes_of, source, wait_until,
};

/// Passed while a consumer starts, before it says `ready`: at the first passing, or never in this process.
const AT_START: &[&str] = &[
    "open.lease",
    "open.directory_locked",
    "open.cleaned",
    "open.uncommitted_dropped",
    "recover.text_cut",
    "recover.index_written",
    "recover.index_replaced",
    "open.lane_adopted",
    "open.services_committed",
    "consumer.subscriber_freed",
];
/// Passed once in the life of a bus.
const FIRST_ON_A_BUS: &[&str] = &["consumer.outbox_object", "consumer.outbox_entered"];
const RETENTION: &[&str] = &["remove.file_gone", "remove.segment_gone"];
const CREATOR: &[&str] = &[
    "object.created",
    "creator.object_made",
    "creator.filled",
    "creator.ready",
];
/// Passed when the consumer takes other rules.
const RULES: &[&str] = &["rules.entry_written", "rules.in_force"];
const SUBSCRIBER: &[&str] = &[
    "subscriber.object",
    "subscriber.slot_taken",
    "subscriber.ready",
    "subscriber.parked",
    "subscriber.leaving",
];
/// Segments that rotate and are sealed all the time, and are large enough to get filters.
const SMALL_SEGMENTS: [&str; 2] = ["segment_bytes=131072", "group_bytes=65536"];
/// Lanes of dead publishers that may wait for a consumer.
const CHURN_LANES_MAX: usize = 40;

/// Labels of publishers, how often they are passed before the kill, and what is then committed.
struct PublisherPlay {
    label: &'static str,
    passings_max: u64,
    more: &'static [&'static str],
    committed: fn(u64) -> u64,
}

const fn publisher(
    label: &'static str,
    passings_max: u64,
    more: &'static [&'static str],
    committed: fn(u64) -> u64,
) -> PublisherPlay {
    PublisherPlay {
        label,
        passings_max,
        more,
        committed,
    }
}

const PUBLISHER: &[PublisherPlay] = &[
    publisher("object.created", 1, &[], |_| 0),
    publisher("publisher.lane_object", 1, &[], |_| 0),
    publisher("publisher.name_taken", 1, &[], |_| 0),
    publisher("publisher.lane_entered", 1, &[], |_| 0),
    publisher("publisher.lane_announced", 1, &[], |_| 0),
    publisher("publisher.claimed", 5000, &[], |passed| passed - 1),
    publisher("publisher.written", 5000, &[], |passed| passed - 1),
    publisher("publisher.tail_stored", 5000, &[], |passed| passed),
    publisher("publisher.committed", 5000, &[], |passed| passed),
    // So few that they fit in the lane: where it is full, a batch is committed in parts.
    publisher("publisher.committed", 100, &["batch=16"], |passed| {
        passed * 16
    }),
    publisher("publisher.woken", 5000, &[], |passed| passed),
    publisher("publisher.batch_staged", 1600, &["batch=16"], |passed| {
        (passed - 1) / 16 * 16
    }),
    publisher("publisher.retired", 1, &["count=100"], |_| 100),
];

fn rounds() -> u64 {
    setting("MILLPOND_TEST_KILLS", 1)
}

fn is_wanted(label: &str) -> bool {
    std::env::var("MILLPOND_TEST_LABEL").is_ok_and(|only| only == label)
        || std::env::var("MILLPOND_TEST_LABEL").is_err()
}

/// Labels that a consumer passes while it runs under load.
fn running_labels() -> impl Iterator<Item = &'static str> {
    let apart = [AT_START, FIRST_ON_A_BUS, RETENTION].concat();
    let prefixes = ["open", "recover", "consumer", "closing", "sink", "begin"];
    LABELS.iter().copied().filter(move |label| {
        let prefix = label.split('.').next().unwrap_or_default();
        let is_consumer = prefixes.contains(&prefix) || ["close", "seal"].contains(&prefix);
        is_consumer && !apart.contains(label)
    })
}

#[test]
fn every_label_is_played_by_a_test() {
    let mut played: BTreeSet<&str> = running_labels().collect();
    for list in [
        AT_START,
        FIRST_ON_A_BUS,
        RETENTION,
        CREATOR,
        RULES,
        SUBSCRIBER,
    ] {
        played.extend(list);
    }
    played.extend(PUBLISHER.iter().map(|play| play.label));
    let all: BTreeSet<&str> = LABELS.iter().copied().collect();
    assert_eq!(all.len(), LABELS.len(), "a label is listed twice");
    assert_eq!(played, all);
}

#[test]
fn the_list_of_labels_is_what_the_product_has() {
    fn read(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, found);
            } else {
                let text = fs::read_to_string(&path).expect("text");
                let parts = text.split("kill_point!(\"").skip(1);
                found.extend(parts.filter_map(|part| Some(part.split_once('"')?.0.to_owned())));
            }
        }
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found = BTreeSet::new();
    for name in ["bus", "logfile", "sink", "daemon"] {
        read(&crates.join(name).join("src"), &mut found);
    }
    let listed: BTreeSet<String> = LABELS.iter().map(|&label| label.to_owned()).collect();
    assert_eq!(found, listed);
}

/// Waits for its end, which must be our kill.
fn assert_killed(victim: Process, label: &str) {
    let (status, lines) = victim.finish();
    assert_eq!(status.signal(), Some(9), "{label}: {status}: {lines:?}");
}

/// Publishers that come, say a few things and go: lanes of the dead, with and without a log.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Churn {
    fn start(bus: &Bus) -> Self {
        let (bus, stop) = (bus.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut passed, mut logged) = (0u64, 0u64);
            // ORDERING: Relaxed; says only itself.
            while !stopped.load(Ordering::Relaxed) {
                // Lanes wait for the consumer, which is dead half of the time.
                if bus.stats().lanes.len() < CHURN_LANES_MAX {
                    let mut publisher = bus.publisher("churn").expect("publisher");
                    let topic = publisher.topic("pass:churn:x").expect("topic");
                    for _ in 0..5 {
                        let payload = [&passed.to_le_bytes(), &b"churn"[..]].concat();
                        let sent = publisher.publish(topic, Level::Info, &payload);
                        sent.expect("room");
                        passed += 1;
                    }
                    let mut publisher = bus.publisher("brief").expect("publisher");
                    let topic = publisher.topic("log:brief:brief").expect("topic");
                    let payload = format!("brief {logged} x");
                    let sent = publisher.publish(topic, Level::Info, payload.as_bytes());
                    sent.expect("room");
                    logged += 1;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (passed, logged)
        });
        Churn { stop, thread }
    }

    /// Events that went past, and events for the log.
    fn end(self) -> (u64, u64) {
        // ORDERING: Relaxed; as above.
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("churn")
    }
}

/// Everybody who publishes and listens while consumers are killed.
struct Load {
    publishers: Vec<Process>,
    source: Process,
    readers: [Process; 2],
    churn: Churn,
}

impl Load {
    /// A consumer must run.
    fn start(place: &Place) -> Self {
        let readers = [("past", "pass:*"), ("batches", "batch:*")]
            .map(|(label, pattern)| place.subscriber(label, pattern, &[]));
        Load {
            publishers: place.four_publishers(&["size=100", "rate=2000"]),
            source: place.source("b0", "batch:load:b0", &["rate=1000"]),
            readers,
            churn: Churn::start(&place.bus),
        }
    }

    /// Ends it under a consumer that lives, ends that too, and looks at everything. `is_trimmed`: what is old may be
    /// gone from the log.
    fn end(mut self, place: &Place, daemon: Process, is_trimmed: bool) -> u64 {
        let (passed, logged) = self.churn.end();
        self.source.let_go();
        let mut expected = BTreeMap::from([("brief".to_owned(), logged)]);
        for (label, published) in outcomes_of(self.publishers) {
            assert_eq!(published.dropped(), 0, "{label}");
            expected.insert(label, published.published);
        }
        let batched = Report::end(self.source).published();
        let stats = place.settled();
        let [past, batches] = self.readers.map(Report::end);
        past.assert_accounts_for(passed);
        batches.assert_accounts_for(batched);
        daemon.stop();
        let found = Found::read(&place.logs());
        found.assert_orderly();
        if is_trimmed {
            for (label, runs) in &found.sequences {
                assert_eq!(runs.0.len(), 1, "{label}: holes in what is kept: {runs:?}");
                assert_eq!(runs.0[0].1, expected[label] - 1, "{label}");
            }
        } else {
            found.assert_complete(&expected);
        }
        for source in &stats.sources {
            assert_eq!(source.published, source.delivered, "{source:?}");
            assert_eq!((source.dropped.total(), source.in_flight), (0, 0));
            // What is only delivered is written nowhere.
            if let Some(&count) = expected.get(&source.label) {
                assert_identity(source);
                assert_eq!(source.published, count, "{source:?}");
            }
        }
        assert_whole(place);
        expected.values().sum::<u64>() + passed + batched
    }
}

/// Indexes are what the text says, and nothing of the dead is left.
fn assert_whole(place: &Place) {
    for service in list_services(&place.logs()).expect("services") {
        let dir = place.logs().join(&service);
        for id in list_segments(&dir).expect("segments") {
            let report = verify_segment(&dir, id).expect("verify");
            assert!(report.damage.is_empty(), "{service}: {:?}", report.damage);
        }
        let names = fs::read_dir(&dir).expect("files").flatten();
        let left: Vec<_> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".new"))
            .collect();
        assert_eq!(left, [""; 0], "{service}: left behind");
    }
    wait_until(|| place.objects("lane.").is_empty() && place.objects("subscriber.").is_empty());
    place.bus.remove().expect("nobody uses it");
    assert_eq!(place.objects(""), [""; 0], "left behind");
}

/// Consumers, one victim after the other.
struct Victims<'p> {
    place: &'p Place,
    random: Random,
    settings: &'p [&'p str],
}

impl Victims<'_> {
    fn start(&mut self, label: &str, after: u64) -> Process {
        let backend = ["auto", "pwrite"][self.random.below(2) as usize];
        let (at, after) = (format!("kill_at={label}"), format!("kill_after={after}"));
        let more = [self.settings, &[at.as_str(), after.as_str()]].concat();
        self.place.start_daemon(backend, &more)
    }

    fn healthy(&self) -> Process {
        self.place.daemon("auto", self.settings)
    }

    /// One that dies at `label`, whatever it takes to get it there.
    fn play(&mut self, label: &'static str) {
        eprintln!("kill at {label}");
        if !AT_START.contains(&label) {
            let after = 1 + self.random.below(passings_max(label));
            let mut victim = self.start(label, after);
            if label.starts_with("closing.") {
                victim.line_with("ready");
                std::thread::sleep(self.random.millis(50));
                victim.let_go();
            }
            return assert_killed(victim, label);
        }
        loop {
            // What the last one leaves is what the next one finds.
            let before = match label {
                "recover.text_cut" => Some("sink.text_written"),
                "open.uncommitted_dropped" => Some("begin.link_renamed"),
                _ => None,
            };
            if let Some(before) = before {
                let after = 2 + self.random.below(4);
                let victim = self.start(before, after);
                assert_killed(victim, before);
            }
            if label == "consumer.subscriber_freed" {
                self.place.subscriber("victim", "pass:*", &[]).kill();
            }
            let after = 1 + self.random.below(2);
            let mut victim = self.start(label, after);
            loop {
                if victim.has_ended() {
                    return assert_killed(victim, label);
                }
                if victim.lines().iter().any(|line| line.starts_with("ready")) {
                    // Nothing of the kind was to be done this time.
                    victim.kill();
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// How often it may be passed before the kill, so that it is rarely the first time and never takes long.
fn passings_max(label: &str) -> u64 {
    match label.split('.').next() {
        // Once in each process.
        Some("sink") if label == "sink.writer_told" => 1,
        Some("closing") => 1,
        Some("begin" | "close" | "seal" | "remove") => 3,
        Some("sink") => 8,
        _ => 20,
    }
}

/// `random.below` picks where each round begins, so that no label always follows the same one.
fn kill_consumers(what: &str, labels: &[&'static str], settings: &[&str], is_trimmed: bool) {
    let labels: Vec<_> = labels.iter().filter(|label| is_wanted(label)).collect();
    let mut random = Random::seeded();
    for _ in 0..rounds() {
        let place = Place::new(what, "peers");
        let first = random.below(labels.len().max(1) as u64) as usize;
        let mut victims = Victims {
            place: &place,
            random: Random::seeded(),
            settings,
        };
        let daemon = victims.healthy();
        let load = Load::start(&place);
        daemon.kill();
        for index in 0..labels.len() {
            victims.play(labels[(first + index) % labels.len()]);
        }
        let events = load.end(&place, victims.healthy(), is_trimmed);
        eprintln!("{what}: {} kills, {events} events, each once", labels.len());
    }
}

#[test]
fn consumer_killed_while_it_runs() {
    let labels: Vec<_> = running_labels().collect();
    kill_consumers("kill points of a consumer", &labels, &SMALL_SEGMENTS, false);
}

#[test]
fn consumer_killed_while_it_starts() {
    let what = "kill points of a start";
    kill_consumers(what, AT_START, &SMALL_SEGMENTS, false);
}

#[test]
fn consumer_killed_while_it_removes_what_is_old() {
    let settings = [&SMALL_SEGMENTS[..], &["total_bytes=2097152"]].concat();
    kill_consumers("kill points of retention", RETENTION, &settings, true);
}

#[test]
fn first_consumer_of_a_bus_killed() {
    for label in FIRST_ON_A_BUS.iter().filter(|label| is_wanted(label)) {
        for _ in 0..rounds() {
            let place = Place::new("kill points of a first consumer", "peers");
            let mut victims = Victims {
                place: &place,
                random: Random::seeded(),
                settings: &SMALL_SEGMENTS,
            };
            let victim = victims.start(label, 1);
            let load = Load::start(&place);
            assert_killed(victim, label);
            load.end(&place, victims.healthy(), false);
        }
    }
}

#[test]
fn publishers_killed() {
    let place = Place::new("kill points of a publisher", "peers");
    let mut random = Random::seeded();
    let daemon = place.daemon("auto", &SMALL_SEGMENTS);
    let load = place.four_publishers(&["size=100", "rate=2000"]);
    let mut expected = BTreeMap::new();
    let wanted = PUBLISHER.iter().filter(|play| is_wanted(play.label));
    for play in wanted.cycle().take(PUBLISHER.len() * rounds() as usize) {
        let (label, after) = (
            format!("victim{}", expected.len()),
            1 + random.below(play.passings_max),
        );
        eprintln!("kill {label} at {} {after}", play.label);
        let (at, count) = (
            format!("kill_at={}", play.label),
            format!("kill_after={after}"),
        );
        let more = [&[at.as_str(), count.as_str()], play.more].concat();
        let victim = place.publisher(&label, &format!("log:web:{label}"), &more);
        assert_killed(victim, play.label);
        expected.insert(label, (play.committed)(after));
    }
    for (label, published) in outcomes_of(load) {
        assert_eq!(published.dropped(), 0, "{label}");
        expected.insert(label, published.published);
    }
    // Objects that were made and never entered go when they are ten seconds old.
    let stats = place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&expected);
    for source in &stats.sources {
        assert_identity(source);
        assert_eq!(source.dropped.total(), 0, "{source:?}");
        assert_eq!(source.written, expected[&source.label], "{source:?}");
    }
    assert_whole(&place);
    eprintln!("{} events, each once", expected.values().sum::<u64>());
}

#[test]
fn subscribers_killed() {
    let place = Place::new("kill points of a subscriber", "peers");
    let mut random = Random::seeded();
    let daemon = place.daemon("auto", &[]);
    let good = place.subscriber("good", "batch:load:*", &[]);
    let mut source = place.source("b0", "batch:load:b0", &["rate=5000"]);
    let wanted = SUBSCRIBER.iter().filter(|label| is_wanted(label));
    for label in wanted.cycle().take(SUBSCRIBER.len() * rounds() as usize) {
        eprintln!("kill at {label}");
        let passings_max = if *label == "subscriber.parked" { 20 } else { 1 };
        let (at, after) = (
            format!("kill_at={label}"),
            format!("kill_after={}", 1 + random.below(passings_max)),
        );
        let more = ["label=victim", "pattern=batch:*", &at, &after];
        let mut victim = place.start_peer("subscribe", &more);
        if *label == "subscriber.leaving" {
            victim.line_with("ready");
            victim.let_go();
        }
        assert_killed(victim, label);
    }
    // Objects that were made and never entered go when they are ten seconds old.
    wait_until(|| place.objects("subscriber.").len() == 1);
    wait_until(|| place.bus.stats().subscribers.len() == 1);
    // None of the 256 slots is lost.
    let others: Vec<_> = (1..256)
        .map(|number| {
            let options = SubscribeOptions::new("other", "none:x".parse().expect("a pattern"));
            let subscription = place.bus.subscribe(options);
            subscription.unwrap_or_else(|error| panic!("subscriber {number}: {error}"))
        })
        .collect();
    drop(others);
    source.let_go();
    let published = Report::end(source).published();
    place.settled();
    Report::end(good).assert_accounts_for(published);
    daemon.stop();
    assert_whole(&place);
}

/// A consumer dies between the count of a lane and its removal, and the next one finds another lane of the same source,
/// which it comes to first.
#[test]
fn a_lane_that_a_dead_consumer_has_counted_is_counted_once() {
    let place = Place::new("kill between count and removal", "peers");
    let publish_one = |number: u64| {
        let mut publisher = place.bus.publisher("p").expect("publisher");
        let topic = publisher.topic("log:web:p").expect("topic");
        let payload = format!("p {number} x");
        let sent = publisher.publish(topic, Level::Info, payload.as_bytes());
        sent.expect("room");
    };
    (0..3).for_each(publish_one);
    // The first lane is removed, and its place in the directory free; the second one is counted.
    let at_second = ["kill_at=consumer.lane_counted", "kill_after=2"];
    assert_killed(place.start_daemon("auto", &at_second), at_second[0]);
    // Nothing is in it, so it is done with as soon as it is found.
    let mut empty = place.bus.publisher("p").expect("publisher");
    empty.topic("log:web:p").expect("topic");
    drop(empty);
    let daemon = place.daemon("auto", &[]);
    let stats = place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&BTreeMap::from([("p".to_owned(), 3)]));
    let source = source(&stats, "p");
    assert_identity(source);
    assert_eq!((source.lanes_gone, source.published), (4, 3), "{source:?}");
}

/// Whoever publishes goes on, newcomers too, and the next consumer goes by a whole table: the old one or the new one.
#[test]
fn consumer_killed_while_it_takes_other_rules() {
    for label in RULES.iter().filter(|label| is_wanted(label)) {
        for _ in 0..rounds() {
            eprintln!("kill at {label}");
            let place = Place::new("kill points of a reload", "reload");
            let at = format!("kill_at={label}");
            let victim = place.daemon("auto", &[&at]);
            let reader = place.subscriber("reader", "load:*", &[]);
            let mut old = place.source("old", "load:x:p0", &["rate=1000"]);
            wait_until(|| place.delivered("reader") > 0);
            place.bus.request_reload();
            assert_killed(victim, label);
            let new = place.source("new", "load:x:p1", &["count=500"]);
            let daemon = place.daemon("auto", &[]);
            let published = Report::finish(new).published();
            old.let_go();
            let published = published + Report::end(old).published();
            let stats = place.settled();
            Report::end(reader).assert_accounts_for(published);
            daemon.stop();
            let delivered: u64 = stats.sources.iter().map(|source| source.delivered).sum();
            assert_eq!(delivered, published);
            assert_whole(&place);
        }
    }
}

#[test]
fn creators_killed() {
    let labels = CREATOR.iter().chain(&RULES[..1]);
    for label in labels.filter(|label| is_wanted(label)) {
        for _ in 0..rounds() {
            eprintln!("kill at {label}");
            let place = Place::after("kill points of a creator", "block", |name| {
                let arguments = [
                    format!("bus={name}"),
                    "label=creator".to_owned(),
                    "event=log:web:creator".to_owned(),
                    "rules=block".to_owned(),
                    format!("kill_at={label}"),
                ];
                let victim = Process::start(env!("CARGO_BIN_EXE_publisher"), &arguments);
                assert_killed(victim, label);
            });
            let publisher = place.publisher("p", "log:web:p", &["count=1000"]);
            let daemon = place.daemon("auto", &[]);
            let published = Published::of(publisher.finish());
            assert_eq!((published.published, published.dropped()), (1000, 0));
            place.settled();
            daemon.stop();
            let expected = BTreeMap::from([("p".to_owned(), 1000)]);
            Found::read(&place.logs()).assert_complete(&expected);
            assert_whole(&place);
        }
    }
}
