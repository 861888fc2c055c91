//! The bus against a plain queue: random publishers, random drains, exact accounts. Real shared memory.
//!
//! Each case prints its seed through proptest where it fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use millpond_bus::{
    Bus, BusOptions, ErrorKind, Item, Level, Limits, Overflow, PublishError, Rule, RuleTable,
    Scope, Verdict,
};
use proptest::prelude::*;

/// A bus of its own for each case, removed at the end.
struct TestBus(Bus);

impl TestBus {
    fn new(overflow: Overflow, lane_bytes: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pattern = "*".parse().expect("a pattern");
        let rule = Rule {
            overflow,
            lane_bytes,
            payload_bytes_limit: lane_bytes / 4,
            service: Some("*".into()),
            ..Rule::new(pattern)
        };
        let rules = RuleTable::new(vec![rule]).expect("one good rule");
        let options = BusOptions {
            rules,
            ..BusOptions::default()
        };
        let name = format!("test-{}-{number}", std::process::id());
        TestBus(Bus::attach(&name, &options).expect("shared memory can be had"))
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.0.remove().expect("nobody uses it");
    }
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        publisher: usize,
        length: usize,
    },
    Batch {
        publisher: usize,
        lengths: Vec<usize>,
    },
    Claim {
        publisher: usize,
        claimed: usize,
        written: usize,
    },
    Abandon {
        publisher: usize,
        length: usize,
    },
    Drain {
        at_most: usize,
    },
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0..200usize, 0..17_000usize];
    prop_oneof![
        6 => (0..3usize, length.clone()).prop_map(|(publisher, length)| Step::Publish { publisher, length }),
        2 => (0..3usize, prop::collection::vec(0..2000usize, 0..20))
            .prop_map(|(publisher, lengths)| Step::Batch { publisher, lengths }),
        2 => (0..3usize, 0..5000usize, 0..5000usize).prop_map(|(publisher, a, b)| Step::Claim {
            publisher, claimed: a.max(b), written: a.min(b),
        }),
        1 => (0..3usize, length).prop_map(|(publisher, length)| Step::Abandon { publisher, length }),
        4 => (0..60usize).prop_map(|at_most| Step::Drain { at_most }),
        3 => Just(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the history: each publisher's accepted events arrive once, whole and in order, the missing
    /// numbers are exactly the refused ones, and the merge is sorted by time.
    #[test]
    fn the_bus_is_a_queue_that_counts_what_it_refuses(steps in prop::collection::vec(step(), 1..200)) {
        let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
        let bus = &bus.0;
        let mut drain = bus.drain().expect("the only consumer");
        let mut publishers: Vec<_> = (0..3)
            .map(|number| {
                let mut publisher = bus.publisher(&format!("p{number}")).expect("a label");
                let topic = publisher.topic(&format!("s{number}:t")).expect("a rule");
                (publisher, topic)
            })
            .collect();
        drain.housekeep();
        let mut accepted: [Vec<(u64, Vec<u8>)>; 3] = Default::default();
        let mut refused = [0u64; 3];
        let mut seen: BTreeMap<String, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
        let mut missing: BTreeMap<String, u64> = BTreeMap::new();
        let mut fill = 0u8;
        let mut payload = |length: usize| {
            fill = fill.wrapping_add(1);
            vec![fill; length]
        };
        let mut take = |drain: &mut millpond_bus::Drain, at_most: usize| {
            let mut taken = 0;
            let mut last_ns = 0;
            drain.pass(Scope::Persisted, &mut |item: Item<'_>| match item {
                Item::Gap(gap) => {
                    *missing.entry(gap.label.to_owned()).or_default() += gap.last - gap.first + 1;
                    Verdict::Keep
                }
                Item::Record(_) if taken == at_most => Verdict::Stop,
                Item::Record(record) => {
                    assert!(record.time_ns >= last_ns, "merged by time");
                    last_ns = record.time_ns;
                    taken += 1;
                    let of_label = seen.entry(record.label.to_owned()).or_default();
                    of_label.push((record.sequence, record.payload.to_vec()));
                    Verdict::Keep
                }
            });
        };
        for step in steps {
            match step {
                Step::Publish { publisher, length } => {
                    let bytes = payload(length);
                    let (of, topic) = &mut publishers[publisher];
                    match of.publish(*topic, Level::Info, &bytes) {
                        Ok(sequence) => accepted[publisher].push((sequence, bytes)),
                        Err(PublishError::Full | PublishError::TooLong { .. }) => refused[publisher] += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Batch { publisher, lengths } => {
                    let (of, topic) = &mut publishers[publisher];
                    let first = of.counts().published;
                    let mut batch = of.batch(*topic).expect("its own topic");
                    for (number, length) in lengths.into_iter().enumerate() {
                        let bytes = payload(length);
                        match batch.push(Level::Info, &bytes) {
                            Ok(()) => accepted[publisher].push((first + number as u64, bytes)),
                            Err(_) => refused[publisher] += 1,
                        }
                    }
                    batch.commit();
                }
                Step::Claim { publisher, claimed, written } => {
                    let (of, topic) = &mut publishers[publisher];
                    match of.claim(*topic, Level::Info, claimed) {
                        Ok(mut claim) => {
                            let bytes = payload(written);
                            let (head, tail) = bytes.split_at(written / 2);
                            assert!(claim.append(head) && claim.append(tail));
                            assert!(!claim.append(&vec![0; claimed - written + 1]));
                            accepted[publisher].push((claim.commit(), bytes));
                        }
                        Err(_) => refused[publisher] += 1,
                    }
                }
                Step::Abandon { publisher, length } => {
                    let (of, topic) = &mut publishers[publisher];
                    match of.claim(*topic, Level::Info, length) {
                        Ok(_abandoned) => {}
                        Err(_) => refused[publisher] += 1,
                    }
                }
                Step::Drain { at_most } => take(&mut drain, at_most),
                Step::Commit => {
                    let mark = drain.mark(Scope::Persisted);
                    drain.commit(mark, &[], false);
                }
            }
        }
        take(&mut drain, usize::MAX);
        take(&mut drain, usize::MAX); // the gaps behind the last records
        let mark = drain.mark(Scope::Persisted);
        drain.commit(mark, &[], false);
        for number in 0..3 {
            let label = format!("p{number}");
            prop_assert_eq!(seen.remove(&label).unwrap_or_default(), accepted[number].clone());
            prop_assert_eq!(missing.remove(&label).unwrap_or(0), refused[number]);
        }
        for source in bus.stats().sources {
            prop_assert_eq!(source.published, source.delivered + source.dropped.total());
            prop_assert_eq!(source.in_flight, 0);
        }
    }
}

#[test]
fn a_new_consumer_goes_on_where_the_last_one_committed() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let bus = &bus.0;
    let mut publisher = bus.publisher("p").expect("a label");
    let topic = publisher.topic("s:t").expect("a rule");
    let publish = |publisher: &mut millpond_bus::Publisher, text: &str| {
        publisher
            .publish(topic, Level::Info, text.as_bytes())
            .expect("there is room");
    };
    let take = |drain: &mut millpond_bus::Drain| {
        let mut texts = Vec::new();
        drain.pass(Scope::Persisted, &mut |item: Item<'_>| {
            if let Item::Record(record) = item {
                texts.push(String::from_utf8_lossy(record.payload).into_owned());
            }
            Verdict::Keep
        });
        texts
    };
    publish(&mut publisher, "one");
    let mut first = bus.drain().expect("the only consumer");
    assert_eq!(take(&mut first), ["one"]);
    let mark = first.mark(Scope::Persisted);
    first.commit(mark, &[], false);
    publish(&mut publisher, "two");
    assert_eq!(take(&mut first), ["two"]);
    // It dies before it can commit.
    drop(first);
    publish(&mut publisher, "three");
    let mut second = bus.drain().expect("the lease is free");
    assert_eq!(take(&mut second), ["two", "three"]);
}

