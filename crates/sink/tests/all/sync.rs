//! What counts as being on the disk.

use std::time::Duration;

use millpond_sink::{BackendChoice, Policy, ServicePolicy, Sink, SyncPolicy};

use crate::support::{Place, policy, wait_until};

const BACKENDS: [BackendChoice; 2] = [BackendChoice::Auto, BackendChoice::Pwrite];

fn with(sync: SyncPolicy, backend: BackendChoice) -> Policy {
    Policy {
        sync,
        backend,
        ..policy()
    }
}

/// Asks for everything to be on the disk; whether it is.
fn flush(place: &mut Place, sink: &mut Sink) -> bool {
    place.settle(sink, 0);
    sink.submit(place.now_ns, true);
    let mut durable = false;
    wait_until("the flush", || {
        while let Some(group) = sink.poll() {
            durable = group.durable;
            place.commit(group.services);
        }
        sink.in_flight() == 0
    });
    durable
}

#[test]
fn segment_that_is_closed_is_synced_by_the_next_durable_flush() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().expect("a directory");
        let mut place = Place::new(dir.path());
        let mut sink = place.open(&with(SyncPolicy::Never, backend));
        for service in ["a", "b"] {
            place.write(&mut sink, service, 10);
        }
        sink.rotate_service("a");
        place.submit(&mut sink);
        place.settle(&mut sink, 0);
        assert_eq!(sink.status().unsynced_segments, 2, "the closed one too");
        assert!(flush(&mut place, &mut sink));
        assert_eq!(sink.status().unsynced_segments, 0);
        place.close(sink);
        place.assert_complete("a");
    }
}

/// The one before was killed: nobody knows what of its text is on the disk.
#[test]
fn text_of_an_earlier_writer_is_synced_by_the_first_durable_flush() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().expect("a directory");
        let mut place = Place::new(dir.path());
        let never = with(SyncPolicy::Never, backend);
        let mut sink = place.open(&never);
        place.write(&mut sink, "a", 1500);
        place.write(&mut sink, "b", 10);
        let segments = place.segments("a").len() as u64 + 1;
        assert!(segments > 2);
        drop(sink);
        let mut sink = place.open(&never);
        sink.submit(place.now_ns, false);
        place.settle(&mut sink, 0);
        assert_eq!(sink.status().unsynced_segments, segments);
        assert!(flush(&mut place, &mut sink));
        assert_eq!(sink.status().unsynced_segments, 0);
    }
}

#[test]
fn removed_segments_owe_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let few = Policy {
        service_segments_limit: Some(2),
        ..with(SyncPolicy::Never, BackendChoice::Auto)
    };
    let mut sink = place.open(&few);
    for _ in 0..8 {
        place.write(&mut sink, "a", 700);
    }
    assert!(sink.status().trimmed_segments > 2);
    assert!(sink.status().unsynced_segments <= 2);
    assert!(flush(&mut place, &mut sink));
}

/// Groups, rotations and flushes while interval syncs are under way.
#[test]
fn interval_syncs_beside_the_writes_leave_nothing_behind() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().expect("a directory");
        let mut place = Place::new(dir.path());
        let always = ServicePolicy {
            sync: Some(SyncPolicy::Always),
            ..ServicePolicy::default()
        };
        let mixed = Policy {
            services: [("c".to_owned(), always)].into(),
            ..with(SyncPolicy::Interval(Duration::from_millis(1)), backend)
        };
        let mut sink = place.open(&mixed);
        for round in 0..60 {
            for service in ["a", "b", "c"] {
                place.append(&mut sink, service, 40);
            }
            place.submit(&mut sink);
            if round % 20 == 19 {
                sink.rotate();
                assert!(flush(&mut place, &mut sink));
            }
        }
        place.settle(&mut sink, 0);
        // Without another group.
        wait_until("everything synced", || sink.status().unsynced_segments == 0);
        assert_eq!(sink.status().sync_error, None);
        place.close(sink);
        for service in ["a", "b", "c"] {
            place.assert_complete(service);
        }
    }
}

/// More services than files that are synced at a time, all new.
#[test]
fn durable_flush_of_many_services() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().expect("a directory");
        let mut place = Place::new(dir.path());
        let mut sink = place.open(&with(SyncPolicy::Always, backend));
        for round in 0..3 {
            for service in 0..150 {
                place.append(&mut sink, &format!("s{service}"), 2);
            }
            place.submit(&mut sink);
            place.settle(&mut sink, 0);
            assert_eq!(sink.status().unsynced_segments, 0, "round {round}");
        }
        assert!(flush(&mut place, &mut sink));
        place.close(sink);
        place.assert_complete("s149");
    }
}

#[test]
fn close_returns_what_was_written_and_why_the_rest_was_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy());
    // Where the directory of this service should be.
    let in_the_way = dir.path().join("b");
    std::fs::write(&in_the_way, b"").expect("a file");
    place.append(&mut sink, "a", 5);
    place.submit(&mut sink);
    wait_until("text", || place.is_written("a"));
    place.append(&mut sink, "b", 5);
    let new = sink.take_new_services();
    place.commit(new);
    let closed = sink.close(place.now_ns);
    let trouble = closed.trouble.expect("trouble");
    assert!(
        trouble.contains("cannot write") && trouble.contains("/b/"),
        "{trouble}"
    );
    assert_eq!(closed.groups.len(), 1);
    for group in closed.groups {
        assert!(!group.durable);
        place.commit(group.services);
    }
    place.assert_complete("a");
    std::fs::remove_file(in_the_way).expect("removed");
    place.resume();
    let mut sink = place.open(&policy());
    place.write(&mut sink, "b", 5);
    place.close(sink);
    place.assert_complete("b");
}
