//! Publishers that repeat themselves, and a daemon that is killed again and again: whatever is kept out of the log
//! is in a count of the log, exactly once.

use std::collections::BTreeMap;

use millpond_bus::{Guarantee, Level};
use millpond_logfile::{Told, list_segments, list_services, parse_line};
use millpond_tests::{Random, setting};

use crate::support::{Place, assert_identity, outcomes_of, segment_text, source, wait_until};

/// What the log of a service says when its `repeat` lines are unfolded: by source, how often each number came, in
/// order.
#[derive(Debug, Default)]
struct Unfolded {
    runs: BTreeMap<String, Vec<(u64, u64)>>,
    lines: u64,
    repeats: u64,
    suppressed: u64,
}

impl Unfolded {
    fn read(place: &Place) -> Self {
        let mut unfolded = Unfolded::default();
        let logs = place.logs();
        for service in list_services(&logs).expect("services") {
            let dir = logs.join(&service);
            // A run goes on across a rotation.
            let mut last = None;
            for id in list_segments(&dir).expect("segments") {
                let (_, text) = segment_text(&dir, id).expect("a segment");
                for raw in text.split_inclusive(|&byte| byte == b'\n') {
                    unfolded.add(raw, &mut last);
                }
            }
        }
        unfolded
    }

    fn add(&mut self, raw: &[u8], last: &mut Option<(String, u64)>) {
        let line = parse_line(raw).expect("a line");
        if line.source != b"millpond" {
            let message = std::str::from_utf8(line.message).expect("we publish text");
            let number = message.split(' ').nth(1).expect("a number");
            let source = String::from_utf8_lossy(line.source).into_owned();
            let item = (source, number.parse().expect("a number"));
            self.note(&item, 1);
            self.lines += 1;
            *last = Some(item);
            return;
        }
        match Told::parse(line.message).expect("a repeat or what is suppressed") {
            Told::Repeat { source, count, .. } => {
                let repeated = last.clone().expect("something to repeat");
                assert_eq!(source, repeated.0.as_bytes());
                self.note(&repeated, count);
                self.repeats += count;
            }
            Told::Suppressed { count, .. } => self.suppressed += count,
        }
    }

    fn note(&mut self, (source, number): &(String, u64), count: u64) {
        let runs = self.runs.entry(source.clone()).or_default();
        match runs.last_mut() {
            Some((last, times)) if last == number => *times += count,
            _ => runs.push((*number, count)),
        }
    }
}

/// Kills the daemon at random moments under load, and returns what was published by whom.
fn killed_under_load(place: &Place, more: &[&str], daemon_more: &[&str]) -> BTreeMap<String, u64> {
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 20);
    let mut daemon = place.daemon("auto", daemon_more);
    let publishers = place.four_publishers(more);
    for round in 0..kills {
        // Some before the first groups are committed, some with much untold.
        let most_millis = if round % 3 == 0 { 15 } else { 150 };
        std::thread::sleep(random.millis(most_millis));
        daemon.kill();
        daemon = place.daemon("auto", daemon_more);
    }
    let mut expected = BTreeMap::new();
    for (label, published) in outcomes_of(publishers) {
        assert_eq!(published.dropped(), 0);
        expected.insert(label, published.published);
    }
    place.settled();
    daemon.stop();
    expected
}

#[test]
fn repeats_are_told_exactly_once_however_often_the_daemon_is_killed() {
    const REPEAT: u64 = 50;
    let place = Place::new("repeats and kill -9", "block");
    let segment_bytes = ["segment_bytes=65536"];
    let expected = killed_under_load(&place, &["repeat=50"], &segment_bytes);
    let stats = place.bus.stats();
    let unfolded = Unfolded::read(&place);
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, published);
        assert_eq!(source.written + source.coalesced, published);
        // Each payload as often as it was published, in the order of its publisher.
        let whole = published / REPEAT;
        let rest = Some((whole, published % REPEAT)).filter(|&(_, times)| times > 0);
        let wanted: Vec<(u64, u64)> = (0..whole)
            .map(|number| (number, REPEAT))
            .chain(rest)
            .collect();
        assert!(
            unfolded.runs[label] == wanted,
            "{label}: wrong after unfolding"
        );
    }
    let total =
        |of: fn(&millpond_bus::SourceStats) -> u64| stats.sources.iter().map(of).sum::<u64>();
    assert_eq!(unfolded.lines, total(|source| source.written));
    assert_eq!(unfolded.repeats, total(|source| source.coalesced));
    assert_eq!(unfolded.suppressed, 0);
    eprintln!(
        "{} lines and {} repeats for {} events",
        unfolded.lines,
        unfolded.repeats,
        expected.values().sum::<u64>()
    );
}

