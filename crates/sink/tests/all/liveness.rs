//! Lines that say that a service is alive, and counts that no line has told.

use std::time::Duration;

use millpond_bus::Untold;
use millpond_logfile::parse_line;
use millpond_sink::{Policy, ServicePolicy};

use crate::support::{Place, policy, text_of};

/// Messages of our own lines.
fn told(place: &Place, service: &str) -> Vec<String> {
    let dir = place.service_dir(service);
    let mut told = Vec::new();
    for id in place.segments(service) {
        for line in text_of(&dir, id).split_inclusive(|&byte| byte == b'\n') {
            let line = parse_line(line).expect("a line");
            if line.source == b"millpond" {
                told.push(String::from_utf8_lossy(line.message).into_owned());
            }
        }
    }
    told
}

#[test]
fn services_say_that_they_are_alive_silent_ones_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let second = 1_000_000_000;
    let rare = ServicePolicy {
        liveness_interval: Some(Duration::from_secs(20)),
        ..ServicePolicy::default()
    };
    let policy = Policy {
        liveness_interval: Some(Duration::from_secs(10)),
        services: [("db".to_owned(), rare)].into(),
        ..policy()
    };
    let mut sink = place.open(&policy);
    let started_ns = place.now_ns;
    sink.service("db", started_ns).expect("a service");
    place.write(&mut sink, "web", 7);
    assert!(!sink.is_filling(), "nothing waits to be written");
    assert!(
        sink.due_ns()
            .is_some_and(|due_ns| due_ns <= started_ns + 10 * second)
    );
    assert!(!sink.should_submit(started_ns + 9 * second));
    for (after_s, web, db) in [(10, 1, 0), (19, 1, 0), (20, 2, 1), (57, 3, 2)] {
        place.now_ns = started_ns + after_s * second;
        if sink.should_submit(place.now_ns) {
            place.submit(&mut sink);
            place.settle(&mut sink, 0);
        }
        assert_eq!(told(&place, "web").len(), web, "after {after_s} s");
        assert_eq!(told(&place, "db").len(), db, "after {after_s} s");
    }
    assert_eq!(
        told(&place, "web"),
        ["alive lines=7", "alive lines=0", "alive lines=0"]
    );
    assert_eq!(told(&place, "db"), ["alive lines=0"; 2]);
}

#[test]
fn without_an_interval_nobody_says_anything() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy());
    place.write(&mut sink, "web", 7);
    assert_eq!(sink.due_ns(), None);
    assert_eq!(told(&place, "web"), Vec::<String>::new());
}

#[test]
fn untold_counts_are_committed_without_lines_and_carried_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let untold = Untold {
        repeats: 5,
        repeat_source: "pty:out".into(),
        ..Untold::default()
    };
    let mut sink = place.open(&policy());
    // Of a service that has no file, and gets none.
    let quiet = sink.service("quiet", place.now_ns).expect("a service");
    sink.set_untold(quiet, untold.clone());
    assert!(!sink.is_filling());
    place.submit(&mut sink);
    place.settle(&mut sink, 0);
    assert_eq!(place.committed["quiet"].untold, untold);
    assert!(!place.service_dir("quiet").exists());
    place.write(&mut sink, "web", 3);
    let web = sink.service("web", place.now_ns).expect("a service");
    sink.set_untold(web, untold.clone());
    place.submit(&mut sink);
    place.settle(&mut sink, 0);
    assert_eq!(place.committed["web"].untold, untold);
    assert!(sink.rotate_service("web") && !sink.rotate_service("nobody"));
    place.write(&mut sink, "web", 3);
    place.write(&mut sink, "web", 3);
    assert_eq!(place.segments("web").len(), 2);
    assert_eq!(place.committed["web"].untold, untold);
    drop(sink);
    // A crash, and a start: it is still there, until somebody has told it.
    let mut sink = place.open(&policy());
    let found = sink.take_new_services();
    assert!(
        found
            .iter()
            .any(|commit| commit.name == "web" && commit.untold == untold)
    );
    let web = sink.service("web", place.now_ns).expect("a service");
    sink.set_untold(web, Untold::default());
    place.write(&mut sink, "web", 1);
    assert_eq!(place.committed["web"].untold, Untold::default());
    place.assert_complete("web");
}
