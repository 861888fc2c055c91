//! Replay, then live: one who reads the log from its start while it is written, rotated, and its writer
//! killed, sees each event once and in order.

use std::time::Duration;

use millpond::replay::{LogSubscription, Replay, ReplayError, ReplaySince, Replayed};
use millpond_tests::{Random, setting};

use crate::support::{Place, Published};

const SMALL: [&str; 2] = ["segment_bytes=65536", "group_bytes=65536"];

fn open(place: &Place, since: ReplaySince) -> LogSubscription {
    Replay::new(&place.bus, &place.logs())
        .pattern("log:web:x".parse().expect("a pattern"))
        .since(since)
        .open()
        .expect("a subscription")
}

/// The number of the event that `x` published.
fn number(replayed: &Replayed) -> u64 {
    let Replayed::Event(event) = replayed else {
        panic!("{replayed:?}")
    };
    assert_eq!((&*event.name, &*event.service), ("log:web:x", "web"));
    let text = std::str::from_utf8(&event.payload).expect("we publish text");
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some("x"));
    words.next().and_then(|word| word.parse().ok()).expect(text)
}

/// Reads `events` numbers in order, from `next` on.
fn read_in_order(subscription: &mut LogSubscription, next: u64, events: u64) {
    for expected in next..next + events {
        let replayed = subscription.recv().expect("an event");
        assert_eq!(number(&replayed), expected);
    }
}

#[test]
fn a_reader_from_the_start_sees_each_event_once_though_the_daemon_is_killed() {
    let place = Place::new("replay then live", "block");
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 10);
    let mut daemon = place.daemon("auto", &SMALL);
    // Half of it is there before anybody reads.
    let first = place.publisher("x", "log:web:x", &["count=20000", "size=64"]);
    assert_eq!(Published::of(first.finish()).published, 20_000);

    let mut subscription = open(&place, ReplaySince::Oldest);
    let stop = subscription.stop_handle();
    let reader = std::thread::spawn(move || {
        // The second publisher counts from 0 again.
        read_in_order(&mut subscription, 0, 20_000);
        let mut read = 0;
        loop {
            match subscription.recv() {
                Ok(replayed) => {
                    assert_eq!(number(&replayed), read);
                    read += 1;
                }
                Err(ReplayError::Stopped) => return (read, subscription),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut publisher = place.publisher("x", "log:web:x", &["size=64"]);
    for _ in 0..kills {
        std::thread::sleep(random.millis(60));
        daemon.kill();
        std::thread::sleep(random.millis(10));
        daemon = place.daemon("auto", &SMALL);
    }
    publisher.let_go();
    let published = Published::of(publisher.end()).published;
    let stats = place.settled();
    daemon.stop();
    stop.stop();
    let (read, subscription) = reader.join().expect("the reader");
    // It was stopped, perhaps before it was at the end: a new one goes on from its cursor.
    let cursor = subscription.cursor().to_string();
    let since = ReplaySince::Cursor(cursor.parse().expect("a cursor"));
    let mut rest = open(&place, since);
    read_in_order(&mut rest, read, published - read);
    assert_eq!(rest.try_recv().expect("readable"), None);

    let segments = stats.services[0].segments;
    assert!(segments > 10, "{segments}");
    assert_eq!(stats.services[0].lines, 20_000 + published);
    eprintln!(
        "{kills} kills, {segments} segments, {published} events live, {read} before the stop"
    );
}

#[test]
fn a_reader_waits_for_a_daemon_and_for_a_service() {
    let place = Place::new("replay without a daemon", "block");
    let mut subscription = open(&place, ReplaySince::Oldest);
    assert_eq!(subscription.try_recv().expect("readable"), None);
    let reader = std::thread::spawn(move || {
        read_in_order(&mut subscription, 0, 100);
        subscription
    });
    let publisher = place.publisher("x", "log:web:x", &["count=100"]);
    let daemon = place.daemon("auto", &[]);
    Published::of(publisher.finish());
    let subscription = reader.join().expect("the reader");
    daemon.stop();
    // Nothing that runs: what is committed can be read.
    read_in_order(&mut open(&place, ReplaySince::Oldest), 0, 100);
    assert_eq!(subscription.counts().events, 100);
}

#[test]
fn a_time_starts_there_and_other_names_are_left_out() {
    let place = Place::new("replay from a time", "block");
    let daemon = place.daemon("auto", &SMALL);
    for label in ["x", "y", "x"] {
        let event = format!("log:web:{label}");
        Published::of(place.publisher(label, &event, &["count=3000"]).finish());
    }
    let mut all = open(&place, ReplaySince::Oldest);
    let mut times = Vec::new();
    while times.len() < 6000 {
        if let Replayed::Event(event) = all.recv().expect("an event") {
            times.push(event.time_ns);
        }
    }
    assert_eq!(all.try_recv().expect("readable"), None);
    assert_eq!(all.counts().filtered, 3000);
    let mut second = open(&place, ReplaySince::TimeNs(times[3000]));
    read_in_order(&mut second, 0, 3000);
    assert_eq!(second.try_recv().expect("readable"), None);
    daemon.stop();
}

#[test]
fn what_retention_took_and_what_was_dropped_is_told() {
    let place = Place::new("replay of a log that forgets", "block");
    let more = [&SMALL[..], &["total_bytes=262144"]].concat();
    let mut slow = open(&place, ReplaySince::Oldest);
    let daemon = place.daemon("auto", &more);
    // It sees the first segment, and then nothing for long.
    let early = place.publisher("x", "log:web:x", &["count=100"]);
    Published::of(early.finish());
    for expected in 0..100 {
        assert_eq!(number(&slow.recv().expect("an event")), expected);
    }
    let arguments = ["count=50000", "oversize_every=100"];
    let publisher = place.publisher("x", "log:web:x", &arguments);
    let published = Published::of(publisher.finish());
    assert_eq!(published.dropped(), 500);
    place.settled();
    let (mut events, mut dropped, mut gone) = (0, 0, Vec::new());
    loop {
        match slow.recv_timeout(Duration::ZERO) {
            Ok(Replayed::Event(_)) => events += 1,
            Ok(Replayed::Dropped(loss)) => dropped += loss.count,
            Ok(Replayed::Gone(loss)) => gone.push(loss),
            Err(ReplayError::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!gone.is_empty() && gone[0].segments_min > 0, "{gone:?}");
    assert!(events > 0 && events + dropped < published.published);
    assert!(0 < dropped && dropped < published.dropped(), "{dropped}");
    daemon.stop();
}
