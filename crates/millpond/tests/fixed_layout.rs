//! Fixed-layout events from end to end: what the log says of them, and what their aggregate says.

use millpond::zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use millpond::{
    Bus, BusOptions, Class, Daemon, Event, EventLayout, Guarantee, Level, Rule, RuleTable,
    SubscribeOptions,
};

#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[zerocopy(crate = "millpond::zerocopy")]
#[repr(C)]
#[event(name = "gpu:sample")]
struct Sample {
    #[event(unit = "mW")]
    power_mw: u32,
    clock_mhz: u32,
}

#[derive(Debug, Clone, Copy, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[zerocopy(crate = "millpond::zerocopy")]
#[repr(C)]
#[event(name = "gpu:other")]
struct Other {
    celsius: f64,
}

fn bus(test: &str) -> Bus {
    let rule = |pattern: &str| Rule::new(pattern.parse().expect("a pattern"));
    let rules = vec![
        Rule {
            service: Some("*".to_owned()),
            ..rule("log:*")
        },
        Rule {
            class: Class::Aggregate,
            ..rule("gpu:*")
        },
    ];
    let options = BusOptions {
        rules: RuleTable::new(rules).expect("good rules"),
        ..BusOptions::default()
    };
    let name = format!("test-fixed-{test}-{}", std::process::id());
    Bus::attach(&name, &options).expect("a bus")
}

#[test]
fn the_log_shows_the_fields() {
    let (bus, logs) = (bus("log"), tempfile::tempdir().expect("a directory"));
    let daemon = Daemon::builder(&bus, logs.path())
        .spawn()
        .expect("a consumer");
    let mut publisher = bus.publisher("sampler").expect("a publisher");
    let fields = publisher
        .event_topic_named::<Sample>("log:gpu:sample")
        .expect("a topic");
    let plain = publisher.topic("log:gpu:note").expect("a topic");
    let sample = Sample {
        power_mw: 300_000,
        clock_mhz: 1980,
    };
    publisher
        .publish_event(fields, Level::Info, &sample)
        .expect("room");
    publisher
        .publish(plain, Level::Info, b"plain")
        .expect("room");
    publisher.flush(Guarantee::Written, None).expect("written");
    let text = std::fs::read_to_string(logs.path().join("gpu/current.log")).expect("a log");
    let messages: Vec<&str> = text.lines().map(|line| &line[37..]).collect();
    assert_eq!(
        messages,
        [
            r#"sample {"power_mw":300000,"clock_mhz":1980}"#,
            "note plain"
        ]
    );
    drop(publisher);
    daemon.stop().expect("written");
    bus.remove().expect("unused");
}

#[test]
fn an_aggregate_sums_up_a_window_and_a_wrong_type_is_told_so() {
    let (bus, logs) = (bus("aggregate"), tempfile::tempdir().expect("a directory"));
    let daemon = Daemon::builder(&bus, logs.path())
        .spawn()
        .expect("a consumer");
    let options = SubscribeOptions::new("reader", "gpu:*".parse().expect("a pattern"));
    let mut summaries = bus.subscribe(options).expect("a subscription");
    let mut publisher = bus.publisher("sampler").expect("a publisher");
    let topic = publisher.event_topic::<Sample>().expect("a topic");
    for power_mw in [100, 400, 100] {
        let sample = Sample {
            power_mw,
            clock_mhz: 7,
        };
        publisher
            .publish_event(topic, Level::Info, &sample)
            .expect("room");
    }
    publisher.flush(Guarantee::Written, None).expect("taken");
    let (mut count, mut sum, mut min, mut max) = (0, 0.0, f64::MAX, 0.0_f64);
    while count < 3 {
        let event = summaries.recv().expect("a summary");
        let summary = event.as_event().aggregate().expect("an aggregate");
        let power = summary.fields().next().expect("a field");
        count += summary.count();
        sum += power.mean * summary.count() as f64;
        (min, max) = (min.min(power.min), max.max(power.max));

        let mismatch = event
            .as_event()
            .decode::<Other>()
            .expect_err("another type");
        let found = bus.schema(event.schema_id).expect("registered");
        let message = mismatch.with_found(Some(found)).to_string();
        assert!(
            message.contains("gpu:other") && message.contains("gpu:sample"),
            "{message}"
        );
    }
    assert_eq!((count, sum, min, max), (3, 600.0, 100.0, 400.0));
    assert_eq!(Sample::NAME, "gpu:sample");
    drop((publisher, summaries));
    daemon.stop().expect("written");
    bus.remove().expect("unused");
}
