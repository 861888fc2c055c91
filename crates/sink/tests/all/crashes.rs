//! Every state that a step cut short can leave, made by hand, and what the next start makes of it.

use std::fs::{self, File};

use millpond_logfile::{HEADER_BYTES, SegmentId, read_index, seal_segment, verify_segment};
use millpond_sink::Sink;

use crate::support::{Place, policy, sealing, text_of, wait_until};

/// Three segments of `web`, the last one open, everything committed, and the sink gone as after a kill.
fn killed() -> (tempfile::TempDir, Place, Vec<SegmentId>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy());
    place.write(&mut sink, "web", 600);
    place.write(&mut sink, "web", 600);
    place.write(&mut sink, "web", 100);
    drop(sink);
    let segments = place.segments("web");
    assert_eq!(segments.len(), 3);
    (dir, place, segments)
}

/// Opens it, writes more, and looks whether everything is there.
fn goes_on(place: &mut Place) -> Sink {
    let mut sink = place.open(&sealing());
    place.write(&mut sink, "web", 50);
    place.assert_complete("web");
    place.wait_until_sealed("web");
    place.assert_complete("web");
    assert_eq!(leftovers(place), Vec::<String>::new());
    sink
}

/// Files that only a step in progress has.
fn leftovers(place: &Place) -> Vec<String> {
    fs::read_dir(place.service_dir("web"))
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.ends_with(".new"))
        .collect()
}

#[test]
fn killed_while_it_seals() {
    let (_dir, mut place, segments) = killed();
    let dir = place.service_dir("web");
    for suffix in ["log.zst.new", "filter.new", "idx.new", "log.new"] {
        let half = dir.join(format!("{}.{suffix}", segments[0]));
        fs::write(half, "half of a file").expect("written");
    }
    goes_on(&mut place);
}

#[test]
fn killed_between_filter_and_rename() {
    let (_dir, mut place, segments) = killed();
    let filter = segments[0].filter_path(&place.service_dir("web"));
    fs::write(filter, "of a seal that never was").expect("written");
    goes_on(&mut place);
}

/// The sealed form beside the plain one.
fn seal_and_keep(place: &Place, id: SegmentId) {
    let dir = place.service_dir("web");
    let text = fs::read(id.log_path(&dir)).expect("its text");
    seal_segment(&dir, id, 3, &mut || true)
        .expect("sealed")
        .expect("not given up");
    fs::write(id.log_path(&dir), text).expect("back again");
}

#[test]
fn killed_between_rename_and_removal_of_the_text() {
    let (_dir, mut place, segments) = killed();
    seal_and_keep(&place, segments[1]);
    goes_on(&mut place);
}

#[test]
fn sealed_form_that_is_torn_does_not_replace_the_text() {
    let (_dir, mut place, segments) = killed();
    seal_and_keep(&place, segments[0]);
    let sealed = segments[0].sealed_path(&place.service_dir("web"));
    let file = File::options().write(true).open(sealed).expect("sealed");
    file.set_len(1000).expect("cut");
    goes_on(&mut place);
}

#[test]
fn killed_while_it_removes() {
    let (_dir, place, segments) = killed();
    let dir = place.service_dir("web");
    fs::remove_file(segments[0].log_path(&dir)).expect("removed");
    fs::write(segments[0].filter_path(&dir), "orphan").expect("written");
    let sink = place.open(&policy());
    assert!(!segments[0].index_path(&dir).exists());
    assert!(!segments[0].filter_path(&dir).exists());
    assert!(place.assert_suffix("web") > 0);
    drop(sink);
}

#[test]
fn killed_before_a_closed_segment_was_marked() {
    let (_dir, mut place, segments) = killed();
    fs::remove_file(segments[0].index_path(&place.service_dir("web"))).expect("removed");
    goes_on(&mut place);
}