#[test]
fn limits_and_names_are_refused_with_thing_value_and_remedy() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let bus = &bus.0;
    let mut publisher = bus.publisher("p").expect("a label");
    let topic = publisher.topic("s:t").expect("a rule");
    let error = publisher
        .publish(topic, Level::Info, &vec![0; 20_000])
        .expect_err("too long");
    assert_eq!(
        error,
        PublishError::TooLong {
            length_bytes: 20_000,
            limit_bytes: 16_384
        }
    );
    assert!(error.to_string().contains("payload-bytes-limit"));
    assert_eq!(publisher.counts().dropped_too_long, 1);
    for name in ["", "a::b", "a b", "*"] {
        let error = publisher.topic(name).expect_err("no event name");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
    }
    assert!(bus.publisher("two words").is_err());
    for name in ["", "../x", "a/b", &"x".repeat(300), "a\nb"] {
        let error = Bus::attach(name, &BusOptions::default()).expect_err("no bus name");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
    }
    let foreign = bus
        .publisher("q")
        .expect("a label")
        .topic("s:t")
        .expect("a rule");
    let refused = publisher.publish(foreign, Level::Info, b"x");
    assert_eq!(refused, Err(PublishError::ForeignTopic));
}

#[test]
fn a_bus_without_room_refuses_a_lane_and_says_what_to_do() {
    let name = format!("test-full-{}", std::process::id());
    let limits = Limits {
        bus_bytes: 2 << 20,
        lanes: 8,
    };
    let options = BusOptions {
        limits,
        ..BusOptions::default()
    };
    let bus = TestBus(Bus::attach(&name, &options).expect("shared memory can be had"));
    let mut first = bus.0.publisher("p").expect("a label");
    first.topic("data:x").expect("one lane of 1 MiB fits");
    let error = first.topic("log:x").expect_err("one of 4 MiB does not");
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("bus-bytes"), "{error}");
}

