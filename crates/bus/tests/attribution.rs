//! Who is behind a lane, and what the history keeps of it. Real shared memory, real locks.

use std::os::unix::fs::{FileExt, MetadataExt};

use millpond_bus::{
    Bus, BusOptions, Drain, Level, Overflow, Publisher, Rule, RuleTable, Scope, SourceStats, Topic,
    Verdict, sum_since,
};

/// Where a lane says who made it: `docs/formats/shm.md`.
const LANE_PID_OFFSET: u64 = 12;

struct TestBus(Bus);

impl TestBus {
    fn new(name: &str) -> Self {
        let rule = Rule {
            overflow: Overflow::DropNewest,
            lane_bytes: 64 << 10,
            payload_bytes_limit: 1 << 10,
            service: Some("*".into()),
            ..Rule::new("log:*".parse().expect("a pattern"))
        };
        let options = BusOptions {
            rules: RuleTable::new(vec![rule]).expect("one good rule"),
            ..BusOptions::default()
        };
        let name = format!("test-{name}-{}", std::process::id());
        TestBus(Bus::attach(&name, &options).expect("shared memory can be had"))
    }

    fn publisher(&self, label: &str) -> (Publisher, Topic) {
        let mut publisher = self.0.publisher(label).expect("a label");
        let topic = publisher.topic("log:web").expect("a rule");
        (publisher, topic)
    }

    /// Writes the lie over what the only lane says of its process.
    fn lie(&self, pid: u32) {
        let prefix = format!("millpond.{}.lane.", self.0.name());
        let mut lanes = std::fs::read_dir("/dev/shm")
            .expect("/dev/shm")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let path = lanes.next().expect("a lane").path();
        assert!(lanes.next().is_none(), "more than one lane");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .expect("ours");
        file.write_all_at(&pid.to_le_bytes(), LANE_PID_OFFSET)
            .expect("inside of it");
    }

    fn source(&self, label: &str) -> SourceStats {
        let sources = self.0.stats().sources;
        let mut found = sources.into_iter().filter(|source| source.label == label);
        found.next().expect("the source")
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.0.remove().expect("nobody uses it");
    }
}

/// Takes and commits all that is there.
fn take(drain: &mut Drain) {
    drain.pass(Scope::Persisted, &mut |_| Verdict::Keep);
    let mark = drain.mark(Scope::Persisted);
    drain.commit(mark, &[], true);
}

#[test]
fn the_kernel_names_a_publisher_that_lies_about_its_process() {
    let bus = TestBus::new("liar");
    let (mut publisher, topic) = bus.publisher("liar");
    publisher.publish(topic, Level::Info, b"x").expect("room");
    bus.lie(1);
    // Nobody has looked yet: there is only its word.
    let origin = bus.0.stats().lanes[0].origin.clone();
    assert_eq!((origin.pid, origin.is_verified), (1, false));
    let mut drain = bus.0.drain().expect("the only consumer");
    let us = std::process::id();
    let own = std::fs::metadata("/proc/self").expect("/proc");
    for origin in [
        bus.0.stats().lanes[0].origin.clone(),
        bus.source("liar").origin,
    ] {
        assert!(origin.is_verified, "{origin:?}");
        assert_eq!((origin.pid, origin.uid), (us, own.uid()));
        let path = std::env::current_exe().expect("it runs");
        let name = path.file_name().expect("a file").to_string_lossy();
        assert!(origin.executable.ends_with(&*name), "{origin:?}");
        assert!(origin.started_ns > 0 && origin.started_ns < bus.0.stats().time_ns);
    }
    // It stays with the source when the lane is gone.
    let known = bus.source("liar").origin;
    drop(publisher);
    take(&mut drain);
    drain.housekeep();
    assert!(bus.0.stats().lanes.is_empty());
    assert_eq!(bus.source("liar").origin, known);
}

#[test]
fn a_publisher_that_is_gone_is_named_by_its_own_word_and_marked_so() {
    let bus = TestBus::new("gone");
    let (mut publisher, topic) = bus.publisher("gone");
    publisher.publish(topic, Level::Info, b"x").expect("room");
    bus.lie(1);
    drop(publisher);
    let mut drain = bus.0.drain().expect("the only consumer");
    let origin = bus.source("gone").origin;
    assert_eq!((origin.pid, origin.is_verified), (1, false));
    take(&mut drain);
    drain.housekeep();
    drain.housekeep();
    assert!(bus.0.stats().lanes.is_empty());
    let origin = bus.source("gone").origin;
    assert_eq!((origin.pid, origin.is_verified), (1, false));
}

#[test]
fn what_an_earlier_consumer_knew_of_a_lane_is_kept() {
    let bus = TestBus::new("kept");
    let (publisher, _) = bus.publisher("kept");
    drop(bus.0.drain().expect("the only consumer"));
    let known = bus.source("kept").origin;
    assert!(known.is_verified);
    // Gone between two consumers.
    drop(publisher);
    let _drain = bus.0.drain().expect("the only consumer");
    assert_eq!(bus.source("kept").origin, known);
}

#[test]
fn the_history_adds_up_to_the_counters_across_consumers_and_without_one() {
    let bus = TestBus::new("history");
    let (mut publisher, topic) = bus.publisher("p");
    let check = |published: u64| {
        let (history, source) = (bus.0.history(), bus.source("p"));
        let sum = sum_since(&history.sources[0].intervals, 0);
        assert_eq!(source.published, published);
        assert_eq!(sum.published, source.published);
        assert_eq!(sum.delivered, source.delivered);
        assert_eq!(sum.written, source.written);
        assert_eq!(sum.dropped, source.dropped.total());
        assert_eq!(sum.bytes, source.delivered_bytes);
        sum
    };
    let mut published = 0;
    for _ in 0..3 {
        // More than the lane holds, while nobody drains.
        for _ in 0..2000 {
            let _ = publisher.publish(topic, Level::Info, &[7; 100]);
            published += 1;
        }
        check(published);
        let mut drain = bus.0.drain().expect("the only consumer");
        check(published);
        take(&mut drain);
        let sum = check(published);
        assert!(sum.dropped > 0 && sum.lag_bytes_max > 32 << 10, "{sum:?}");
        drop(drain);
        check(published);
    }
    drop(publisher);
    let mut drain = bus.0.drain().expect("the only consumer");
    take(&mut drain);
    drain.housekeep();
    check(published);
    assert!(bus.source("p").lag_bytes_max > 32 << 10);
}

#[test]
fn the_source_after_the_last_place_is_counted_among_the_others() {
    let bus = TestBus::new("sources");
    let mut drain = bus.0.drain().expect("the only consumer");
    for index in 0..1026 {
        let (mut publisher, topic) = bus.publisher(&format!("p{index}"));
        publisher.publish(topic, Level::Info, b"x").expect("room");
        drain.housekeep();
        // Also while they live.
        if index >= 1023 {
            let stats = bus.0.stats();
            assert_eq!(stats.sources.len(), 1024);
            assert_eq!(stats.sources[1023].label, "(other)");
            assert_eq!(stats.sources[1023].published, index - 1022);
        }
        drop(publisher);
        take(&mut drain);
        drain.housekeep();
    }
    let (stats, history) = (bus.0.stats(), bus.0.history());
    assert_eq!(stats.sources.len(), 1024);
    assert_eq!(stats.sources[1022].label, "p1022");
    let other = &stats.sources[1023];
    assert_eq!((other.published, other.lanes_gone), (3, 3));
    assert_eq!(history.sources[1023].label, "(other)");
    assert_eq!(sum_since(&history.sources[1023].intervals, 0).published, 3);
}
