//! The daemon is killed at random moments while it hands events on: outboxes and lanes are committed with one
//! store, so each subscriber has each event once.

use millpond_bus::Stats;
use millpond_tests::{Random, setting};

use crate::peers::Report;
use crate::support::{Place, Process};

/// Two publishers and two subscribers under kills; what was published by each, the accounts, the statistics.
fn run(prefix: &str, more: &[&str]) -> (Vec<u64>, Vec<Report>, Stats) {
    let place = Place::new("kill -9 while events are handed on", "peers");
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 10);
    let mut daemon = place.daemon("auto", &[]);
    let pattern = format!("{prefix}:*");
    let subscribers = ["s0", "s1"].map(|label| place.subscriber(label, &pattern, &[]));
    let mut publishers = ["p0", "p1"].map(|label| {
        let event = format!("{prefix}:load:{label}");
        place.source(label, &event, more)
    });
    for _ in 0..kills {
        std::thread::sleep(random.millis(60));
        daemon.kill();
        std::thread::sleep(random.millis(10));
        daemon = place.daemon("auto", &[]);
    }
    publishers.iter_mut().for_each(Process::let_go);
    let published = publishers.map(|publisher| Report::end(publisher).published());
    let stats = place.settled();
    let reports = subscribers.map(Report::end);
    daemon.stop();
    let shown = reports
        .each_ref()
        .map(|report| (report.number("delivered"), report.number("lagged")));
    eprintln!(
        "{prefix} {more:?}: {kills} kills, {published:?} published; (delivered, lagged): {shown:?}"
    );
    (published.into(), reports.into(), stats)
}

fn batched_events_come_once(more: &[&str]) -> Vec<Report> {
    let (published, reports, _) = run("batch", more);
    let published = published.iter().sum();
    for report in &reports {
        report.assert_accounts_for(published);
    }
    reports
}

#[test]
fn batched_events_come_once_at_full_speed() {
    batched_events_come_once(&[]);
}

#[test]
fn batched_events_come_once_and_all_when_there_is_time() {
    for report in batched_events_come_once(&["rate=5000"]) {
        assert_eq!(report.number("lagged"), 0);
    }
}

/// Numbers 0 to `published` went round over `keys` names: the last one of each.
fn last_values(label: &str, keys: u64, published: u64) -> impl Iterator<Item = (String, u64)> {
    let name = move |key| format!("conflate:load:{label}{key}");
    (0..keys).filter_map(move |key| {
        let last = (0..published)
            .rev()
            .take(keys as usize)
            .find(|number| number % keys == key)?;
        Some((name(key), last))
    })
}

fn conflated_values_arrive(more: &[&str]) -> Vec<Report> {
    let keys = 8;
    let (published, reports, stats) = run("conflate", &[&["keys=8"], more].concat());
    let coalesced: u64 = stats.sources.iter().map(|source| source.coalesced).sum();
    let delivered: u64 = stats.sources.iter().map(|source| source.delivered).sum();
    let all: u64 = published.iter().sum();
    assert_eq!(delivered, all);
    for report in &reports {
        report.assert_orderly();
        let entries = report.number("delivered") + report.number("lagged");
        assert_eq!(entries + coalesced, all, "{report:?}");
        let last = report.numbers("last");
        for (index, &published) in published.iter().enumerate() {
            for (name, number) in last_values(&format!("p{index}"), keys, published) {
                assert_eq!(last.get(&name), Some(&number), "{name} of {report:?}");
            }
        }
    }
    reports
}

#[test]
fn the_last_conflated_value_arrives_at_full_speed() {
    conflated_values_arrive(&[]);
}

#[test]
fn conflated_values_count_what_they_stand_for() {
    for report in conflated_values_arrive(&["rate=20000"]) {
        assert_eq!(report.number("lagged"), 0);
        let all = report.number("delivered") + report.number("replaced");
        assert!(all > 0, "{report:?}");
    }
}