#[test]
fn a_second_consumer_is_refused_with_the_first_ones_process() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let drain = bus.0.drain().expect("the only consumer");
    let error = bus.0.drain().expect_err("there is one");
    assert_eq!(error.kind(), ErrorKind::AlreadyRunning);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(drain);
    bus.0.drain().expect("the lease is free again");
}

#[test]
fn those_who_only_look_keep_no_consumer_from_its_lease() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // To look is to hold the lease for a moment.
            while !is_over.load(Ordering::Relaxed) {
                bus.0.consumer();
            }
        });
        let refused = (0..5000).find_map(|_| bus.0.drain().err());
        is_over.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

/// Writes words over the object of this bus whose name begins so.
fn write_over(bus: &Bus, kind: &str, offset: u64, words: &[u64]) {
    let prefix = format!("millpond.{}.{kind}", bus.name());
    let entries = std::fs::read_dir("/dev/shm").expect("shared memory");
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names
        .find(|name| name.starts_with(&prefix))
        .expect("the object");
    let path = std::path::Path::new("/dev/shm").join(name);
    let file = std::fs::File::options().write(true).open(path);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    std::os::unix::fs::FileExt::write_all_at(&file.expect("ours"), &bytes, offset).expect("inside");
}

/// Payloads that a pass gives, committed.
fn take(drain: &mut millpond_bus::Drain, scope: Scope) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    drain.pass(scope, &mut |item: Item<'_>| {
        if let Item::Record(record) = item {
            taken.push(record.payload.to_vec());
        }
        Verdict::Keep
    });
    let mark = drain.mark(Scope::Persisted);
    drain.commit(mark, &[], false);
    taken
}

#[test]
fn an_outbox_at_the_end_of_all_positions_is_made_anew() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let rules = RuleTable::new(vec![Rule::new("*".parse().expect("a pattern"))]);
    let mut drain = bus.0.drain().expect("the lease");
    drain
        .install_rules(&rules.expect("a rule"))
        .expect("it fits");
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:x").expect("a topic");
    publisher.publish(topic, Level::Info, b"1").expect("room");
    drain.housekeep();
    drop(drain);
    for position in [u64::MAX - 7, u64::MAX - 4095, 1 << 63] {
        for (offset, word) in [(0x400, position), (0x438, u64::MAX), (0x480, position)] {
            write_over(&bus.0, "outbox.", offset, &[word]);
        }
        let mut drain = bus.0.drain().expect("the lease");
        let channel = drain.channel(&"*".parse().expect("a pattern"));
        let channel = channel.expect("the rule's");
        assert_eq!(take(&mut drain, Scope::Batched), [b"1"], "{position}");
        let entries = [];
        let parts = millpond_bus::BatchParts {
            class: millpond_bus::Class::Batch,
            prefix: "data",
            count: 0,
            first_time_ns: 0,
            last_time_ns: 0,
            entries: &entries,
        };
        let outbox = drain.outbox(channel).expect("made anew");
        assert!(outbox.push(&parts, 0), "there is room");
    }
}

