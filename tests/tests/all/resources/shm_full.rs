//! A full `/dev/shm`: a small one of the test's own, in mounts of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;

use millpond_bus::{Bus, ErrorKind, Level, SubscribeOptions};
use millpond_tests::options;

use super::is_inside;
use crate::support::{Found, Place, Published, assert_identity, source, wait_until};

const FILLER: &str = "/dev/shm/filler";

/// Takes all the room that there is.
fn fill() {
    let mut filler = File::options()
        .create(true)
        .append(true)
        .open(FILLER)
        .expect("a file");
    let zeros = vec![0; 4096];
    while filler.write(&zeros).is_ok_and(|written| written > 0) {}
    let free = rustix::fs::statvfs("/dev/shm")
        .expect("it is there")
        .f_bavail;
    assert_eq!(free, 0, "it is full");
}

fn all_objects() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").expect("/dev/shm");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[test]
fn a_bus_that_does_not_fit_is_refused_and_leaves_nothing() {
    let name = "shm_full::a_bus_that_does_not_fit_is_refused_and_leaves_nothing";
    // From no page at all to nearly enough.
    if !is_inside(name, "mount -t tmpfs -o size=256k millpond-test /dev/shm") {
        return;
    }
    for pages in [0, 1, 16, 48] {
        let filler = vec![0; (256 << 10) - pages * 4096];
        fs::write(FILLER, filler).expect("room for it");
        let before = all_objects();
        let error = Bus::attach("mptest-full", &options("block")).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("no room") && text.contains("/dev/shm"),
            "{text}"
        );
        assert_eq!(all_objects(), before);
        eprintln!("{pages} pages free: {text}");
    }
}

/// The room runs out while publishers, a daemon and a subscriber are there: they go on, who comes is refused in words,
/// a daemon is killed and begins anew without any room; and once there is room again, everything works.
#[test]
fn who_is_there_goes_on_and_who_comes_is_refused() {
    let name = "shm_full::who_is_there_goes_on_and_who_comes_is_refused";
    if !is_inside(name, "mount -t tmpfs -o size=64m millpond-test /dev/shm") {
        return;
    }
    let place = Place::new("/dev/shm is full", "peers");
    let daemon = place.daemon("pwrite", &[]);
    let publisher = place.publisher("p", "log:web:p", &["size=100"]);
    let mut own = place.bus.publisher("own").expect("a publisher");
    let topic = own.topic("log:web:own").expect("a lane");
    own.publish(topic, Level::Info, b"own 0").expect("room");
    fill();
    let before = all_objects();
    // A lane, for a rule that has none yet.
    let error = own.topic("batch:users").expect_err("no room for a lane");
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
    // A process.
    let (status, lines) = place
        .publisher("late", "log:web:late", &["count=1"])
        .finish();
    assert!(!status.success());
    assert!(
        lines.last().is_some_and(|line| line.contains("no room")),
        "{lines:?}"
    );
    // Another bus.
    let error = Bus::attach("mptest-other", &options("block")).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    // A subscriber.
    let wanted = SubscribeOptions::new("late", "batch:*".parse().expect("a pattern"));
    let error = place
        .bus
        .subscribe(wanted.clone())
        .expect_err("no room for its sign of life");
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert_eq!(all_objects(), before, "nothing is left behind");
    // Those who have their lanes go on.
    for number in 1..2000 {
        let text = format!("own {number}");
        own.publish(topic, Level::Info, text.as_bytes())
            .expect("room in the lane");
    }
    own.flush(millpond_bus::Guarantee::Written, None)
        .expect("written");
    // A daemon that begins now finds what the one before had, and no room for more: history, outboxes.
    daemon.kill();
    let daemon = place.daemon("pwrite", &[]);
    own.publish(topic, Level::Info, b"own 2000")
        .expect("room in the lane");
    own.flush(millpond_bus::Guarantee::Written, None)
        .expect("written");
    // Statistics are to be had, and make nothing.
    let stats = place.bus.stats();
    assert_eq!(source(&stats, "own").written, 2001);
    place.bus.history();
    fs::remove_file(FILLER).expect("room again");
    let late = Published::of(
        place
            .publisher("late", "log:web:late", &["count=1000"])
            .finish(),
    );
    assert_eq!(late.published, 1000);
    let mut subscription = place.bus.subscribe(wanted).expect("room");
    let topic = own.topic("batch:users").expect("a lane");
    own.publish(topic, Level::Info, b"own 2001").expect("room");
    assert_eq!(subscription.recv().expect("it comes").payload, b"own 2001");
    drop((own, subscription));
    let p = crate::support::outcomes_of(vec![publisher]);
    let stats = place.settled();
    daemon.stop();
    let published = p["p0"].published;
    let expected = BTreeMap::from([
        ("own".to_owned(), 2001),
        ("late".to_owned(), 1000),
        ("p".to_owned(), published),
    ]);
    Found::read(&place.logs()).assert_complete(&expected);
    assert_identity(source(&stats, "p"));
    eprintln!("/dev/shm full: {published} events of one who was there, each once");
}

/// A bus, and then a page less each time for the first daemon: what it makes as it begins never ends in a signal.
#[test]
fn a_daemon_begins_or_is_refused_however_little_room_there_is() {
    let name = "shm_full::a_daemon_begins_or_is_refused_however_little_room_there_is";
    if !is_inside(name, "mount -t tmpfs -o size=64m millpond-test /dev/shm") {
        return;
    }
    for pages in [0, 1, 2, 7, 33, 200, 600] {
        let place = Place::new("a daemon in a full /dev/shm", "peers");
        let mut own = place.bus.publisher("own").expect("a publisher");
        let topics = ["log:web:own", "batch:a", "pass:a", "conflate:a"]
            .map(|name| own.topic(name).expect("a lane"));
        for topic in topics {
            own.publish(topic, Level::Info, b"own 0").expect("room");
        }
        fill();
        let length = fs::metadata(FILLER).expect("it is there").len();
        let filler = File::options().write(true).open(FILLER).expect("ours");
        filler.set_len(length - pages * 4096).expect("shorter");
        drop(filler);
        let mut daemon = place.start_daemon("pwrite", &[]);
        let first = daemon.line_with("");
        eprintln!("{pages} pages: {first}");
        assert!(
            first.starts_with("ready") || first.starts_with("refused"),
            "{first}"
        );
        if first.starts_with("ready") {
            // What needs no outbox is written; the rest waits for room.
            wait_until(|| {
                place
                    .bus
                    .stats()
                    .sources
                    .iter()
                    .any(|source| source.written == 1)
            });
            assert!(!daemon.has_ended());
            daemon.stop();
        }
        fs::remove_file(FILLER).expect("room again");
        let daemon = place.daemon("pwrite", &[]);
        drop(own);
        place.settled();
        daemon.stop();
        Found::read(&place.logs()).assert_complete(&BTreeMap::from([("own".to_owned(), 1)]));
    }
}
