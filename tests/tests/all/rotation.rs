//! Small segments, a small total, and load: what is kept is kept whole, and indexes can be made anew.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use millpond_logfile::{
    Level, LevelSet, Order, Query, Reader, list_segments, list_services, read_index, rebuild_index,
    verify_segment,
};
use millpond_tests::{Random, setting};

use crate::support::{Found, Place, Published, assert_identity, outcomes_of, source};

const TOTAL: u64 = 1 << 20;
/// What is closed is compressed, as it is unless somebody asks otherwise.
const SMALL: [&str; 3] = [
    "segment_bytes=65536",
    "total_bytes=1048576",
    "group_bytes=65536",
];

/// The lines that a publisher still has in the log are its last ones.
fn assert_suffix(found: &Found, outcomes: &BTreeMap<String, Published>) {
    found.assert_orderly();
    for (label, outcome) in outcomes {
        let Some(runs) = found.sequences.get(label) else {
            continue; // all of it trimmed, if the others were slower
        };
        assert_eq!(runs.0.len(), 1, "{label}: holes in what is kept: {runs:?}");
        assert_eq!(runs.0[0].1, outcome.published - 1, "{label}");
    }
}

fn disk_bytes(logs: &Path) -> u64 {
    let mut bytes = 0;
    each_segment(logs, |dir, id| {
        for path in [
            id.log_path(dir),
            id.sealed_path(dir),
            id.filter_path(dir),
            id.index_path(dir),
        ] {
            bytes += fs::metadata(path).map_or(0, |file| file.blocks() * 512);
        }
    });
    bytes
}

/// Sealed, more text is kept than fits as it is.
fn assert_small(logs: &Path, found: &Found) {
    let on_disk = disk_bytes(logs);
    assert!(on_disk <= TOTAL, "{on_disk} > {TOTAL}");
    let kept = found.text_bytes;
    assert!(kept >= TOTAL / 2, "{kept} is little");
}

/// Queries, each with whether it asks for everything that matches.
fn queries(label: &str) -> Vec<(Query, bool)> {
    let warnings = LevelSet::of(&[Level::Warn]);
    vec![
        (Query::new(), true),
        (Query::new().levels(LevelSet::at_least(Level::Error)), true),
        (Query::new().levels(warnings).service("web1"), true),
        (
            Query::new().order(Order::Newest).limit(200).service("web0"),
            false,
        ),
        (Query::new().source(label).limit(1000), false),
        (
            Query::new().source("p*").order(Order::Newest).limit(999),
            false,
        ),
        (Query::new().contains("9999 x"), true),
    ]
}

/// The answers to all queries, and the counts.
fn answers(logs: &Path, label: &str) -> Vec<(Vec<Vec<u8>>, u64)> {
    let reader = Reader::open(logs).expect("logs");
    let mut queries = queries(label);
    // A time range from the middle of what is there.
    let mut times = Vec::new();
    reader
        .run(&Query::new(), &mut |hit| {
            times.push(hit.time_ns);
            ControlFlow::Continue(())
        })
        .expect("query");
    let middle = Query::new()
        .since_ns(times[times.len() / 4])
        .until_ns(times[times.len() / 2])
        .levels(LevelSet::at_least(Level::Warn));
    queries.push((middle, true));
    queries
        .iter()
        .map(|(query, is_whole)| {
            let mut lines = Vec::new();
            let report = reader
                .run(query, &mut |hit| {
                    lines.push(hit.line.to_vec());
                    ControlFlow::Continue(())
                })
                .expect("query");
            assert!(report.damage.is_empty(), "{:?}", report.damage);
            let counts = reader.count(query).expect("count");
            if *is_whole {
                assert_eq!(counts.total(), lines.len() as u64);
            }
            (lines, counts.total())
        })
        .collect()
}

fn each_segment(logs: &Path, mut act: impl FnMut(&Path, millpond_logfile::SegmentId)) {
    for service in list_services(logs).expect("services") {
        let dir = logs.join(service);
        for id in list_segments(&dir).expect("segments") {
            act(&dir, id);
        }
    }
}

