//! Random bytes are written over rings that are in use: whoever reads them goes on, counts the damage, and other
//! channels are not affected.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use millpond_bus::{Event, Since, SubscribeOptions};
use millpond_tests::{Random, setting};

use crate::peers::Report;
use crate::support::{Place, Process, wait_until};

/// Where the live part of a ring begins, and where its data does.
const RING_OFFSET: u64 = 0x400;
const DATA_OFFSET: u64 = 0x1000;

fn write_over(name: &str, offset: u64, bytes: &[u8]) {
    let path = Path::new("/dev/shm").join(name);
    // It may be gone by now.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        file.write_all_at(bytes, offset).expect("inside of it");
    }
}

/// Writes nonsense over a ring of the kind, somewhere at or behind `from`.
fn spoil(place: &Place, random: &mut Random, kind: &str, from: u64) {
    for name in place.objects(kind) {
        let path = Path::new("/dev/shm").join(&name);
        let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let until = if from < DATA_OFFSET {
            RING_OFFSET + 0x180
        } else {
            length
        };
        let bytes: Vec<u8> = (0..8 + random.below(256))
            .map(|_| random.below(256) as u8)
            .collect();
        let offset = from + random.below(until.saturating_sub(from + bytes.len() as u64));
        write_over(&name, offset, &bytes);
    }
}

/// `kind`: which objects are spoilt. The rules of the victims and of the others use other rings.
fn nonsense_harms_its_own_channel_only(victim: &str, other: &str, kind: &str, from: u64) {
    let place = Place::new("nonsense in a ring", "peers");
    let mut random = Random::seeded();
    let rounds = setting("MILLPOND_TEST_KILLS", 20);
    let daemon = place.daemon("auto", &[]);
    let reader = place.subscriber("reader", &format!("{victim}:*"), &[]);
    let mut spoilt = place.source(
        "spoilt",
        &format!("{victim}:load:x"),
        &["rate=50000", "flush=0"],
    );
    wait_until(|| place.delivered("reader") > 1000);
    let names = place.objects(kind);
    assert_eq!(names.len(), 1, "{names:?}");
    for _ in 0..rounds {
        spoil(&place, &mut random, kind, from);
        std::thread::sleep(random.millis(5));
    }
    // Now that there are rings beside the spoilt one, they work.
    let good = place.subscriber("good", &format!("{other}:*"), &[]);
    let publisher = place.source("fine", &format!("{other}:load:x"), &["count=20000"]);
    let published = Report::finish(publisher).published();
    for _ in 0..rounds {
        for name in &names {
            let at = DATA_OFFSET + random.below(200_000);
            write_over(name, at, &[random.below(256) as u8; 64]);
        }
    }
    Report::end(good).assert_accounts_for(published);
    spoilt.let_go();
    let spoilt = Report::end(spoilt);
    let offered = spoilt.number("offered");
    // Once the consumer has given the lane up, publishing says so: it is full, or quarantined.
    let told_at_once = spoilt.number("refused") + spoilt.number("dropped");
    let report = Report::end(reader);
    // A number that was overwritten may be one that the subscription has had: that is a count too.
    let figures = [
        "delivered",
        "lagged",
        "damaged",
        "dropped",
        "filtered",
        "duplicates",
    ]
    .map(|key| report.number(key));
    eprintln!(
        "{kind} {from:x}: {offered} offered, [delivered, lagged, damaged, dropped, filtered, duplicates] {figures:?}"
    );
    // Whatever it did not get, some count tells of.
    assert!(
        figures[0] == offered || told_at_once > 0 || figures[1..].iter().any(|&count| count > 0),
        "{report:?}"
    );
    daemon.stop();
}

#[test]
fn nonsense_in_a_lane_harms_its_own_channel_only() {
    nonsense_harms_its_own_channel_only("pass", "batch", "lane.", DATA_OFFSET);
}

#[test]
fn nonsense_in_an_outbox_harms_its_own_channel_only() {
    nonsense_harms_its_own_channel_only("batch", "pass", "outbox.", DATA_OFFSET);
}

