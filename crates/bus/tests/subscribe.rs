//! Subscriptions against a drain that the test drives by hand: what is read from lanes, what comes through
//! outboxes, what is left by lanes that go away, and what a consumer that dies half-way does to it.

#![cfg(not(loom))]

use std::time::Duration;

use millpond_bus::{
    Batch, BatchParts, Bus, BusOptions, Class, Drain, Dropped, Entry, Event, Item, Lagged, Level,
    NameRef, OnLag, Pattern, RecvError, Rule, RuleTable, Scope, Since, SubscribeOptions,
    Subscriber, Subscription, Verdict, append_entry, literal_prefix,
};

/// A bus of the test's own, removed at the end.
struct TestBus(Bus);

impl TestBus {
    fn new(test: &str, rules: Vec<Rule>) -> Self {
        let options = BusOptions {
            rules: RuleTable::new(rules).expect("good rules"),
            ..BusOptions::default()
        };
        let name = format!("test-sub-{test}-{}", std::process::id());
        TestBus(Bus::attach(&name, &options).expect("a bus"))
    }

    fn subscribe(&self, pattern: &str, since: Since) -> Subscription {
        let options = SubscribeOptions {
            since,
            ..SubscribeOptions::new("test", parse(pattern))
        };
        self.0.subscribe(options).expect("a subscription")
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

fn parse(pattern: &str) -> Pattern {
    pattern.parse().expect("a pattern")
}

fn passthrough(pattern: &str) -> Rule {
    Rule {
        class: Class::Passthrough,
        lane_bytes: 64 << 10,
        payload_bytes_limit: 1 << 10,
        ..Rule::new(parse(pattern))
    }
}

fn batch(pattern: &str) -> Rule {
    Rule {
        lane_bytes: 64 << 10,
        payload_bytes_limit: 1 << 10,
        outbox_bytes: 64 << 10,
        ..Rule::new(parse(pattern))
    }
}

/// Takes everything from passthrough lanes and removes those that are done.
fn keep_house(drain: &mut Drain) {
    drain.housekeep();
    drain.take_passthrough();
    drain.housekeep();
}

/// One record for each event, staged in its outbox; the channels that have something.
fn stage_batched(drain: &mut Drain) -> Vec<u32> {
    if drain.directory_changed() {
        drain.housekeep();
    }
    let mut staged: Vec<(u32, String, Vec<u8>, u64, u64)> = Vec::new();
    drain.pass(Scope::Batched, &mut |item| {
        if let Item::Record(record) = item {
            let mut entries = Vec::new();
            append_entry(&mut entries, &Entry::from(&record));
            let prefix = literal_prefix(record.name.text).to_owned();
            let bit = record.name_bit();
            staged.push((record.channel, prefix, entries, bit, record.time_ns));
        }
        Verdict::Keep
    });
    let mut channels = Vec::new();
    for (channel, prefix, entries, bit, time_ns) in &staged {
        push(drain, *channel, prefix, (1, entries), *time_ns, *bit);
        channels.push(*channel);
    }
    channels.dedup();
    channels
}

/// Stages `count` entries of one time in the outbox of `channel`.
fn push(
    drain: &mut Drain,
    channel: u32,
    prefix: &str,
    (count, entries): (u32, &[u8]),
    time_ns: u64,
    name_bits: u64,
) {
    let parts = BatchParts {
        class: Class::Batch,
        prefix,
        count,
        first_time_ns: time_ns,
        last_time_ns: time_ns,
        entries,
    };
    let outbox = drain.outbox(channel).expect("an outbox");
    assert!(outbox.push(&parts, name_bits));
}

fn flush(drain: &mut Drain) {
    for channel in stage_batched(drain) {
        drain.commit_batched(channel, &[]);
    }
}

#[derive(Default)]
struct Seen {
    events: Vec<(String, String)>,
    batches: Vec<(String, usize)>,
    lagged: Vec<Lagged>,
    dropped: Vec<Dropped>,
}

impl Subscriber for Seen {
    fn on_event(&mut self, event: &Event<'_>) {
        let payload = String::from_utf8_lossy(event.payload).into_owned();
        self.events.push((event.name.to_owned(), payload));
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        self.batches.push((batch.name(), batch.len()));
        for event in batch.events() {
            self.on_event(&event);
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lagged.push(lagged.clone());
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.dropped.push(dropped.clone());
    }
}

impl Seen {
    fn payloads(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|(_, payload)| payload.as_str())
            .collect()
    }
}

fn poll(subscription: &mut Subscription) -> Seen {
    let mut seen = Seen::default();
    subscription.poll(&mut seen).expect("skips what it missed");
    seen
}

fn publish(bus: &TestBus, label: &str, name: &str, payloads: &[&str]) {
    let mut publisher = bus.0.publisher(label).expect("a publisher");
    let topic = publisher.topic(name).expect("a topic");
    for payload in payloads {
        publisher
            .publish(topic, Level::Info, payload.as_bytes())
            .expect("room");
    }
}

#[test]
fn passthrough_needs_no_consumer() {
    let bus = TestBus::new("direct", vec![passthrough("chat:*")]);
    let mut chat = bus.subscribe("chat:*", Since::Now);
    let mut room = bus.subscribe("chat:room", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    for (name, payload) in [("chat:room", "1"), ("chat:other", "2"), ("chat:room", "3")] {
        let topic = publisher.topic(name).expect("a topic");
        publisher
            .publish(topic, Level::Info, payload.as_bytes())
            .expect("room");
    }
    assert_eq!(poll(&mut chat).payloads(), ["1", "2", "3"]);
    assert_eq!(poll(&mut room).payloads(), ["1", "3"]);
    assert_eq!(room.counts().filtered, 1);
    assert!(chat.try_recv().expect("nothing").is_none());
}

/// What a program wrote to its terminal in one go is there for those who look later.
#[test]
fn flood_leaves_nearly_half_a_lane_of_history() {
    for records in [50, 63, 100, 400, 1000] {
        let bus = TestBus::new(&format!("flood-{records}"), vec![passthrough("pty:*")]);
        let mut drain = bus.0.drain().expect("the lease");
        let mut publisher = bus.0.publisher("capture:web").expect("a publisher");
        let topic = publisher.topic("pty:web:out").expect("a topic");
        let mut published = Vec::new();
        for number in 0..records {
            let payload = format!("{number:0>1000}");
            if publisher
                .try_publish(topic, Level::Info, payload.as_bytes())
                .is_ok()
            {
                published.push(payload);
            }
            // Several lanes full of it in a pass or two, or less than one.
            if number % 61 == 60 {
                keep_house(&mut drain);
            }
        }
        keep_house(&mut drain);
        let seen = poll(&mut bus.subscribe("pty:*", Since::Oldest));
        let seen: Vec<&str> = seen.events.iter().map(|event| event.1.as_str()).collect();
        let count = seen.len();
        // Records of 1032 bytes: three eighths of 64 KiB are 24 of them.
        assert!((23..=32).contains(&count), "{count} of {records}");
        assert_eq!(seen, published[published.len() - count..]);
    }
}

#[test]
fn a_publisher_that_is_gone_before_it_was_seen_is_heard_once() {
    let bus = TestBus::new("estate", vec![passthrough("chat:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut early = bus.subscribe("chat:*", Since::Now);
    publish(&bus, "brief", "chat:room", &["1", "2", "3"]);
    let mut seen_live = bus.subscribe("chat:*", Since::Oldest);
    assert_eq!(poll(&mut seen_live).payloads(), ["1", "2", "3"]);
    keep_house(&mut drain);
    keep_house(&mut drain);
    assert!(bus.0.stats().lanes.is_empty(), "the lane should be gone");

    let seen = poll(&mut early);
    assert_eq!(seen.payloads(), ["1", "2", "3"]);
    assert!(seen.lagged.is_empty());
    // One that has read the lane itself gets no second copy.
    assert_eq!(poll(&mut seen_live).payloads(), [""; 0]);
    assert_eq!(seen_live.counts().duplicates, 3);
    // And one that comes later still finds it.
    assert_eq!(
        poll(&mut bus.subscribe("chat:*", Since::Oldest)).payloads(),
        ["1", "2", "3"]
    );
    assert_eq!(
        poll(&mut bus.subscribe("chat:*", Since::Now)).payloads(),
        [""; 0]
    );
}

#[test]
fn check_then_wait_misses_nothing() {
    let bus = TestBus::new("since", vec![passthrough("chat:*"), batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut lasting = bus.0.publisher("lasting").expect("a publisher");
    let room = lasting.topic("chat:room").expect("a topic");
    let data = lasting.topic("data:users:created").expect("a topic");
    lasting.publish(room, Level::Info, b"old").expect("room");
    lasting.publish(data, Level::Info, b"old").expect("room");
    publish(&bus, "gone", "chat:gone", &["old"]);
    keep_house(&mut drain);
    publish(&bus, "going", "chat:going", &["old"]);
    flush(&mut drain);

    let token = bus.0.position().to_string();
    lasting.publish(room, Level::Info, b"1").expect("room");
    lasting.publish(data, Level::Info, b"2").expect("room");
    publish(&bus, "brief", "chat:brief", &["3"]);
    keep_house(&mut drain);
    keep_house(&mut drain);
    flush(&mut drain);

    let position = token.parse().expect("our own token");
    let mut late = bus.subscribe("*", Since::Position(position));
    let mut payloads = poll(&mut late).payloads().join(" ");
    payloads.push('.');
    assert_eq!(payloads.split(' ').count(), 3, "{payloads}");
    for payload in ["1", "2", "3"] {
        assert!(
            payloads.contains(payload),
            "{payload} is missing in {payloads}"
        );
    }
}

#[test]
fn batches_come_through_the_outbox_and_free_their_lanes() {
    let bus = TestBus::new("batch", vec![batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut all = bus.subscribe("data:*", Since::Now);
    let mut users = bus.subscribe("data:users:created", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    for name in [
        "data:users:created",
        "data:orders:created",
        "data:users:deleted",
    ] {
        let topic = publisher.topic(name).expect("a topic");
        publisher
            .publish(topic, Level::Info, name.as_bytes())
            .expect("room");
    }
    let channels = stage_batched(&mut drain);
    assert!(poll(&mut all).events.is_empty(), "nothing is committed yet");
    for channel in channels {
        drain.commit_batched(channel, &[]);
    }
    let seen = poll(&mut all);
    let names = ["data:users:batch", "data:orders:batch", "data:users:batch"];
    assert_eq!(seen.batches, names.map(|name| (name.to_owned(), 1)));
    assert_eq!(poll(&mut users).payloads(), ["data:users:created"]);
    assert_eq!(bus.0.stats().lanes[0].lag_bytes, 0);
}

#[test]
fn a_consumer_that_dies_before_its_commit_changes_nothing() {
    let bus = TestBus::new("killed", vec![batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut all = bus.subscribe("data:*", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:users:created").expect("a topic");
    let mut expected = Vec::new();
    let mut received = Vec::new();
    for round in 0..200 {
        let payload = round.to_string();
        publisher
            .publish(topic, Level::Info, payload.as_bytes())
            .expect("room");
        expected.push(payload);
        let channels = stage_batched(&mut drain);
        if round % 3 == 0 {
            // Staged, never committed: the next consumer takes it again, once.
            drop(drain);
            drain = bus.0.drain().expect("the lease");
        } else {
            for channel in channels {
                drain.commit_batched(channel, &[]);
            }
        }
        if round % 7 == 0 {
            drop(drain);
            drain = bus.0.drain().expect("the lease");
        }
        received.extend(
            poll(&mut all)
                .events
                .into_iter()
                .map(|(_, payload)| payload),
        );
    }
    flush(&mut drain);
    received.extend(
        poll(&mut all)
            .events
            .into_iter()
            .map(|(_, payload)| payload),
    );
    assert_eq!(received, expected);
}

#[test]
fn a_slow_reader_of_an_outbox_learns_how_much_it_missed() {
    let bus = TestBus::new("lag", vec![batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut slow = bus.subscribe("data:*", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:users:created").expect("a topic");
    let mut received = 0;
    let mut lagged = 0;
    let mut last = None;
    for number in 0..5000u64 {
        publisher
            .publish(topic, Level::Info, &number.to_le_bytes())
            .expect("room");
        flush(&mut drain);
        if number % 1500 == 1499 {
            slow.poll(&mut |event: &Event<'_>| {
                let number = u64::from_le_bytes(event.payload.try_into().expect("eight bytes"));
                assert!(last.is_none_or(|last| number > last), "order");
                last = Some(number);
                received += 1;
            })
            .expect("skips");
            lagged = slow.counts().lagged;
        }
    }
    let rest = poll(&mut slow);
    received += rest.events.len() as u64;
    lagged += rest.lagged.iter().map(|lagged| lagged.count).sum::<u64>();
    assert!(lagged > 0, "the outbox is too large for this test");
    assert_eq!(received + lagged, 5000);
    assert_eq!(slow.counts().lagged, lagged);
}

#[test]
fn a_slow_reader_of_a_lane_learns_how_much_it_missed() {
    let bus = TestBus::new("lane-lag", vec![passthrough("chat:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut slow = bus.subscribe("chat:*", Since::Now);
    let mut ends = bus
        .0
        .subscribe(SubscribeOptions {
            on_lag: OnLag::End,
            ..SubscribeOptions::new("ends", parse("chat:*"))
        })
        .expect("a subscription");
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("chat:room").expect("a topic");
    publisher
        .publish(topic, Level::Info, b"first")
        .expect("room");
    assert_eq!(poll(&mut slow).payloads(), ["first"]);
    assert_eq!(poll(&mut ends).payloads(), ["first"]);
    drain.housekeep();
    for _ in 0..10_000 {
        publisher
            .publish(topic, Level::Info, &[7; 100])
            .expect("room");
        drain.take_passthrough();
    }
    let seen = poll(&mut slow);
    let missed: u64 = seen.lagged.iter().map(|lagged| lagged.count).sum();
    assert!(missed > 0 && !seen.events.is_empty());
    assert_eq!(missed + seen.events.len() as u64, 10_000);
    match ends.poll(&mut |_: &Event<'_>| {}) {
        Err(RecvError::Lagged(lagged)) => assert_eq!(lagged.count, missed),
        other => panic!("expected a loss, found {other:?}"),
    }
    let rest = ends.poll(&mut |_: &Event<'_>| {}).expect("goes on");
    assert!(rest > 0);
}

#[test]
fn publishers_and_subscribers_follow_new_rules() {
    let bus = TestBus::new("reload", vec![passthrough("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut all = bus.subscribe("data:*", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:users:created").expect("a topic");
    let mut expected = Vec::new();
    let mut received = Vec::new();
    for round in 0..40 {
        let rules = match round % 4 {
            0 => vec![batch("data:*")],
            1 => vec![batch("data:*"), passthrough("data:users:*")],
            2 => vec![passthrough("data:*")],
            _ => vec![passthrough("*")],
        };
        drain
            .install_rules(&RuleTable::new(rules).expect("good rules"))
            .expect("few patterns");
        for number in 0..5 {
            let payload = format!("{round}.{number}");
            publisher
                .publish(topic, Level::Info, payload.as_bytes())
                .expect("room");
            expected.push(payload);
        }
        flush(&mut drain);
        keep_house(&mut drain);
        received.extend(
            poll(&mut all)
                .events
                .into_iter()
                .map(|(_, payload)| payload),
        );
    }
    received.extend(
        poll(&mut all)
            .events
            .into_iter()
            .map(|(_, payload)| payload),
    );
    // The event that tells a publisher of new rules still goes the old way, so only its order may differ.
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
}

#[test]
fn a_sleeper_is_woken_by_its_names_only() {
    let bus = TestBus::new("wake", vec![passthrough("chat:*"), passthrough("other:*")]);
    let (ready_tx, ready_rx) = std::sync::mpsc::channel();
    let mut reply = bus.subscribe("chat:reply", Since::Now);
    let waker = reply.waker();
    let sleeper = std::thread::spawn(move || {
        ready_tx.send(()).expect("the test listens");
        let event = reply.recv().expect("an event");
        assert!(matches!(reply.recv(), Err(RecvError::Woken)));
        (event, reply.counts())
    });
    ready_rx.recv().expect("the thread lives");
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let noise = publisher.topic("other:noise").expect("a topic");
    let reply = publisher.topic("chat:reply").expect("a topic");
    for _ in 0..100 {
        publisher
            .publish(noise, Level::Info, b"noise")
            .expect("room");
    }
    publisher.publish(reply, Level::Info, b"42").expect("room");
    while !bus.0.stats().lanes.is_empty() && !sleeper.is_finished() {
        // It ends once it is asked to after its event; asking early would end the first wait.
        if sleeper_has_event(&bus) {
            waker.wake();
        }
        std::thread::yield_now();
    }
    let (event, counts) = sleeper.join().expect("no panic");
    assert_eq!(event.payload, b"42");
    assert!(counts.wakes <= 2, "{counts:?}");
}

/// Statistics show what each subscriber has had.
fn sleeper_has_event(bus: &TestBus) -> bool {
    bus.0
        .stats()
        .subscribers
        .iter()
        .any(|subscriber| subscriber.delivered == 1)
}

#[test]
fn since_a_time_leaves_out_what_is_older() {
    let bus = TestBus::new("time", vec![passthrough("chat:*")]);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("chat:room").expect("a topic");
    publisher.publish(topic, Level::Info, b"old").expect("room");
    let now_ns = bus.0.clock().now_ns();
    publisher.publish(topic, Level::Info, b"new").expect("room");
    assert_eq!(
        poll(&mut bus.subscribe("chat:*", Since::Oldest)).payloads(),
        ["old", "new"]
    );
    assert_eq!(
        poll(&mut bus.subscribe("chat:*", Since::TimeNs(now_ns))).payloads(),
        ["new"]
    );
    let mut none = bus.subscribe("chat:*", Since::Now);
    assert!(matches!(
        none.recv_timeout(Duration::from_millis(1)),
        Err(RecvError::TimedOut)
    ));
}

#[test]
fn a_position_is_right_behind_what_was_received() {
    let bus = TestBus::new("resume", vec![passthrough("chat:*"), batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let start = bus.0.position();
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let room = publisher.topic("chat:room").expect("a topic");
    let created = publisher.topic("data:users:created").expect("a topic");
    let mut expected = Vec::new();
    for number in 0..30 {
        let payload = number.to_string();
        for topic in [room, created] {
            publisher
                .publish(topic, Level::Info, payload.as_bytes())
                .expect("room");
        }
        expected.extend([
            format!("chat:room {payload}"),
            format!("data:users:created {payload}"),
        ]);
        if number % 10 == 9 {
            flush_together(&mut drain);
        }
    }
    publish(&bus, "brief", "chat:brief", &["a", "b", "c"]);
    expected.extend(["a", "b", "c"].map(|payload| format!("chat:brief {payload}")));
    keep_house(&mut drain);
    keep_house(&mut drain);

    // A new subscription for each event, as agents do that take turns.
    let mut position = start;
    let mut received = Vec::new();
    for _ in 0..expected.len() {
        let token = position.to_string();
        let mut turn = bus.subscribe("*", Since::Position(token.parse().expect("our own")));
        let event = turn
            .recv_timeout(Duration::from_secs(60))
            .expect("an event");
        let payload = String::from_utf8(event.payload).expect("text");
        received.push(format!("{} {payload}", event.name));
        position = turn.position();
    }
    let mut rest = bus.subscribe("*", Since::Position(position));
    assert_eq!(poll(&mut rest).events, []);
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
}

/// One record for everything that waits.
fn flush_together(drain: &mut Drain) {
    if drain.directory_changed() {
        drain.housekeep();
    }
    let mut entries = Vec::new();
    let mut found = None;
    let mut count = 0;
    drain.pass(Scope::Batched, &mut |item| {
        if let Item::Record(record) = item {
            append_entry(&mut entries, &Entry::from(&record));
            count += 1;
            found = Some((
                record.channel,
                literal_prefix(record.name.text).to_owned(),
                record.time_ns,
            ));
        }
        Verdict::Keep
    });
    let Some((channel, prefix, time_ns)) = found else {
        return;
    };
    push(
        drain,
        channel,
        &prefix,
        (count, &entries),
        time_ns,
        u64::MAX,
    );
    drain.commit_batched(channel, &[]);
}

/// A flush of which only the lanes' part was done must not come true when a later one moves the tail.
#[test]
fn an_unfinished_commit_does_not_come_true_later() {
    let bus = TestBus::new("unfinished", vec![batch("data:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut all = bus.subscribe("data:*", Since::Now);
    let mut victim = bus.0.publisher("victim").expect("a publisher");
    let lost = victim.topic("data:users:lost").expect("a topic");
    drain.housekeep();
    let before = control_bytes(&bus);
    victim.publish(lost, Level::Info, b"1").expect("room");
    let channels = stage_batched(&mut drain);
    // As if it had died between the lanes' slots and the tail: the slots are there, the tail is not.
    let outbox = object_path(&bus, "outbox");
    let old = std::fs::read(&outbox).expect("the outbox");
    for &channel in &channels {
        drain.commit_batched(channel, &[]);
    }
    assert_ne!(control_bytes(&bus), before, "the slots were written");
    drop(drain);
    std::fs::write(&outbox, old).expect("the outbox as it was");

    let mut drain = bus.0.drain().expect("the lease");
    // The tail moves past where the unfinished flush would have put it, and the consumer dies again before it
    // has come to the victim.
    for _ in 0..3 {
        push_unrelated(&mut drain, channels[0]);
    }
    drop(drain);
    let mut drain = bus.0.drain().expect("the lease");
    flush(&mut drain);
    let payloads = poll(&mut all).payloads().join(" ");
    assert_eq!(payloads.matches('1').count(), 1, "{payloads}");
}

fn control_bytes(bus: &TestBus) -> Vec<u8> {
    std::fs::read(format!("/dev/shm/millpond.{}.control", bus.0.name()))
        .expect("the control segment")
}

/// An object of the bus, by its kind: `lane` or `outbox`.
fn object_path(bus: &TestBus, kind: &str) -> std::path::PathBuf {
    let prefix = format!("millpond.{}.{kind}.", bus.0.name());
    std::fs::read_dir("/dev/shm")
        .expect("shared memory")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .expect("an object of this kind")
        .path()
}

/// Moves the tail without draining any lane.
fn push_unrelated(drain: &mut Drain, channel: u32) {
    let mut entries = Vec::new();
    let entry = Entry {
        is_aggregate: false,
        level: 2,
        time_ns: 7,
        sequence: 0,
        name: NameRef {
            id: u32::MAX,
            text: "data:users:more",
        },
        schema_id: 0,
        lane_epoch: 1 << 40,
        source: 0,
        replaced: 0,
        payload: b"more",
    };
    append_entry(&mut entries, &entry);
    push(drain, channel, "data:users", (1, &entries), 7, u64::MAX);
    drain.commit_batched(channel, &[]);
}

/// Whatever stands in the words that a reader goes by, it ends, and says that the ring is damaged.
#[test]
fn a_reader_survives_words_that_are_nonsense() {
    use std::os::unix::fs::FileExt;
    // Offsets from `docs/formats/shm.md`: tail, overwrite and head positions.
    for (offset, what) in [(0x400, "tail"), (0x438, "overwrite"), (0x480, "head")] {
        for value in [1, 8, 1 << 40, u64::MAX, u64::MAX - 7] {
            let bus = TestBus::new(
                &format!("nonsense-{what}-{value:x}"),
                vec![passthrough("chat:*")],
            );
            let mut reader = bus.subscribe("chat:*", Since::Oldest);
            let mut publisher = bus.0.publisher("p").expect("a publisher");
            let topic = publisher.topic("chat:room").expect("a topic");
            publisher.publish(topic, Level::Info, b"1").expect("room");
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(object_path(&bus, "lane"))
                .expect("ours");
            file.write_all_at(&value.to_le_bytes(), offset)
                .expect("written");
            let seen = poll(&mut reader);
            assert!(seen.events.len() <= 1, "{what} {value:x}");
            poll(&mut reader);
        }
    }
}

#[test]
fn drops_behind_the_last_event_are_told_when_the_lane_ends() {
    let rule = Rule {
        overflow: millpond_bus::Overflow::DropNewest,
        ..passthrough("chat:*")
    };
    let bus = TestBus::new("last-drops", vec![rule]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut all = bus.subscribe("chat:*", Since::Now);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("chat:room").expect("a topic");
    for _ in 0..1000 {
        // Refused once the lane is full: nobody drains it.
        let _ = publisher.publish(topic, Level::Info, &[7; 200]);
    }
    let dropped = publisher.counts().dropped();
    drop(publisher);
    let mut seen = poll(&mut all);
    keep_house(&mut drain);
    keep_house(&mut drain);
    // A change of the directory lets it look.
    publish(&bus, "q", "chat:room", &["next"]);
    let mut more = poll(&mut all);
    seen.dropped.append(&mut more.dropped);
    let told: u64 = seen.dropped.iter().map(Dropped::count).sum();
    assert!(dropped > 0);
    assert_eq!(told, dropped);
    assert_eq!(
        (seen.events.len() + more.events.len()) as u64 + dropped,
        1001
    );
}

#[test]
fn a_position_of_a_subscription_leaves_nothing_out() {
    let bus = TestBus::new("unseen", vec![passthrough("chat:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut first = bus.subscribe("chat:*", Since::Now);
    assert_eq!(poll(&mut first).payloads(), [""; 0]);
    // It has not seen this lane yet, and when it is resumed the lane is gone.
    publish(&bus, "brief", "chat:room", &["1"]);
    let position = first.position();
    drop(first);
    keep_house(&mut drain);
    keep_house(&mut drain);
    let mut resumed = bus.subscribe("chat:*", Since::Position(position));
    assert_eq!(poll(&mut resumed).payloads(), ["1"]);
}

#[test]
fn events_that_a_recv_has_queued_count_in_the_next_run() {
    let bus = TestBus::new("queued", vec![passthrough("chat:*")]);
    let mut all = bus.subscribe("chat:*", Since::Now);
    publish(&bus, "p", "chat:room", &["1", "2", "3"]);
    assert_eq!(all.recv().expect("an event").payload, b"1");
    let mut seen = Seen::default();
    let events = all
        .run(&mut seen, Some(Duration::ZERO))
        .expect("two events");
    assert_eq!((events, seen.payloads()), (2, vec!["2", "3"]));
}

#[test]
fn a_lane_whose_outbox_finds_no_room_waits() {
    let options = BusOptions {
        rules: RuleTable::new(vec![batch("data:*")]).expect("good rules"),
        limits: millpond_bus::Limits {
            bus_bytes: 70 << 10,
            ..millpond_bus::Limits::default()
        },
        ..BusOptions::default()
    };
    let name = format!("test-sub-budget-{}", std::process::id());
    let bus = TestBus(Bus::attach(&name, &options).expect("a bus"));
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:x").expect("a topic");
    publisher.publish(topic, Level::Info, b"1").expect("room");
    let mut drain = bus.0.drain().expect("the lease");
    assert_eq!(drain.take_notices().len(), 1);
    drain.housekeep();
    assert_eq!(bus.0.stats().lanes.len(), 1, "the lane was thrown away");
}

#[test]
fn a_question_of_a_publisher_that_is_gone_comes_before_its_answer() {
    let bus = TestBus::new("estate-order", vec![passthrough("chat:*")]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut publisher = bus.0.publisher("answerer").expect("a publisher");
    let answer = publisher.topic("chat:answer").expect("a topic");
    let mut answerer = bus.subscribe("chat:question", Since::Now);
    let mut witness = bus.subscribe("chat:*", Since::Now);
    publish(&bus, "brief", "chat:question", &["question"]);
    assert_eq!(poll(&mut answerer).payloads(), ["question"]);
    publisher
        .publish(answer, Level::Info, b"answer")
        .expect("room");
    keep_house(&mut drain);
    keep_house(&mut drain);
    assert_eq!(poll(&mut witness).payloads(), ["question", "answer"]);
}

/// Lanes that came and went unseen, and of which even the last word was overwritten, are in the count as well.
#[test]
fn a_slow_reader_learns_of_publishers_that_it_never_saw() {
    let rule = Rule {
        outbox_bytes: 64 << 10,
        ..passthrough("chat:*")
    };
    let bus = TestBus::new("unseen-lag", vec![rule]);
    let mut drain = bus.0.drain().expect("the lease");
    let mut slow = bus.subscribe("chat:*", Since::Now);
    let mut lasting = bus.0.publisher("lasting").expect("a publisher");
    let room = lasting.topic("chat:room").expect("a topic");
    let payload = "x".repeat(100);
    let mut published = 0;
    for round in 0..3 {
        for _ in 0..60 {
            lasting.publish(room, Level::Info, b"here").expect("room");
            publish(&bus, "brief", "chat:room", &[payload.as_str(); 40]);
            published += 41;
            keep_house(&mut drain);
            keep_house(&mut drain);
        }
        // One that it has mapped when it goes away, in the middle of it all.
        if round == 1 {
            poll(&mut slow);
        }
        poll(&mut slow);
    }
    let counts = slow.counts();
    assert!(counts.lagged > 0, "the outbox is too large for this test");
    assert_eq!(counts.delivered + counts.lagged, published, "{counts:?}");
}
