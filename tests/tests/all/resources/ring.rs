//! io_uring that was there at the start, and is refused or does nothing later.

use std::collections::BTreeMap;

use crate::support::{Found, Place, Published, assert_identity, outcomes_of, source, wait_until};

/// Writers are at work when the ring goes: what it had under way is written, once, and so is all that comes after.
fn the_writer_goes_on(errno: i32) {
    let place = Place::new("io_uring refused later", "block");
    let mut daemon = place.daemon("auto", &["segment_bytes=1048576"]);
    let ready = daemon.line_with("ready");
    if !ready.starts_with("ready io_uring") {
        eprintln!("skipped: {ready}");
        return;
    }
    let publishers = place.four_publishers(&["size=100"]);
    let written = || -> u64 { place.bus.stats().sources.iter().map(|s| s.written).sum() };
    wait_until(|| written() > 10_000);
    daemon.say(&format!("refuse io_uring_enter {errno}"));
    // It says one of the two.
    wait_until(|| {
        let lines = daemon.lines();
        (lines.iter()).any(|line| line.starts_with("refused") || line.starts_with("skip"))
    });
    if let Some(skip) = daemon.lines().iter().find(|line| line.starts_with("skip")) {
        eprintln!("skipped: {skip}");
        return;
    }
    let (before, since) = (written(), std::time::Instant::now());
    // Without help from anyone.
    wait_until(|| written() > before + 100_000);
    let took = since.elapsed();
    wait_until(|| {
        let consumer = place.bus.consumer().expect("it lives");
        consumer.backend.starts_with("pwrite (io_uring was there")
    });
    let mut expected = BTreeMap::new();
    for (label, published) in outcomes_of(publishers) {
        assert_eq!(published.dropped(), 0);
        expected.insert(label, published.published);
    }
    // To the disk as well, and for somebody who comes later.
    let late = place.publisher("late", "log:web:late", &["count=1000", "flush=durable"]);
    assert_eq!(Published::of(late.finish()).published, 1000);
    expected.insert("late".to_owned(), 1000);
    let stats = place.settled();
    daemon.stop();
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.written, published);
    }
    Found::read(&place.logs()).assert_complete(&expected);
    let events: u64 = expected.values().sum();
    eprintln!(
        "io_uring_enter gives {errno}: {events} events, each once; 100,000 more were written after {took:?}"
    );
}

#[test]
fn a_ring_refused_later_is_given_up_and_nothing_is_lost() {
    the_writer_goes_on(1);
}

/// As a ring that hangs: every call says that all is well, and nothing is done.
#[test]
fn a_ring_that_does_nothing_is_given_up_and_nothing_is_lost() {
    the_writer_goes_on(0);
}

/// Nothing is under way when it goes, and the next thing is the end.
#[test]
fn a_ring_that_is_gone_at_the_end_keeps_nobody() {
    let place = Place::new("io_uring gone at the end", "block");
    let mut daemon = place.daemon("auto", &[]);
    let ready = daemon.line_with("ready");
    if !ready.starts_with("ready io_uring") {
        eprintln!("skipped: {ready}");
        return;
    }
    let publisher = place.publisher("p", "log:web:p", &["count=1000"]);
    assert_eq!(Published::of(publisher.finish()).published, 1000);
    place.settled();
    daemon.say("refuse io_uring_enter 1");
    wait_until(|| daemon.lines().len() > 1);
    // In its lane, for the end to write.
    let mut last = place.bus.publisher("q").expect("a publisher");
    let topic = last.topic("log:web:q").expect("a topic");
    last.publish(topic, millpond_bus::Level::Info, b"q 0")
        .expect("room");
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), 1000), ("q".to_owned(), 1)]);
    Found::read(&place.logs()).assert_complete(&expected);
}
