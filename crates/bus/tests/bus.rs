//! The bus against a plain queue: random publishers, random drains, exact accounts. Real shared memory.
//!
//! Each case prints its seed through proptest where it fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

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
