//! A commit point that others have written to. It lies in shared memory, and the log does not: whatever it says, no more
//! of the log goes than can be uncommitted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use millpond_bus::ServiceCommit;
use millpond_logfile::{Level, Source};
use millpond_sink::{Cut, Policy, Sink};

use crate::support::{OWNER, Place, policy};

/// Lines that make a segment of [`policy`].
const SEGMENT_LINES: u64 = 600;
/// Lines of more than can be uncommitted there.
const MANY_LINES: u64 = 40_000;

fn large_segments() -> Policy {
    Policy {
        segment_bytes_limit: 64 << 20,
        ..policy()
    }
}

/// Services with text that is committed, and their sink gone as after a kill.
fn killed(policy: &Policy, services: &[(&str, u64)]) -> (tempfile::TempDir, Place) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(policy);
    for &(service, lines) in services {
        for _ in 0..lines / SEGMENT_LINES {
            place.append(&mut sink, service, SEGMENT_LINES);
            place.submit(&mut sink);
        }
        place.write(&mut sink, service, lines % SEGMENT_LINES);
    }
    place.settle(&mut sink, 0);
    drop(sink);
    (dir, place)
}

/// Writes to the commit point as a member of the bus could.
fn spoil(place: &mut Place, service: &str, change: impl Fn(&mut ServiceCommit)) {
    let commit = place.committed.get_mut(service);
    change(commit.expect("a service that is committed"));
}

fn assert_kept(before: &BTreeMap<PathBuf, Vec<u8>>, place: &Place, what: &str) {
    let now = place.texts();
    for (path, text) in before {
        let shown = path.display();
        let found = now.get(path);
        let found = found.unwrap_or_else(|| panic!("{what}: {shown} is gone"));
        assert!(found.starts_with(text), "{what}: text of {shown} is gone");
    }
}

/// The one thing that is told: this service was not believed.
fn assert_told(cuts: &[Cut], service: &str, what: &str) {
    let [cut] = cuts else {
        panic!("{what}: {cuts:?}");
    };
    assert_eq!(
        (cut.service.as_str(), cut.cut_bytes),
        (service, 0),
        "{what}"
    );
    assert!(cut.kept_bytes > 0, "{what}: {cut:?}");
    assert!(cut.why.contains("not believed"), "{what}: {cut:?}");
    assert!(cut.why.contains("twice"), "{what}: {cut:?}");
}

/// Appends to the service and closes the sink; its text is then what was there before, and this.
fn goes_on(place: &mut Place, mut sink: Sink, service: &str) {
    let new = sink.take_new_services();
    place.commit(new);
    place.write(&mut sink, service, 10);
    place.close(sink);
}

#[test]
fn commit_point_that_names_an_early_segment_removes_nothing() {
    let (_dir, mut place) = killed(&policy(), &[("web", 5 * SEGMENT_LINES + 100)]);
    let segments = place.segments("web");
    assert!(segments.len() >= 5, "{segments:?}");
    let (before, committed) = (place.texts(), place.committed.clone());
    let second = segments[1].as_ns();
    // Of the others first, since some say the same of a segment and less of its length.
    for (segment_id, length_bytes) in [(0, 0), (0, 1 << 40), (second, 0), (second + 1, 77)] {
        let what = format!("segment {segment_id}, {length_bytes} bytes");
        place.committed = committed.clone();
        spoil(&mut place, "web", |commit| {
            commit.segment_id = segment_id;
            commit.length_bytes = length_bytes;
        });
        let (sink, cuts) = place.open_as(OWNER, &policy());
        assert_kept(&before, &place, &what);
        assert_told(&cuts, "web", &what);
        drop(sink);
    }
    let sink = place.open(&policy());
    goes_on(&mut place, sink, "web");
    assert_kept(&before, &place, "afterwards");
    let (sink, cuts) = place.open_as(OWNER, &policy());
    assert_eq!(cuts, [], "what is committed anew is believed");
    drop(sink);
}

