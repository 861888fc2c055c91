//! Publishers and subscribers that come and go, a thousand attaches a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Event, Guarantee, Level, SubscribeOptions};
use millpond_tests::setting;

use super::{handles, status_kb};
use crate::support::{Found, Place, Runs, assert_identity, source, wait_until};

const ATTACHES_PER_S: u64 = 1000;
const LABELS: u64 = 20;

/// What must not grow.
#[derive(Debug, Clone, Copy)]
struct Held {
    rss_kb: u64,
    handles: usize,
    objects: usize,
    lanes: usize,
}

impl Held {
    fn now(place: &Place, daemon: u32) -> Self {
        Held {
            rss_kb: status_kb(daemon, "RssAnon"),
            handles: handles(daemon),
            objects: place.objects("").len(),
            lanes: place.bus.stats().lanes.len(),
        }
    }
}

/// Each round attaches, makes a lane, publishes twice, subscribes, and is gone. In the end everything is in the files, and
/// nothing is left of anyone.
#[test]
fn a_thousand_attaches_a_second_leave_nothing() {
    let place = Place::new("attach and detach", "drop");
    let daemon = place.daemon("auto", &[]);
    let seconds = setting("MILLPOND_TEST_CHURN_SECONDS", 2);
    let rounds = seconds * ATTACHES_PER_S / 2; // a publisher and a subscriber each
    let start = Instant::now();
    let before = Held::now(&place, daemon.pid());
    let own_handles = handles(std::process::id());
    let mut published: BTreeMap<String, u64> = BTreeMap::new();
    let mut held = vec![before];
    for round in 0..rounds {
        let due = start + Duration::from_nanos(round * 2_000_000_000 / ATTACHES_PER_S);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let label = format!("own{}", round % LABELS);
        let bus = Bus::open(&place.name).expect("it is there");
        let mut publisher = bus.publisher(&label).expect("a publisher");
        let topic = publisher
            .topic(&format!("log:web:{label}"))
            .expect("a lane");
        let number = published.entry(label.clone()).or_default();
        for _ in 0..2 {
            let text = format!("{label} {number}");
            publisher
                .publish(topic, Level::Info, text.as_bytes())
                .expect("room");
            *number += 1;
        }
        let wanted = SubscribeOptions::new(&label, "pass:*".parse().expect("a pattern"));
        let mut subscription = bus.subscribe(wanted).expect("a seat");
        let mut nothing = |_: &Event<'_>| {};
        subscription.poll(&mut nothing).expect("it reads");
        if round % LABELS == LABELS - 1 {
            // One label has one lane at a time, so that its numbers are in order.
            publisher.flush(Guarantee::Written, None).expect("written");
        }
        if (round + 1).is_multiple_of((rounds / 20).max(1)) {
            held.push(Held::now(&place, daemon.pid()));
        }
    }
    let took = start.elapsed();
    let stats = place.settled();
    wait_until(|| place.objects("subscriber.").is_empty());
    let after = Held::now(&place, daemon.pid());
    // The consumer's record of the lanes goes with the lanes.
    wait_until(|| handles(daemon.pid()) <= before.handles + 8);
    assert!(
        handles(std::process::id()) <= own_handles + 8,
        "handles of our own"
    );
    assert_eq!(after.objects, before.objects, "{:?}", place.objects(""));
    assert_eq!(stats.sources.len() as u64, LABELS);
    daemon.stop();
    let events: u64 = published.values().sum();
    let found = Found::read(&place.logs());
    for (label, &count) in &published {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!((source.published, source.written), (count, count));
        assert_eq!(found.sequences[label], Runs(vec![(0, count - 1)]));
    }
    found.assert_complete(&published);
    let rss = |part: &[Held]| part.iter().map(|held| held.rss_kb).max().unwrap_or(0);
    let quarter = held.len() / 4;
    let (first, last) = (rss(&held[1..=quarter]), rss(&held[held.len() - quarter..]));
    let most = |of: fn(&Held) -> usize| held.iter().map(of).max().unwrap_or(0);
    eprintln!(
        "{} attaches in {took:?}, {events} events, each once; RssAnon {} kB before, at most {first} kB in the first \
         quarter, {last} kB in the last, {} kB after; at most {} handles, {} objects, {} lanes at once; after: {after:?}",
        2 * rounds,
        before.rss_kb,
        after.rss_kb,
        most(|held| held.handles),
        most(|held| held.objects),
        most(|held| held.lanes),
    );
    assert!(last <= first + 4096, "{held:?}");
}

/// More sources than the table has room for: the rest are one source together, and nothing is lost of any.
#[test]
fn more_sources_than_the_table_has_are_counted_together() {
    let place = Place::new("1,100 sources", "block");
    let daemon = place.daemon("auto", &[]);
    for number in 0..1100 {
        let label = format!("s{number}");
        let mut publisher = place.bus.publisher(&label).expect("a publisher");
        let topic = publisher
            .topic(&format!("log:web:{label}"))
            .expect("a lane");
        let text = format!("{label} 0");
        publisher
            .publish(topic, Level::Info, text.as_bytes())
            .expect("room");
    }
    let stats = place.settled();
    let published: u64 = stats.sources.iter().map(|source| source.published).sum();
    stats.sources.iter().for_each(assert_identity);
    assert_eq!(published, 1100);
    let others: u64 = (stats.sources.iter())
        .filter(|source| source.label == "(other)")
        .map(|source| source.written)
        .sum();
    assert_eq!(stats.sources.len(), 1024);
    assert_eq!(others, 1100 - 1023);
    daemon.stop();
    let expected = (0..1100).map(|number| (format!("s{number}"), 1)).collect();
    Found::read(&place.logs()).assert_complete(&expected);
}