#[test]
fn nonsense_in_the_words_of_a_lane_harms_its_own_channel_only() {
    nonsense_harms_its_own_channel_only("pass", "batch", "lane.", RING_OFFSET);
}

#[test]
fn nonsense_in_the_words_of_an_outbox_harms_its_own_channel_only() {
    nonsense_harms_its_own_channel_only("batch", "pass", "outbox.", RING_OFFSET);
}

/// Words that fit each other and nothing else: a head in the middle of a word, near the tail, and an overwrite
/// that makes readers go there. In this process, so that a panic is the test's own.
#[test]
fn a_head_between_words_is_damage_and_no_panic() {
    let place = Place::new("a head between words", "peers");
    let mut random = Random::seeded();
    for round in 0..200 {
        let mut publisher = place.bus.publisher("p").expect("a publisher");
        let topic = publisher.topic("pass:x").expect("a topic");
        let options = SubscribeOptions {
            since: Since::Oldest,
            ..SubscribeOptions::new("reader", "pass:x".parse().expect("a pattern"))
        };
        let payload = vec![7; random.below(900) as usize];
        let level = millpond_bus::Level::Info;
        let mut subscription = place.bus.subscribe(options).expect("a subscription");
        publisher.publish(topic, level, &payload).expect("room");
        subscription.poll(&mut |_: &Event<'_>| {}).expect("skips");
        let capacity = 256u64 << 10;
        // To the very end of the ring, or a little short of it.
        let tail = capacity - 8 * (round % 5);
        let head = tail - (1 + random.below(40));
        let names = place.objects("lane.");
        let [name] = &names[..] else {
            panic!("{names:?}")
        };
        write_over(name, RING_OFFSET + 0x80, &head.to_le_bytes());
        write_over(name, RING_OFFSET + 0x38, &u64::to_le_bytes(0));
        write_over(name, RING_OFFSET, &tail.to_le_bytes());
        // Beyond the head as well, or only beyond where the reader stands.
        let overwrite = [capacity * 2, capacity + head - 64][round as usize % 2];
        write_over(name, RING_OFFSET + 0x38, &overwrite.to_le_bytes());
        subscription.poll(&mut |_: &Event<'_>| {}).expect("skips");
        assert!(
            !subscription.wait(Some(Duration::ZERO)),
            "it would read for ever"
        );
        drop((publisher, subscription));
        for name in names {
            let path = Path::new("/dev/shm").join(name);
            std::fs::remove_file(path).expect("ours");
        }
    }
}

/// Where processes end, what they hold in the end is counted by nobody but themselves.
#[test]
fn a_reader_of_nonsense_ends_when_it_is_told_to() {
    let place = Place::new("nonsense everywhere", "peers");
    let mut random = Random::seeded();
    let daemon = place.daemon("auto", &[]);
    let readers = ["pass", "batch", "log"]
        .map(|prefix| place.subscriber(prefix, &format!("{prefix}:*"), &[]));
    let mut sources = ["pass", "batch", "log"].map(|prefix| {
        place.source(
            prefix,
            &format!("{prefix}:load:x"),
            &["rate=20000", "flush=0"],
        )
    });
    for round in 0..setting("MILLPOND_TEST_KILLS", 20) {
        for kind in ["lane.", "outbox."] {
            let from = if round % 2 == 0 {
                RING_OFFSET
            } else {
                DATA_OFFSET
            };
            spoil(&place, &mut random, kind, from);
        }
        std::thread::sleep(random.millis(10));
    }
    sources.iter_mut().for_each(Process::let_go);
    for source in sources {
        Report::end(source);
    }
    for reader in readers {
        let report = Report::end(reader);
        eprintln!(
            "{} delivered, {} damaged",
            report.number("delivered"),
            report.number("damaged")
        );
    }
    // It may have things to complain of, and it still stops.
    let (status, lines) = daemon.end();
    assert!(status.code().is_some(), "{status} {lines:?}");
}