fn assert_indexes_can_be_made_anew(logs: &Path, label: &str) {
    let before = answers(logs, label);
    let answered = before.iter().filter(|(lines, _)| !lines.is_empty()).count();
    assert!(
        answered > 5,
        "{answered} queries with an answer show little"
    );
    let mut open = BTreeMap::new();
    each_segment(logs, |dir, id| {
        let report = verify_segment(dir, id).expect("verify");
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let index = id.index_path(dir);
        open.insert(
            index.clone(),
            !read_index(&index, Some(id)).expect("index").closed,
        );
        fs::remove_file(index).expect("remove");
    });
    assert_eq!(answers(logs, label), before, "without indexes");
    each_segment(logs, |dir, id| {
        rebuild_index(dir, id, open[&id.index_path(dir)]).expect("rebuild");
        let report = verify_segment(dir, id).expect("verify");
        assert!(report.damage.is_empty(), "{:?}", report.damage);
    });
    assert_eq!(answers(logs, label), before, "with indexes made anew");
}

fn what_is_kept_is_whole(backend: &str) {
    let place = Place::new("rotation", "block");
    let daemon = place.daemon(backend, &SMALL);
    let publishers = place.four_publishers(&["count=20000", "size=100", "flush=durable"]);
    let outcomes: BTreeMap<String, Published> = publishers
        .into_iter()
        .enumerate()
        .map(|(index, publisher)| (format!("p{index}"), Published::of(publisher.finish())))
        .collect();
    let stats = place.settled();
    daemon.stop();
    let found = Found::read(&place.logs());
    assert_suffix(&found, &outcomes);
    assert_small(&place.logs(), &found);
    for label in outcomes.keys() {
        assert_identity(source(&stats, label));
        assert_eq!(source(&stats, label).written, 20_000);
    }
    let segments: u64 = stats.services.iter().map(|service| service.segments).sum();
    assert!(segments > 20, "{segments}");
    let label = found.sequences.keys().next().expect("lines");
    assert_indexes_can_be_made_anew(&place.logs(), label);
    eprintln!(
        "{backend}: {segments} segments made, {} bytes kept",
        found.text_bytes
    );
}

#[test]
fn rotation_and_retention_keep_what_they_keep_whole_auto() {
    what_is_kept_is_whole("auto");
}

#[test]
fn rotation_and_retention_keep_what_they_keep_whole_pwrite() {
    what_is_kept_is_whole("pwrite");
}

fn kills_while_rotating(backend: &str) {
    let place = Place::new("kills while rotating", "block");
    let mut random = Random::seeded();
    let mut daemon = place.daemon(backend, &SMALL);
    let publishers = place.four_publishers(&["size=100"]);
    for _ in 0..setting("MILLPOND_TEST_KILLS", 5) {
        std::thread::sleep(random.millis(120));
        daemon.kill();
        daemon = place.daemon(backend, &SMALL);
    }
    let outcomes = outcomes_of(publishers);
    let stats = place.settled();
    daemon.stop();
    let found = Found::read(&place.logs());
    assert_suffix(&found, &outcomes);
    let on_disk = disk_bytes(&place.logs());
    assert!(on_disk <= TOTAL, "{on_disk} > {TOTAL}");
    for (label, outcome) in &outcomes {
        assert_identity(source(&stats, label));
        assert_eq!(source(&stats, label).written, outcome.published);
    }
    each_segment(&place.logs(), |dir, id| {
        let report = verify_segment(dir, id).expect("verify");
        assert!(report.damage.is_empty(), "{:?}", report.damage);
    });
}

#[test]
fn daemon_killed_while_it_rotates_and_trims_doubles_nothing_auto() {
    kills_while_rotating("auto");
}

#[test]
fn daemon_killed_while_it_rotates_and_trims_doubles_nothing_pwrite() {
    kills_while_rotating("pwrite");
}
