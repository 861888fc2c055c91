//! A consumer that ends between the write of a group and its commit, at chosen points: stepped by hand in
//! this process and dropped, which leaves shared memory and files as a kill does.

use std::collections::BTreeMap;

use millpond_bus::{Level, Publisher, Topic};
use millpond_daemon::{BackendChoice, Daemon, Policy, Step};
use millpond_logfile::{SegmentText, list_segments, list_services};

use crate::support::{Found, Place, wait_until};

fn publish(publisher: &mut Publisher, topic: Topic, label: &str, range: std::ops::Range<u64>) {
    for sequence in range {
        let payload = format!("{label} {sequence} {}", "x".repeat(100));
        publisher
            .publish(topic, Level::Info, payload.as_bytes())
            .expect("room");
    }
}

fn policy() -> Policy {
    Policy {
        backend: BackendChoice::Pwrite,
        total_bytes_limit: None,
        flush_delay: std::time::Duration::from_millis(1),
        ..Policy::default()
    }
}

fn open(place: &Place, policy: &Policy) -> Daemon {
    Daemon::builder(&place.bus, &place.logs())
        .policy(policy.clone())
        .open()
        .expect("a daemon")
}

/// Text on disk.
fn text_bytes(place: &Place) -> u64 {
    let Ok(services) = list_services(&place.logs()) else {
        return 0;
    };
    let sizes = services.iter().flat_map(|service| {
        let dir = place.logs().join(service);
        let segments = list_segments(&dir).unwrap_or_default();
        segments.into_iter().map(move |id| {
            let text = SegmentText::open(&dir, id).and_then(|text| text.length_bytes());
            text.unwrap_or_default()
        })
    });
    sizes.sum()
}

/// Steps until everything is committed.
fn step_to_rest(place: &Place, daemon: &mut Daemon) {
    wait_until(|| {
        let step = daemon.step();
        let at_rest = place
            .bus
            .stats()
            .sources
            .iter()
            .all(|source| source.in_flight == 0);
        at_rest && matches!(step, Step::Idle { .. })
    });
}

/// Drains until everything that waits is with the writer, and does not look at its answer.
fn write_without_commit(daemon: &mut Daemon) {
    // The first step takes the records; a later one submits when the group is due. No more steps after
    // that: the next would commit.
    while !matches!(daemon.step(), Step::Busy { .. }) {}
    std::thread::sleep(std::time::Duration::from_millis(2));
}

#[test]
fn first_group_of_a_new_service_is_not_doubled() {
    let place = Place::new("first group", "block");
    let mut publisher = place.bus.publisher("p").expect("publisher");
    let topic = publisher.topic("log:web:p").expect("topic");
    let mut daemon = open(&place, &policy());
    // Enough for the writer to be given it at once (256 KiB).
    publish(&mut publisher, topic, "p", 0..3000);
    write_without_commit(&mut daemon);
    wait_until(|| text_bytes(&place) > 3000 * 100);
    std::thread::sleep(std::time::Duration::from_millis(20));
    drop(daemon);
    let mut daemon = open(&place, &policy());
    step_to_rest(&place, &mut daemon);
    daemon.close().expect("closed");
    drop(publisher);
    Found::read(&place.logs()).assert_complete(&BTreeMap::from([("p".to_owned(), 3000)]));
}

