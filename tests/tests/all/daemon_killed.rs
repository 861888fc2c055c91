//! The daemon is killed again and again at random moments while four publishers that wait for space go on:
//! nothing may be lost, doubled or out of order.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_tests::{Random, setting};

use crate::support::{Found, Place, assert_identity, outcomes_of, source};

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
    daemon.stop();
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
