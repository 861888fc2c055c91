//! A publisher is killed in the middle: what it committed is in the log, its lane goes, the bus goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_tests::Random;

use crate::support::{Found, Place, Published, assert_identity, source, wait_until};

/// The last `committed N` of a publisher.
fn committed(lines: &[String]) -> u64 {
    let numbers = lines
        .iter()
        .filter_map(|line| line.strip_prefix("committed "));
    numbers
        .filter_map(|number| number.parse().ok())
        .max()
        .expect("it said something")
}

fn what_it_committed_is_kept(backend: &str, batch: &str) {
    let place = Place::new("kill -9 of a publisher", "block");
    let mut random = Random::seeded();
    let daemon = place.daemon(backend, &[]);
    let mut least = 0;
    for index in 0..3 {
        let label = format!("victim{index}");
        let mut victim = place.publisher(&label, &format!("log:web:{label}"), &[batch]);
        victim.line_with("committed");
        std::thread::sleep(Duration::from_millis(30) + random.millis(100));
        least = committed(&victim.kill());
    }
    let stats = place.settled();
    assert!(place.objects("lane.").is_empty());
    // The daemon goes on.
    let after = Published::of(
        place
            .publisher("after", "log:web:after", &["count=1000"])
            .finish(),
    );
    assert_eq!(after.published, 1000);
    place.settled();
    daemon.stop();
    let mut expected = BTreeMap::from([("after".to_owned(), 1000)]);
    for index in 0..3 {
        let label = format!("victim{index}");
        let source = source(&stats, &label);
        assert_identity(source);
        assert_eq!(source.dropped.total(), 0);
        expected.insert(label, source.written);
    }
    assert!(
        expected["victim2"] >= least && least > 0,
        "{least} {expected:?}"
    );
    Found::read(&place.logs()).assert_complete(&expected);
    eprintln!("{backend} {batch}: {expected:?}, of the last at least {least}");
}

#[test]
fn killed_publisher_loses_nothing_it_committed_auto() {
    what_it_committed_is_kept("auto", "batch=0");
}

#[test]
fn killed_publisher_loses_nothing_it_committed_pwrite() {
    what_it_committed_is_kept("pwrite", "batch=16");
}

/// Both die, the daemon first: the next daemon drains what the dead publisher left.
#[test]
fn lane_of_a_dead_publisher_waits_for_the_next_daemon() {
    let place = Place::new("both killed", "block");
    let daemon = place.daemon("auto", &[]);
    let mut victim = place.publisher("victim", "log:web:victim", &["size=100"]);
    victim.line_with("committed");
    std::thread::sleep(Duration::from_millis(50));
    daemon.kill();
    // It fills its lane and waits.
    let mut before = 0;
    wait_until(|| {
        std::thread::sleep(Duration::from_millis(50));
        let now = place.bus.stats().sources[0].published;
        std::mem::replace(&mut before, now) == now && now > 0
    });
    let least = committed(&victim.kill());
    assert_eq!(place.objects("lane.").len(), 1);
    let daemon = place.daemon("auto", &[]);
    let stats = place.settled();
    daemon.stop();
    let source = source(&stats, "victim");
    assert_identity(source);
    assert!(source.written >= least.max(before));
    let expected = BTreeMap::from([("victim".to_owned(), source.written)]);
    Found::read(&place.logs()).assert_complete(&expected);
}
