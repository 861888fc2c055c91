//! The log makes one line and a count of an event that comes again and again; who replays it gets each.

use std::time::Duration;

use millpond::replay::{Replay, ReplaySince, Replayed};
use millpond::{Bus, BusOptions, Daemon, Guarantee, Level, Rule, RuleTable};

#[test]
fn an_event_that_came_five_times_is_given_five_times() {
    let rule = Rule {
        service: Some("messages".to_owned()),
        ..Rule::new("task:*".parse().expect("a pattern"))
    };
    let options = BusOptions {
        rules: RuleTable::new(vec![rule]).expect("good rules"),
        ..BusOptions::default()
    };
    let name = format!("test-replay-repeats-{}", std::process::id());
    let bus = Bus::attach(&name, &options).expect("a bus");
    let logs = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::builder(&bus, logs.path())
        .spawn()
        .expect("a consumer");
    let mut publisher = bus.publisher("agent").expect("a publisher");
    let topic = publisher.topic("task:handoff").expect("a topic");
    for payload in [&b"go"[..], b"go", b"go", b"go", b"go", b"stop"] {
        publisher
            .publish(topic, Level::Info, payload)
            .expect("space");
    }
    publisher
        .flush(Guarantee::Written, None)
        .expect("a consumer");

    let open = |since: ReplaySince| {
        let replay = Replay::new(&bus, logs.path()).since(since);
        replay.open().expect("a subscription")
    };
    let mut whole = open(ReplaySince::Oldest);
    let mut since = ReplaySince::Oldest;
    let mut times_ns = Vec::new();
    for expected in [&b"go"[..], b"go", b"go", b"go", b"go", b"stop"] {
        // One that reads on, and one that ends behind each event, as `millpond wait` does.
        let mut single = open(since);
        for subscription in [&mut whole, &mut single] {
            let next = subscription.recv_timeout(Duration::from_secs(60));
            let Ok(Replayed::Event(event)) = next else {
                panic!("{next:?}")
            };
            assert_eq!(event.payload, expected);
            assert_eq!(&*event.name, "task:handoff");
            times_ns.push(event.time_ns);
        }
        let cursor = single.cursor().to_string();
        since = ReplaySince::Cursor(cursor.parse().expect("a cursor"));
    }
    assert!(times_ns.is_sorted(), "{times_ns:?}");
    assert_eq!(whole.try_recv().expect("readable"), None);
    assert_eq!(open(since).try_recv().expect("readable"), None);
    assert_eq!((whole.counts().events, whole.counts().repeated), (6, 0));
    let log = std::fs::read_to_string(logs.path().join("messages/current.log")).expect("the log");
    assert!(log.contains("millpond repeat source="), "{log}");
    drop(publisher);
    daemon.stop().expect("it runs");
    bus.remove().expect("nobody uses it");
}
