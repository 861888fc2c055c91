//! The daemon is killed again and again at random moments while four publishers that wait for space go on:
//! nothing may be lost, doubled or out of order.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_bus::sum_since;
use millpond_tests::{Random, setting};

use crate::support::{
    Found, Place, assert_history_is_counters, assert_identity, outcomes_of, source, wait_until,
};

fn every_event_is_there_once(backend: &str, most_millis: u64) {
    let place = Place::new("kill -9 of the daemon", "block");
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 5);
    let mut daemon = place.daemon(backend, &[]);
    let publishers = place.four_publishers(&["size=64"]);
    for _ in 0..kills {
        std::thread::sleep(random.millis(most_millis));
        daemon.kill();
        std::thread::sleep(random.millis(30));
        daemon = place.daemon(backend, &[]);
    }
    std::thread::sleep(Duration::from_millis(20));
    let mut expected = BTreeMap::new();
    for (label, published) in outcomes_of(publishers) {
        assert_eq!(published.dropped(), 0);
        expected.insert(label, published.published);
    }
    let stats = place.settled();
    assert_history_is_counters(&place.bus);
    daemon.stop();
    assert_history_is_counters(&place.bus);
    Found::read(&place.logs()).assert_complete(&expected);
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, published);
        assert_eq!(source.written, published);
        assert_eq!(source.dropped.total(), 0);
    }
    let total: u64 = expected.values().sum();
    let lines: u64 = stats.services.iter().map(|service| service.lines).sum();
    assert_eq!(lines, total);
    eprintln!("{backend}: {kills} kills, {total} events, each once");
}

/// The kills spread over the length of the run.
fn spread_millis() -> u64 {
    let (seconds, kills) = (
        setting("MILLPOND_TEST_SECONDS", 0),
        setting("MILLPOND_TEST_KILLS", 5),
    );
    (2000 * seconds / kills.max(1)).max(250)
}

#[test]
fn killed_daemon_loses_and_doubles_nothing_auto() {
    every_event_is_there_once("auto", spread_millis());
}

#[test]
fn killed_daemon_loses_and_doubles_nothing_pwrite() {
    every_event_is_there_once("pwrite", spread_millis());
}

/// Most kills hit the first groups of a service: its first segment, not yet committed.
#[test]
fn daemon_killed_at_once_loses_and_doubles_nothing_auto() {
    every_event_is_there_once("auto", 12);
}

#[test]
fn daemon_killed_at_once_loses_and_doubles_nothing_pwrite() {
    every_event_is_there_once("pwrite", 12);
}

/// The daemon is killed, a flood is dropped while nobody drains, and its publisher goes as well. What it did, and
/// who it was, is still there.
#[test]
fn a_flood_is_named_after_the_fact_and_its_history_outlives_the_daemon() {
    let place = Place::new("who flooded", "drop");
    let daemon = place.daemon("auto", &[]);
    let quiet = place.publisher("quiet", "log:web:quiet", &["size=64", "count=10"]);
    let mut loud = place.publisher("loud", "log:web:loud", &["size=64"]);
    let loud_pid = loud.pid();
    let dropped = |label: &str| {
        let stats = place.bus.stats();
        let mut found = stats.sources.iter().filter(|source| source.label == label);
        found.next().map_or(0, |source| source.dropped.total())
    };
    // The consumer has seen who it is, and the history has begun.
    wait_until(|| {
        let stats = place.bus.stats();
        let mut lanes = stats.lanes.iter();
        lanes.any(|lane| lane.label == "loud" && lane.origin.is_verified)
    });
    daemon.kill();
    let before = dropped("loud");
    wait_until(|| dropped("loud") > before + 1000);
    // Readers need no daemon.
    let history = place.bus.history();
    let sum = |label: &str| {
        let mut found = history
            .sources
            .iter()
            .filter(|source| source.label == label);
        sum_since(&found.next().expect("it has published").intervals, 0)
    };
    assert!(sum("loud").dropped > before + 1000);
    assert!(sum("loud").published > sum("quiet").published);
    loud.let_go();
    // It stays until what the lane holds is written.
    let daemon = place.daemon("auto", &[]);
    loud.end();
    quiet.end();
    let stats = place.settled();
    let source = source(&stats, "loud");
    assert_identity(source);
    assert!(source.lag_bytes_max > 32 << 10, "{source:?}");
    let origin = &source.origin;
    assert!(origin.is_verified, "{origin:?}");
    assert_eq!(origin.pid, loud_pid);
    assert!(origin.executable.ends_with("/publisher"), "{origin:?}");
    assert_history_is_counters(&place.bus);
    daemon.stop();
    assert_history_is_counters(&place.bus);
}
