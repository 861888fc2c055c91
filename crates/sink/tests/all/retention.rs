//! What goes when, and that the cap over all is never passed.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millpond_sink::{Policy, ServicePolicy};
use rustix::fs::FlockOperation;

use crate::support::{
    Place, SEGMENT, SmallDisk, disk_bytes, policy, sealing, services, wait_until,
};

#[test]
fn count_of_segments_is_kept_per_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let few = ServicePolicy {
        segments_limit: Some(2),
        ..ServicePolicy::default()
    };
    let policy = Policy {
        service_segments_limit: Some(4),
        services: [("db".to_owned(), few)].into(),
        ..policy()
    };
    let mut sink = place.open(&policy);
    for _ in 0..8 {
        place.write(&mut sink, "web", 600);
        place.write(&mut sink, "db", 600);
    }
    assert_eq!(place.segments("web").len(), 4);
    assert_eq!(place.segments("db").len(), 2);
    assert!(place.assert_suffix("web") > 0);
    assert!(sink.status().trimmed_segments >= 8 - 4 + 8 - 2);
}

#[test]
fn service_over_its_quota_pays_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let quota = 512 << 10;
    let small = ServicePolicy {
        bytes_limit: Some(quota),
        ..ServicePolicy::default()
    };
    let policy = Policy {
        total_bytes_limit: Some(4 << 20),
        services: [("loud".to_owned(), small)].into(),
        ..policy()
    };
    let mut sink = place.open(&policy);
    for _ in 0..4 {
        place.write(&mut sink, "web", 600);
    }
    for _ in 0..40 {
        place.write(&mut sink, "loud", 600);
    }
    let bytes = disk_bytes(&place.service_dir("loud"));
    assert!(bytes <= quota + SEGMENT, "{bytes}");
    assert!(bytes >= quota / 2, "{bytes} is little");
    place.assert_complete("web");
    assert!(place.assert_suffix("loud") > 0);
}

#[test]
fn lines_that_are_too_old_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let policy = Policy {
        retain_age_limit: Some(Duration::from_secs(3600)),
        ..policy()
    };
    let mut sink = place.open(&policy);
    place.write(&mut sink, "web", 600);
    place.now_ns += 1_800_000_000_000;
    place.write(&mut sink, "web", 600);
    place.write(&mut sink, "web", 600);
    place.assert_complete("web");
    place.now_ns += 1_801_000_000_000;
    // Another service's rotation is occasion enough, and so is a start.
    place.write(&mut sink, "db", 600);
    let first = place.assert_suffix("web");
    assert!(
        (1..=600).contains(&first),
        "{first}: the first 600 lines are too old, no others"
    );
    sink.rotate(); // an open segment never goes
    place.close(sink);
    place.now_ns += 3_601_000_000_000;
    let sink = place.open(&policy);
    wait_until("all closed ones gone", || {
        place.segments("web").is_empty() && place.segments("db").is_empty()
    });
    drop(sink);
    // The committed segment is gone: what comes next is in a new one.
    let mut sink = place.open(&policy);
    place.write(&mut sink, "web", 5);
    assert_eq!(place.assert_suffix("web"), 1800);
}

#[test]
fn held_segment_stays_and_a_hold_has_an_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let patient = Policy {
        service_segments_limit: Some(2),
        ..policy()
    };
    let mut sink = place.open(&patient);
    place.write(&mut sink, "web", 600);
    let first = place.segments("web")[0];
    let held = File::open(first.log_path(&place.service_dir("web"))).expect("the text");
    rustix::fs::flock(&held, FlockOperation::LockShared).expect("a hold");
    for _ in 0..5 {
        place.write(&mut sink, "web", 600);
    }
    let kept = place.segments("web");
    assert_eq!(kept[0], first, "held");
    assert!(kept.len() <= 3, "the others go: {kept:?}");
    drop(sink);
    // The same hold, to a policy without patience.
    let impatient = Policy {
        service_segments_limit: Some(1),
        hold_limit: Duration::ZERO,
        ..patient
    };
    let sink = place.open(&impatient);
    wait_until("gone all the same", || {
        !place.segments("web").contains(&first)
    });
    drop((sink, held));
}

