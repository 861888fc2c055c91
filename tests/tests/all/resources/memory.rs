//! A daemon in a memory cgroup of its rings and 64 MiB, under a flood.

use std::collections::BTreeMap;

use millpond_tests::setting;

use super::{Cgroup, daemon_after, status_kb};
use crate::support::{Found, Place, Process, Published, assert_identity, source};

const LANE_BYTES: u64 = 1 << 20;
const OWN_BYTES: u64 = 64 << 20;

/// Nothing is lost, and the daemon is neither killed nor does it take more than the document says: the page cache of
/// its log files is charged to it too, and has to go when there is no room.
#[test]
fn a_flood_stays_within_the_rings_and_64_mib() {
    let place = Place::new("a memory cgroup", "block");
    let Some(group) = Cgroup::new("memory") else {
        return;
    };
    let limit = 4 * LANE_BYTES + OWN_BYTES;
    group.set("memory.limit_in_bytes", "memory.max", limit);
    let mut daemon = daemon_after(&place, &group.enter(), "auto", &[]);
    let ready = daemon.line_with("ready");
    // Together a little more text than there is memory for.
    let count = format!("count={}", 75_000 * setting("MILLPOND_TEST_SECONDS", 2));
    let publishers = place.four_publishers(&["size=100", &count]);
    let mut expected = BTreeMap::new();
    for (index, publisher) in publishers.into_iter().enumerate() {
        let published = Published::of(publisher.finish());
        assert_eq!(published.dropped(), 0);
        expected.insert(format!("p{index}"), published.published);
    }
    let stats = place.settled();
    let (anon_kb, high_kb) = (
        status_kb(daemon.pid(), "RssAnon"),
        status_kb(daemon.pid(), "VmHWM"),
    );
    let most = group.read("memory.max_usage_in_bytes", "memory.peak");
    let pushed_back = group.read("memory.failcnt", "memory.events");
    let kills = group.read("memory.oom_control", "memory.events");
    let killed = kills.lines().find(|line| line.starts_with("oom_kill "));
    assert_eq!(killed.unwrap_or("oom_kill 0"), "oom_kill 0");
    daemon.stop();
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.written, published);
    }
    let found = Found::read(&place.logs());
    found.assert_complete(&expected);
    let events: u64 = expected.values().sum();
    eprintln!(
        "{ready}: {events} events, {} MiB of text, limit {} MiB: at most {} MiB charged with page cache, pushed back \
         {} times; VmHWM {} MiB with shared pages, RssAnon {anon_kb} kB",
        found.text_bytes >> 20,
        limit >> 20,
        most.trim().parse().unwrap_or(0u64) >> 20,
        pushed_back.lines().last().unwrap_or_default(),
        high_kb >> 10,
    );
    assert!(anon_kb << 10 < OWN_BYTES, "{anon_kb} kB of its own");
}

/// Where the lanes are charged to the daemon as well, since it is the one that publishes too: still not killed.
#[test]
fn everything_in_one_small_group_goes_on() {
    let place = Place::new("a memory cgroup for all", "block");
    let Some(group) = Cgroup::new("memory") else {
        return;
    };
    // Everything of five processes in shared memory, what they have of their own, and little beyond.
    let limit = 4 * LANE_BYTES + 2 * OWN_BYTES;
    group.set("memory.limit_in_bytes", "memory.max", limit);
    let mut daemon = daemon_after(&place, &group.enter(), "pwrite", &[]);
    daemon.line_with("ready");
    let publishers = (0..4)
        .map(|index| {
            let label = format!("p{index}");
            let count = format!("count={}", 20_000 * setting("MILLPOND_TEST_SECONDS", 2));
            let more = ["size=200", count.as_str()];
            super::publisher_after(&place, &group.enter(), &label, &more)
        })
        .collect();
    let outcomes = outcomes_waited_for(publishers);
    place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&outcomes);
}

fn outcomes_waited_for(publishers: Vec<Process>) -> BTreeMap<String, u64> {
    (publishers.into_iter().enumerate())
        .map(|(index, publisher)| {
            let published = Published::of(publisher.finish());
            assert_eq!(published.dropped(), 0);
            (format!("p{index}"), published.published)
        })
        .collect()
}
