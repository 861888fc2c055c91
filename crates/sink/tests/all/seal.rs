//! Closed segments become compressed ones, behind everything else.

use std::fs::{self, File};

use millpond_sink::Policy;
use rustix::fs::FlockOperation;

use crate::support::{Place, policy, sealing, text_of, wait_until};

#[test]
fn closed_segments_are_sealed_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&sealing());
    for _ in 0..6 {
        place.write(&mut sink, "web", 1000);
    }
    place.wait_until_sealed("web");
    assert!(place.sealed("web").len() >= 5);
    wait_until("counted", || {
        sink.status().sealed_segments == place.sealed("web").len() as u64
    });
    let status = sink.status();
    assert!(status.saved_bytes > 200_000, "{status:?}");
    assert_eq!((status.seal_failures, status.seal_error), (0, None));
    place.assert_complete("web");
    let current = place.service_dir("web").join("current.log");
    assert!(fs::metadata(current).is_ok(), "current.log leads to text");
    place.close(sink);
    place.assert_complete("web");
}

#[test]
fn segment_whose_closing_is_not_committed_is_not_sealed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&sealing());
    place.append(&mut sink, "web", 500);
    let new = sink.take_new_services();
    place.commit(new);
    sink.submit(place.now_ns, false);
    place.append(&mut sink, "web", 300);
    place.now_ns += 1_000_000;
    sink.submit(place.now_ns, false);
    let id = wait_for_two(&place);
    // Two groups are written and none is seen. The sealer looks twice a second.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(id.log_path(&place.service_dir("web")).exists());
    assert!(place.sealed("web").is_empty());
    place.settle(&mut sink, 0);
    place.settle(&mut sink, 0);
    place.wait_until_sealed("web");
    place.assert_complete("web");
}

fn wait_for_two(place: &Place) -> millpond_logfile::SegmentId {
    wait_until("two segments", || place.segments("web").len() >= 2);
    place.segments("web")[0]
}

#[test]
fn what_was_closed_without_sealing_is_sealed_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy());
    for _ in 0..4 {
        place.write(&mut sink, "web", 600);
    }
    place.close(sink);
    assert!(place.sealed("web").is_empty());
    let sink = place.open(&sealing());
    place.wait_until_sealed("web");
    drop(sink);
    place.assert_complete("web");
}

#[test]
fn seal_that_fails_is_counted_and_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&sealing());
    // A directory where the new file should be: it cannot be written.
    place.write(&mut sink, "web", 100);
    let id = place.segments("web")[0];
    let in_the_way = place.service_dir("web").join(format!("{id}.log.zst.new"));
    fs::create_dir(&in_the_way).expect("a directory");
    place.write(&mut sink, "web", 700);
    place.write(&mut sink, "web", 10);
    wait_until("a failure", || sink.status().seal_failures > 0);
    let error = sink.status().seal_error.expect("a reason");
    assert!(error.contains("cannot seal"), "{error}");
    assert_eq!(sink.status().trouble, None, "writing goes on");
    fs::remove_dir(&in_the_way).expect("removed");
    place.wait_until_sealed("web");
    wait_until("no reason any more", || sink.status().seal_error.is_none());
    place.assert_complete("web");
}

/// As a power cut leaves it: the index is on the disk, and not all of the text.
#[test]
fn segment_whose_text_ends_before_its_index_is_told_once_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy());
    place.write(&mut sink, "web", 700);
    place.write(&mut sink, "web", 700);
    place.write(&mut sink, "web", 10);
    place.close(sink);
    let (service_dir, id) = (place.service_dir("web"), place.segments("web")[0]);
    let log = File::options().write(true).open(id.log_path(&service_dir));
    log.and_then(|log| log.set_len(100)).expect("cut");
    let mut sink = place.open(&sealing());
    place.write(&mut sink, "web", 10);
    wait_until("a second try", || sink.status().seal_failures > 1);
    let error = sink.status().seal_error.expect("a reason");
    assert!(error.contains("text of it is missing"), "{error}");
    wait_until("the other one sealed", || place.sealed("web").len() == 1);
    // Tried again after one second, two, four: not in between.
    assert!(sink.status().seal_failures < 10);
    assert_eq!(
        sink.status().seal_error.as_ref(),
        Some(&error),
        "it is told once"
    );
    assert!(id.log_path(&service_dir).exists());
}

#[test]
fn text_that_a_reader_holds_is_sealed_when_it_lets_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&sealing());
    place.write(&mut sink, "web", 100);
    let id = place.segments("web")[0];
    let held = File::open(id.log_path(&place.service_dir("web"))).expect("the text");
    rustix::fs::flock(&held, FlockOperation::LockShared).expect("a hold");
    for _ in 0..4 {
        place.write(&mut sink, "web", 600);
    }
    // Every other one is.
    wait_until("the others sealed", || {
        place.sealed("web").len() + 2 == place.segments("web").len()
    });
    assert!(id.log_path(&place.service_dir("web")).exists());
    drop(held);
    place.wait_until_sealed("web");
}

#[test]
fn sink_that_closes_does_not_wait_for_a_seal() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let large = Policy {
        segment_bytes_limit: 16 << 20,
        group_bytes_limit: 4 << 20,
        seal: millpond_sink::SealPolicy::AfterRotation { level: 19 },
        ..sealing()
    };
    let mut sink = place.open(&large);
    place.write(&mut sink, "web", 120_000);
    let id = place.segments("web")[0];
    sink.rotate();
    place.write(&mut sink, "web", 10);
    place.settle(&mut sink, 0);
    let new = place.service_dir("web").join(format!("{id}.log.zst.new"));
    wait_until("a seal in progress", || {
        new.exists() || !place.sealed("web").is_empty()
    });
    place.close(sink);
    // Whether it was given up or done, there is one whole form of the text.
    assert!(!new.exists());
    place.assert_complete("web");
    assert!(text_of(&place.service_dir("web"), id).len() > 10 << 20);
}