#[test]
fn hold_that_ends_lets_the_segment_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let policy = Policy {
        service_segments_limit: Some(1),
        ..policy()
    };
    let mut sink = place.open(&policy);
    place.write(&mut sink, "web", 600);
    let first = place.segments("web")[0];
    let held = File::open(first.log_path(&place.service_dir("web"))).expect("the text");
    rustix::fs::flock(&held, FlockOperation::LockShared).expect("a hold");
    place.write(&mut sink, "web", 600);
    assert!(place.segments("web").contains(&first));
    drop(held);
    wait_until("gone", || {
        place.write(&mut sink, "web", 600);
        !place.segments("web").contains(&first)
    });
}

/// Looks at what a directory occupies, all the time, on a thread of its own; the most it has seen.
struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start(dir: &std::path::Path) -> Self {
        let (most, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = {
            let (most, stop, dir) = (Arc::clone(&most), Arc::clone(&stop), dir.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(disk_bytes(&dir), Ordering::Relaxed);
                }
            })
        };
        Watch {
            most,
            stop,
            thread: Some(thread),
        }
    }

    fn most_bytes(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch");
        }
        self.most.load(Ordering::Relaxed)
    }
}

/// The runaway of the scenarios, smaller: 24 services under one cap, one of them without end.
fn total_never_passes_its_cap(policy: Policy) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let cap = policy.total_bytes_limit.expect("a cap");
    let mut sink = place.open(&policy);
    let watch = Watch::start(dir.path());
    for round in 0..60 {
        for quiet in 0..23 {
            place.append(&mut sink, &format!("quiet{quiet}"), 5 + round % 7);
        }
        place.append(&mut sink, "runaway", 4000);
        place.submit(&mut sink);
    }
    place.settle(&mut sink, 0);
    let written: u64 = place.committed.values().map(|commit| commit.bytes).sum();
    assert!(written > 3 * cap, "{written} bytes are no test");
    place.close(sink);
    let most = watch.most_bytes();
    assert!(most <= cap, "{most} > {cap}");
    assert!(most > cap / 2, "{most} of {cap} is little");
    for service in services(dir.path()) {
        place.assert_suffix(&service);
    }
    for quiet in 0..23 {
        place.assert_complete(&format!("quiet{quiet}"));
    }
    eprintln!("{written} bytes written, at most {most} of {cap} on the disk");
}

#[test]
fn total_never_passes_its_cap_as_text() {
    total_never_passes_its_cap(Policy {
        segment_bytes_limit: 1 << 20,
        group_bytes_limit: 4 << 20,
        total_bytes_limit: Some(8 << 20),
        ..policy()
    });
}

#[test]
fn total_never_passes_its_cap_while_it_seals() {
    total_never_passes_its_cap(Policy {
        segment_bytes_limit: 8 << 20, // early rotation alone can keep it
        group_bytes_limit: 4 << 20,
        total_bytes_limit: Some(8 << 20),
        ..sealing()
    });
}

/// So many services that open segments alone would pass the cap.
#[test]
fn open_segments_are_closed_early_under_the_cap() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let cap = 4 << 20;
    let policy = Policy {
        segment_bytes_limit: 1 << 20,
        total_bytes_limit: Some(cap),
        ..policy()
    };
    let mut sink = place.open(&policy);
    let watch = Watch::start(dir.path());
    for _ in 0..40 {
        for service in 0..40 {
            place.append(&mut sink, &format!("s{service}"), 40);
        }
        place.submit(&mut sink);
    }
    place.settle(&mut sink, 0);
    let written: u64 = place.committed.values().map(|commit| commit.bytes).sum();
    assert!(written > cap, "{written} bytes are no test");
    let most = watch.most_bytes();
    assert!(most <= cap, "{most} > {cap}");
    for service in services(dir.path()) {
        place.assert_suffix(&service);
    }
}

#[test]
fn floor_of_free_space_is_kept() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let mut place = Place::new(disk.path());
    let floor = 8 << 20;
    let policy = Policy {
        keep_free_bytes: Some(floor),
        ..policy()
    };
    let mut sink = place.open(&policy);
    for _ in 0..160 {
        place.write(&mut sink, "web", 700);
    }
    let found = rustix::fs::statvfs(disk.path()).expect("the file system");
    let free = found.f_bavail * found.f_frsize;
    // A segment more may have been written since the last rotation.
    assert!(free + 3 * SEGMENT >= floor, "{free} < {floor}");
    assert!(free < floor + (1 << 20), "{free}: too much has gone");
    assert!(place.assert_suffix("web") > 0);
    assert_eq!(sink.status().trouble, None);
}