/// The same, for a service whose files another bus has left: they are kept, what was not committed goes.
#[test]
fn first_group_after_another_owner_is_not_doubled() {
    let place = Place::new("after another owner", "block");
    {
        let other = Place2::new(&place);
        let mut publisher = other.bus.publisher("old").expect("publisher");
        let topic = publisher.topic("log:web:old").expect("topic");
        publish(&mut publisher, topic, "old", 0..500);
        let running = Daemon::builder(&other.bus, &place.logs())
            .policy(policy())
            .spawn()
            .expect("a daemon");
        publisher
            .flush(millpond_bus::Guarantee::Written, None)
            .expect("flush");
        drop(publisher);
        running.stop().expect("stopped");
    }
    let mut publisher = place.bus.publisher("p").expect("publisher");
    let topic = publisher.topic("log:web:p").expect("topic");
    let mut daemon = open(&place, &policy());
    let before = text_bytes(&place);
    publish(&mut publisher, topic, "p", 0..3000);
    write_without_commit(&mut daemon);
    wait_until(|| text_bytes(&place) > before + 3000 * 100);
    std::thread::sleep(std::time::Duration::from_millis(20));
    drop(daemon);
    let mut daemon = open(&place, &policy());
    step_to_rest(&place, &mut daemon);
    daemon.close().expect("closed");
    drop(publisher);
    let expected = BTreeMap::from([("old".to_owned(), 500), ("p".to_owned(), 3000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

/// The committed segment is closed and trimmed by a group that is not committed: that group is written again.
#[test]
fn group_that_trims_the_committed_segment_is_not_doubled() {
    let place = Place::new("trimmed commit", "block");
    let small = Policy {
        segment_bytes_limit: 64 << 10,
        service_segments_limit: Some(1),
        ..policy()
    };
    let mut publisher = place.bus.publisher("p").expect("publisher");
    let topic = publisher.topic("log:web:p").expect("topic");
    let mut daemon = open(&place, &small);
    publish(&mut publisher, topic, "p", 0..5000);
    step_to_rest(&place, &mut daemon);
    let dir = place.logs().join("web");
    let first = list_segments(&dir).expect("segments");
    publish(&mut publisher, topic, "p", 5000..7000);
    write_without_commit(&mut daemon);
    wait_until(|| {
        let now = list_segments(&dir).expect("segments");
        !now.is_empty() && now.iter().all(|id| !first.contains(id))
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    drop(daemon);
    let mut daemon = open(&place, &small);
    step_to_rest(&place, &mut daemon);
    daemon.close().expect("closed");
    drop(publisher);
    let found = Found::read(&place.logs());
    found.assert_orderly();
    let kept = &found.sequences["p"].0;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].1, 6999);
}

/// A second bus for the same directory.
struct Place2 {
    bus: millpond_bus::Bus,
}

impl Place2 {
    fn new(place: &Place) -> Self {
        // A name below the first one's: cleaned up with it.
        let name = format!("{}.other", place.name);
        let options = millpond_tests::options("block");
        Place2 {
            bus: millpond_bus::Bus::attach(&name, &options).expect("a bus"),
        }
    }
}

#[test]
fn close_that_cannot_write_its_last_group_keeps_it_for_the_next_daemon() {
    let place = Place::new("close in trouble", "block");
    let logs = place.logs();
    std::fs::create_dir_all(&logs).expect("logs");
    // Where the directories of these services should be: they cannot be written.
    let (first, last) = (logs.join("first"), logs.join("last"));
    std::fs::write(&first, b"in the way").expect("a file");
    std::fs::write(&last, b"in the way").expect("a file");
    let mut publisher = place.bus.publisher("p").expect("publisher");
    let topic = publisher.topic("log:first:p").expect("topic");
    let last_topic = publisher.topic("log:last:p").expect("topic");
    let at_once = Policy {
        flush_delay: std::time::Duration::ZERO,
        ..policy()
    };
    let mut daemon = open(&place, &at_once);
    // As many groups as the writer takes are with it, and one more is filled.
    for sequence in 0..2 {
        publish(&mut publisher, topic, "p", sequence..sequence + 1);
        daemon.step();
    }
    publish(&mut publisher, last_topic, "p", 2..3);
    daemon.step();
    let closed = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The last thing that a closing daemon does before it hands over the last group.
            wait_until(|| {
                let services = place.bus.stats().services;
                services.iter().any(|service| service.name == "last")
            });
            std::fs::remove_file(&first).expect("removed");
        });
        daemon.close()
    });
    let error = closed.expect_err("the last group cannot be written");
    assert!(error.to_string().contains("last"), "{error}");
    let written = place.bus.stats().sources[0].written;
    assert_eq!(written, 2, "what was written counts, and no more");
    std::fs::remove_file(&last).expect("removed");
    let mut daemon = open(&place, &at_once);
    step_to_rest(&place, &mut daemon);
    daemon.close().expect("closed");
    let found = Found::read(&logs);
    found.assert_orderly();
    assert_eq!(found.sequences["p"].0, [(0, 2)], "each once");
}