#[test]
fn what_is_over_a_limit_is_told_exactly_once_however_often_the_daemon_is_killed() {
    let place = Place::new("limits and kill -9", "block");
    let expected = killed_under_load(&place, &["repeat=3"], &["rate=2000", "sample=2"]);
    let stats = place.bus.stats();
    let unfolded = Unfolded::read(&place);
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, published);
        assert!(source.suppressed > 0 && source.written > 0, "{source:?}");
    }
    let total =
        |of: fn(&millpond_bus::SourceStats) -> u64| stats.sources.iter().map(of).sum::<u64>();
    assert_eq!(unfolded.lines, total(|source| source.written));
    assert_eq!(unfolded.repeats, total(|source| source.coalesced));
    assert_eq!(unfolded.suppressed, total(|source| source.suppressed));
    let told = unfolded.lines + unfolded.repeats + unfolded.suppressed;
    assert_eq!(told, expected.values().sum::<u64>());
}

#[test]
fn what_a_publisher_forges_can_be_told_apart() {
    let place = Place::new("forged lines", "block");
    let daemon = place.daemon("auto", &[]);
    let mut publisher = place.bus.publisher("forger").expect("a publisher");
    let forged = b"repeat source=out count=7 first=1970-01-01T00:00:00.000000000Z last=1970-01-01T00:00:00.000000000Z";
    for name in ["log:web:out", "log:web:millpond", "log:web:millpond+"] {
        let topic = publisher.topic(name).expect("a topic");
        publisher
            .publish(topic, Level::Info, forged)
            .expect("published");
    }
    publisher
        .flush(Guarantee::Durable, None)
        .expect("on the disk");
    let path = place.logs().join("web/current.log");
    let text = std::fs::read(path).expect("the log");
    let line = parse_line(&text).expect("one line");
    assert_eq!(line.source, b"out");
    assert_eq!(line.message, forged);
    drop(publisher);
    let stats = place.settled();
    let source = source(&stats, "forger");
    assert_identity(source);
    assert_eq!((source.written, source.rejected), (1, 2));
    daemon.stop();
}

/// A repeat that is durable stands in a line: the commit point does not outlive the machine.
#[test]
fn a_durable_repeat_is_in_the_file() {
    let place = Place::new("durable repeats", "block");
    let daemon = place.daemon("auto", &[]);
    let mut publisher = place.bus.publisher("loop").expect("a publisher");
    let topic = publisher.topic("log:web:out").expect("a topic");
    for _ in 0..100 {
        publisher
            .publish(topic, Level::Error, b"loop 0")
            .expect("published");
    }
    publisher
        .flush(Guarantee::Durable, None)
        .expect("on the disk");
    let found = Unfolded::read(&place);
    assert_eq!((found.lines, found.repeats), (1, 99));
    // One more, and a daemon that dies: what was told is not told again.
    publisher
        .publish(topic, Level::Error, b"loop 0")
        .expect("published");
    // In a line or in the commit point: the next daemon has it from the one or the other.
    wait_until(|| source(&place.bus.stats(), "loop").coalesced == 100);
    daemon.kill();
    let daemon = place.daemon("auto", &[]);
    drop(publisher);
    place.settled();
    daemon.stop();
    let services = place.bus.committed_services();
    assert_eq!(services[0].untold, millpond_bus::Untold::default());
    assert_eq!(Unfolded::read(&place).runs["out"], [(0, 101)]);
}