/// An index is never synced: of a power cut that came soon after a segment was closed it may be without any entry,
/// or say that it is closed and not have all of them.
#[test]
fn power_cut_took_the_index_of_a_segment_that_was_closed_or_sealed() {
    /// What is left of an index.
    type Loss = fn(&[u8]) -> Option<Vec<u8>>;
    let losses: [(&str, Loss); 4] = [
        ("gone", |_| None),
        ("empty", |_| Some(Vec::new())),
        ("zeros", |whole| Some(vec![0; whole.len()])),
        ("closed, without entries", |whole| {
            Some(whole[..HEADER_BYTES].to_vec())
        }),
    ];
    for (what, loss) in losses {
        let (_dir, mut place, segments) = killed();
        let dir = place.service_dir("web");
        seal_segment(&dir, segments[0], 3, &mut || true)
            .expect("sealed")
            .expect("not given up");
        for id in &segments[..2] {
            let path = id.index_path(&dir);
            let whole = fs::read(&path).expect("an index");
            fs::remove_file(&path).expect("removed");
            if let Some(left) = loss(&whole) {
                fs::write(&path, left).expect("written");
            }
        }
        drop(place.open(&policy()));
        for &id in &segments[..2] {
            let report = verify_segment(&dir, id).expect("verified");
            assert!(report.damage.is_empty(), "{what}: {:?}", report.damage);
            let index = read_index(&id.index_path(&dir), Some(id)).expect("an index");
            let bytes = text_of(&dir, id).len() as u64;
            assert_eq!(index.covered_bytes(), bytes, "{what}");
        }
        goes_on(&mut place);
    }
}

#[test]
fn files_of_others_stay() {
    let (_dir, mut place, _) = killed();
    let dir = place.service_dir("web");
    let names = ["notes.idx", "x.log.new", "20261121.filter", ".hidden.new"];
    for name in names {
        fs::write(dir.join(name), "not ours").expect("written");
    }
    let sink = place.open(&sealing());
    place.wait_until_sealed("web");
    drop(sink);
    for name in names {
        assert!(dir.join(name).exists(), "{name}");
    }
    place.now_ns += 1;
}

/// A power cut, or another owner: no commit, and the newest segment is sealed.
#[test]
fn newest_segment_that_is_sealed_is_closed() {
    let (_dir, mut place, segments) = killed();
    let dir = place.service_dir("web");
    drop(place.open(&policy()));
    let mut sink = place.open(&policy());
    sink.rotate();
    place.submit(&mut sink);
    place.settle(&mut sink, 0);
    drop(sink);
    seal_segment(&dir, segments[2], 3, &mut || true)
        .expect("sealed")
        .expect("not given up");
    let before = place.committed.clone();
    // As committed, and without a commit.
    for committed in [before, Default::default()] {
        place.committed = committed;
        let (sink, cuts) = Sink::open(
            &place.dir,
            policy(),
            if place.committed.is_empty() {
                "other"
            } else {
                "test"
            },
            &place.committed.values().cloned().collect::<Vec<_>>(),
            place.now_ns,
            || {},
        )
        .expect("a sink");
        assert_eq!(cuts, []);
        drop(sink);
        assert_eq!(place.segments("web"), segments);
        assert!(segments[2].sealed_path(&dir).exists());
    }
}

/// Somebody has sealed by hand what was never committed whole: it is opened again, and cut.
#[test]
fn sealed_segment_that_is_longer_than_committed_is_opened_again() {
    let (_dir, mut place, segments) = killed();
    let dir = place.service_dir("web");
    let committed = place.committed.clone();
    let mut sink = place.open(&policy());
    place.append(&mut sink, "web", 40);
    sink.rotate();
    place.submit(&mut sink);
    place.settle(&mut sink, 0);
    drop(sink);
    place.committed = committed;
    place.resume();
    assert!(
        read_index(&segments[2].index_path(&dir), None)
            .expect("an index")
            .closed
    );
    seal_segment(&dir, segments[2], 3, &mut || true)
        .expect("sealed")
        .expect("not given up");
    let sealed_bytes = text_of(&dir, segments[2]).len() as u64;
    let mut sink = place.open(&policy());
    assert!(segments[2].log_path(&dir).exists() && !segments[2].sealed_path(&dir).exists());
    let length = fs::metadata(segments[2].log_path(&dir))
        .expect("text")
        .len();
    assert_eq!(length, place.committed["web"].length_bytes);
    assert!(length < sealed_bytes);
    place.write(&mut sink, "web", 10);
    place.assert_complete("web");
}

#[test]
fn damaged_sealed_segment_keeps_nobody_from_writing() {
    let (_dir, mut place, segments) = killed();
    let dir = place.service_dir("web");
    let mut sink = place.open(&policy());
    sink.rotate();
    place.submit(&mut sink);
    place.settle(&mut sink, 0);
    drop(sink);
    seal_segment(&dir, segments[2], 3, &mut || true)
        .expect("sealed")
        .expect("not given up");
    fs::write(segments[2].sealed_path(&dir), "spoilt").expect("written");
    let mut sink = place.open(&sealing());
    place.write(&mut sink, "web", 10);
    wait_until("the others sealed", || place.sealed("web").len() == 3);
    assert_eq!(
        fs::read(segments[2].sealed_path(&dir)).expect("as it was"),
        b"spoilt"
    );
}