#[test]
fn commit_point_that_names_a_short_length_cuts_nothing() {
    let (_dir, mut place) = killed(&large_segments(), &[("web", MANY_LINES)]);
    assert_eq!(place.segments("web").len(), 1);
    let before = place.texts();
    for length_bytes in [0, 1, 100_000] {
        let what = format!("{length_bytes} bytes");
        spoil(&mut place, "web", |commit| {
            commit.length_bytes = length_bytes
        });
        let (sink, cuts) = place.open_as(OWNER, &large_segments());
        assert_kept(&before, &place, &what);
        assert_told(&cuts, "web", &what);
        drop(sink);
    }
    let sink = place.open(&large_segments());
    goes_on(&mut place, sink, "web");
    assert_kept(&before, &place, "afterwards");
}

#[test]
fn commit_point_that_asks_for_a_little_of_each_service_is_not_believed() {
    let names: Vec<String> = (0..8).map(|number| format!("web{number}")).collect();
    let services: Vec<_> = names.iter().map(|name| (name.as_str(), 9000)).collect();
    let (_dir, mut place) = killed(&large_segments(), &services);
    let before = place.texts();
    let total: usize = before.values().map(Vec::len).sum();
    for name in &names {
        spoil(&mut place, name, |commit| commit.length_bytes = 0);
    }
    let (sink, cuts) = place.open_as(OWNER, &large_segments());
    drop(sink);
    let kept: u64 = cuts.iter().map(|cut| cut.kept_bytes).sum();
    let cut: u64 = cuts.iter().map(|cut| cut.cut_bytes).sum();
    assert_eq!(kept + cut, total as u64);
    // Three groups of 64 KiB, and the lines of the daemon.
    assert!(cut <= 3 * ((64 << 10) + (1 << 20)), "{cut} bytes are cut");
}

/// Ids and lengths at the end of all numbers: no text goes, and what comes next is behind it.
#[test]
fn commit_point_with_numbers_that_cannot_be_keeps_nobody_from_writing() {
    let far = [u64::MAX, i64::MAX as u64, u64::MAX - 1];
    for segment_id in far {
        for length_bytes in [0, 5, u64::MAX] {
            let what = format!("segment {segment_id}, {length_bytes} bytes");
            let (_dir, mut place) = killed(&policy(), &[("web", 900)]);
            let (before, segments) = (place.texts(), place.segments("web"));
            spoil(&mut place, "web", |commit| {
                commit.segment_id = segment_id;
                commit.length_bytes = length_bytes;
            });
            let sink = place.open(&policy());
            goes_on(&mut place, sink, "web");
            assert_kept(&before, &place, &what);
            let now = place.segments("web");
            assert_eq!(now.len(), segments.len() + 1, "{what}");
            let day_ns = 24 * 3600 * 1_000_000_000;
            let newest_ns = now[segments.len()].as_ns();
            assert!(newest_ns <= place.now_ns + day_ns, "{what}: {newest_ns}");
        }
    }
    let (_dir, mut place) = killed(&policy(), &[("web", 100)]);
    let before = place.texts();
    spoil(&mut place, "web", |commit| commit.length_bytes = u64::MAX);
    let (sink, cuts) = place.open_as(OWNER, &policy());
    assert!(cuts[0].missing_bytes > 0, "{cuts:?}");
    goes_on(&mut place, sink, "web");
    assert_kept(&before, &place, "a length beyond the file");
}

/// A service of which the commit point says what cannot be does not cost the others their exactness.
#[test]
fn others_are_cut_as_ever_where_one_is_not_believed() {
    let lines = MANY_LINES;
    let (_dir, mut place) = killed(&large_segments(), &[("web", lines), ("db", 100)]);
    let committed = place.committed.clone();
    let mut sink = place.open(&large_segments());
    place.write(&mut sink, "db", 50);
    drop(sink);
    let before = place.texts();
    place.committed = committed;
    place.resume();
    spoil(&mut place, "web", |commit| commit.length_bytes = 0);
    let (mut sink, mut cuts) = place.open_as(OWNER, &large_segments());
    cuts.sort_by_key(|cut| cut.kept_bytes);
    let [db, web] = &cuts[..] else {
        panic!("{cuts:?}");
    };
    assert_eq!((db.service.as_str(), db.kept_bytes), ("db", 0));
    assert!(db.cut_bytes > 0);
    assert_told(std::slice::from_ref(web), "web", "the other");
    place.write(&mut sink, "db", 50);
    place.assert_complete("db");
    place.close(sink);
    let is_web = |path: &PathBuf| path.starts_with(place.service_dir("web"));
    let web = before.into_iter().filter(|(path, _)| is_web(path));
    assert_kept(&web.collect(), &place, "web");
}