#[test]
fn an_epoch_that_was_written_over_is_told() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    for epoch in [u64::MAX, 1 << 56] {
        write_over(&bus.0, "control", 0x190, &[epoch]);
        let publisher = bus.0.publisher("p");
        let error = publisher.map(|_| ()).expect_err("no epoch is left");
        assert_eq!(error.kind(), ErrorKind::WrongLayout);
        assert!(error.to_string().contains("is damaged"), "{error}");
    }
}

#[test]
fn counters_that_were_written_over_stop_nobody() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:x").expect("a topic");
    publisher.publish(topic, Level::Info, b"1").expect("room");
    let mut drain = bus.0.drain().expect("the lease");
    assert_eq!(take(&mut drain, Scope::Persisted), [b"1"]);
    drop(drain);
    // Both banks of the lane in the first slot, behind its epoch, position and next number.
    for bank in [0, 1024 * 128] {
        write_over(&bus.0, "control", 0x10_f000 + bank + 24, &[u64::MAX; 6]);
        write_over(&bus.0, "control", 0x10_f000 + bank + 88, &[u64::MAX]);
    }
    let mut drain = bus.0.drain().expect("the lease");
    publisher.publish(topic, Level::Info, b"2").expect("room");
    assert_eq!(take(&mut drain, Scope::Persisted), [b"2"]);
    assert_eq!(bus.0.stats().lanes.len(), 1);
    bus.0.history();
}

/// A lane that was cut and has its length again looks like a full one, which the consumer will never empty.
#[test]
fn a_publisher_that_waits_for_room_in_a_wiped_lane_is_told() {
    let deadline = std::time::Duration::from_secs(600);
    let bus = TestBus::new(Overflow::Block { deadline }, 64 << 10);
    let mut publisher = bus.0.publisher("waits").expect("a label");
    let topic = publisher.topic("data:x").expect("the rule matches");
    let mut publish = || publisher.publish(topic, Level::Info, &[0; 4096]);
    publish().expect("there is room");
    write_over(&bus.0, "lane", 0, &[0]);
    let refused = std::iter::repeat_with(publish).find_map(Result::err);
    assert_eq!(refused, Some(PublishError::Lost));
}

#[test]
fn the_last_of_all_numbers_is_damage() {
    let bus = TestBus::new(Overflow::DropNewest, 64 << 10);
    let mut publisher = bus.0.publisher("p").expect("a publisher");
    let topic = publisher.topic("data:x").expect("a topic");
    publisher.publish(topic, Level::Info, b"1").expect("room");
    let mut drain = bus.0.drain().expect("the lease");
    // As if everything before it had been read: the number of the lane's commit, and that of the record.
    drop(drain);
    write_over(&bus.0, "control", 0x10_f000 + 16, &[u64::MAX - 1]);
    write_over(&bus.0, "lane.", 0x1000 + 16, &[u64::MAX]);
    drain = bus.0.drain().expect("the lease");
    assert_eq!(take(&mut drain, Scope::Persisted), Vec::<Vec<u8>>::new());
    assert!(bus.0.stats().lanes[0].quarantined);
}

#[test]
fn sums_of_a_history_that_was_written_over_end() {
    let far = millpond_bus::Interval {
        start_ns: u64::MAX,
        published: u64::MAX,
        ..millpond_bus::Interval::default()
    };
    let sum = millpond_bus::sum_since(&[far, far], 1);
    assert_eq!(sum.published, u64::MAX);
}
