//! Who may use a bus and a log directory, and what is said to those who may not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millpond_bus::{Bus, ErrorKind};
use millpond_tests::options;

use crate::support::{Found, Place, Published, wait_until};

fn control_path(place: &Place) -> PathBuf {
    Path::new("/dev/shm").join(format!("millpond.{}.control", place.name))
}

#[test]
fn second_daemon_on_a_bus_is_refused_with_the_pid_of_the_first() {
    let place = Place::new("second daemon", "block");
    let first = place.daemon("auto", &[]);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let logs = format!("logs={}", elsewhere.path().display());
    let (status, lines) = place.start_daemon("auto", &[&logs]).finish();
    assert!(!status.success());
    let pid = format!("process {}", first.pid());
    assert!(
        lines[0].starts_with("refused") && lines[0].contains(&pid),
        "{lines:?}"
    );
    // The first one has not noticed.
    Published::of(place.publisher("p", "log:web:p", &["count=100"]).finish());
    first.stop();
}

#[test]
fn second_bus_on_a_log_directory_is_refused_with_the_pid_of_the_first() {
    let place = Place::new("second bus", "block");
    let first = place.daemon("auto", &[]);
    let bus = format!("bus={}.other", place.name);
    let (status, lines) = place.start_daemon("auto", &[&bus]).finish();
    assert!(!status.success());
    let pid = format!("process {}", first.pid());
    assert!(
        lines[0].starts_with("refused") && lines[0].contains(&pid),
        "{lines:?}"
    );
    Published::of(place.publisher("p", "log:web:p", &["count=100"]).finish());
    first.stop();
}

#[test]
fn bus_can_be_taken_over_once_the_first_daemon_has_gone() {
    let place = Place::new("after the first daemon", "block");
    place.daemon("auto", &[]).stop();
    place.daemon("auto", &[]).kill();
    place.daemon("auto", &[]).stop();
}

#[test]
fn other_layout_version_is_refused() {
    let place = Place::new("other version", "block");
    let control = fs::OpenOptions::new()
        .write(true)
        .open(control_path(&place))
        .expect("control");
    control.write_all_at(&7u32.to_le_bytes(), 8).expect("patch");
    let error = Bus::attach(&place.name, &options("block")).expect_err("another version");
    assert_eq!(error.kind(), ErrorKind::WrongLayout);
    let text = error.to_string();
    assert!(
        text.contains("layout version 7, expected ") && text.contains("remove"),
        "{text}"
    );
    let (status, lines) = place.start_daemon("auto", &[]).finish();
    assert!(!status.success());
    assert!(lines[0].contains("layout version 7"), "{lines:?}");
}

#[test]
fn object_of_something_else_is_refused() {
    let place = Place::new("not ours", "block");
    let control = fs::OpenOptions::new()
        .write(true)
        .open(control_path(&place))
        .expect("control");
    control.write_all_at(b"whatever", 0).expect("patch");
    let error = Bus::open(&place.name).expect_err("no magic");
    assert_eq!(error.kind(), ErrorKind::WrongLayout);
}

#[test]
fn squatted_name_with_a_wide_mode_is_refused() {
    let place = Place::new("squatting", "block");
    let path = control_path(&place);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
    let error = Bus::attach(&place.name, &options("block")).expect_err("others could write");
    assert_eq!(error.kind(), ErrorKind::WrongOwner);
    assert!(error.to_string().contains("mode 0666"), "{error}");
    // Also where nothing is in it yet.
    fs::remove_file(&path).expect("remove");
    fs::write(&path, b"").expect("squat");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).expect("chmod");
    let error = Bus::attach(&place.name, &options("block")).expect_err("others could write");
    assert_eq!(error.kind(), ErrorKind::WrongOwner);
}

#[test]
fn squatted_name_of_another_user_is_refused() {
    let place = Place::new("another user", "block");
    let path = control_path(&place);
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
        eprintln!("SKIPPED: only root can make an object of another user");
        return;
    }
    let error = Bus::attach(&place.name, &options("block")).expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::WrongOwner);
    assert!(error.to_string().contains("user 12345"), "{error}");
}

#[test]
fn half_made_bus_of_a_dead_creator_is_finished() {
    let place = Place::new("half made", "block");
    let control = fs::OpenOptions::new()
        .write(true)
        .open(control_path(&place))
        .expect("control");
    control.write_all_at(&[0; 4096], 0).expect("wipe");
    let bus = Bus::attach(&place.name, &options("block")).expect("finished");
    assert_eq!(bus.rules().expect("rules"), options("block").rules);
}

#[test]
fn publisher_may_come_before_the_daemon() {
    let place = Place::new("publisher first", "block");
    let publisher = place.publisher("early", "log:web:early", &["count=1000"]);
    wait_until(|| {
        place
            .bus
            .stats()
            .sources
            .iter()
            .any(|source| source.in_flight == 1000)
    });
    std::thread::sleep(Duration::from_millis(20));
    let daemon = place.daemon("auto", &[]);
    assert_eq!(Published::of(publisher.finish()).published, 1000);
    place.settled();
    daemon.stop();
    let expected = BTreeMap::from([("early".to_owned(), 1000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

/// A publisher that has come and gone before there was a daemon loses nothing either.
#[test]
fn publisher_may_be_gone_before_the_daemon_comes() {
    let place = Place::new("publisher gone", "block");
    let mut early = place.bus.publisher("early").expect("publisher");
    let topic = early.topic("log:web:early").expect("topic");
    for sequence in 0..1000 {
        let payload = format!("early {sequence} x");
        early
            .publish(topic, millpond_bus::Level::Info, payload.as_bytes())
            .expect("room");
    }
    drop(early);
    let daemon = place.daemon("auto", &[]);
    let stats = place.settled();
    daemon.stop();
    assert_eq!(stats.sources[0].written, 1000);
    let expected = BTreeMap::from([("early".to_owned(), 1000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}