/// As much as a crash can leave: three groups, each with a line that is longer than all else that may be.
#[test]
fn groups_with_long_lines_are_cut_where_they_are_uncommitted() {
    let (_dir, mut place) = killed(&policy(), &[("web", 100)]);
    let committed = place.committed.clone();
    let mut sink = place.open(&policy());
    let long = vec![b'\x01'; 2 << 20];
    for _ in 0..3 {
        let id = sink.service("web", place.now_ns).expect("a service");
        sink.append(id, place.now_ns, Level::Info, &Source::new("x"), b"short");
        sink.append(id, place.now_ns, Level::Info, &Source::new("x"), &long);
        place.submit(&mut sink);
    }
    place.settle(&mut sink, 0);
    drop(sink);
    let found: usize = place.texts().values().map(Vec::len).sum();
    assert!(found > 24 << 20, "{found} bytes");
    place.committed = committed;
    let (mut sink, cuts) = place.open_as(OWNER, &policy());
    assert!(cuts.iter().all(|cut| cut.kept_bytes == 0), "{cuts:?}");
    place.write(&mut sink, "web", 10);
    place.assert_complete("web");
}

/// The bound is that of who wrote, and not of who comes after.
#[test]
fn groups_of_a_writer_that_had_larger_ones_are_cut() {
    let large = Policy {
        group_bytes_limit: 8 << 20,
        ..large_segments()
    };
    let (_dir, mut place) = killed(&large, &[("web", 100)]);
    let committed = place.committed.clone();
    let mut sink = place.open(&large);
    for _ in 0..2 {
        place.append(&mut sink, "web", 30_000);
        place.submit(&mut sink);
    }
    place.settle(&mut sink, 0);
    drop(sink);
    place.committed = committed;
    place.resume();
    // Also for one that was killed before it did anything.
    for is_last in [false, true] {
        let (mut sink, cuts) = place.open_as(OWNER, &policy());
        if is_last {
            place.write(&mut sink, "web", 10);
            place.assert_complete("web");
        } else {
            assert!(cuts[0].cut_bytes > 6 << 20, "{cuts:?}");
        }
    }
}

/// The commit point of a bus that wrote here long ago speaks of other text, also when its bus has come back and was
/// killed before it wrote anything.
#[test]
fn commit_point_from_before_another_writer_is_not_believed() {
    let (_dir, mut place) = killed(&policy(), &[("web", 100)]);
    let old = place.committed.clone();
    let (mut sink, _) = place.open_as("other", &policy());
    let new = sink.take_new_services();
    place.commit(new);
    place.write(&mut sink, "web", 100);
    place.close(sink);
    let before = place.texts();
    place.committed = old;
    for _ in 0..3 {
        let (sink, cuts) = place.open_as(OWNER, &policy());
        assert_eq!(cuts, []);
        drop(sink);
        assert_kept(&before, &place, "back again");
    }
    let (sink, _) = place.open_as(OWNER, &policy());
    goes_on(&mut place, sink, "web");
    assert_kept(&before, &place, "afterwards");
}

/// A service of which the commit point says nothing, though its consumer must have committed it: kept, and told.
#[test]
fn service_that_the_commit_point_does_not_name_is_kept_and_told() {
    let (_dir, mut place) = killed(&policy(), &[("web", 900), ("db", 100)]);
    let before = place.texts();
    place.committed.remove("web");
    let (sink, cuts) = place.open_as(OWNER, &policy());
    assert_kept(&before, &place, "not named");
    let [cut] = &cuts[..] else {
        panic!("{cuts:?}");
    };
    assert_eq!((cut.service.as_str(), cut.cut_bytes), ("web", 0));
    assert!(cut.kept_bytes > 0 && cut.why.contains("twice"), "{cut:?}");
    goes_on(&mut place, sink, "web");
    assert_kept(&before, &place, "afterwards");
}
