//! Publishers that never wait, at full speed into small lanes: what is missing is counted, by cause, on both
//! sides and in the log.

use std::collections::BTreeMap;

use millpond_tests::{Random, setting};

use crate::support::{
    Found, GapLine, Place, Published, Runs, assert_identity, outcomes_of, source,
};

/// The numbers from 0 to `count` that are not in `present`.
fn missing(present: &Runs, count: u64) -> Vec<(u64, u64)> {
    let mut next = 0;
    let mut missing = Vec::new();
    for &(first, last) in &present.0 {
        if first > next {
            missing.push((next, first - 1));
        }
        next = last + 1;
    }
    if next < count {
        missing.push((next, count - 1));
    }
    missing
}

/// Each gap line covers as many missing numbers as it says, and together they cover all of them.
fn assert_gaps_tell_it(label: &str, gaps: &[GapLine], missing: &[(u64, u64)]) {
    let mut runs = missing.to_vec();
    runs.reverse();
    let mut after = None;
    for gap in gaps {
        assert!(after < Some(gap.first), "{label}: {gap:?} after {after:?}");
        after = Some(gap.last);
        let (mut count, mut ends) = (0, None);
        // A run of missing numbers may be told in two parts.
        while let Some(run) = runs.last_mut().filter(|run| run.0 <= gap.last) {
            let (first, last) = (run.0, run.1.min(gap.last));
            count += last - first + 1;
            ends = Some((ends.map_or(first, |(first, _)| first), last));
            run.0 = last + 1;
            if run.0 > run.1 {
                runs.pop();
            }
        }
        assert_eq!(count, gap.count, "{label}: {gap:?}");
        assert_eq!(ends, Some((gap.first, gap.last)), "{label}");
        let told: u64 = gap.causes.values().sum();
        assert_eq!(told, gap.count, "{label}: {gap:?}");
    }
    assert_eq!(runs.last(), None, "{label}: missing and in no gap line");
}

/// The daemon is killed meanwhile: numbers and gaps still cover each other, though the causes that a new
/// daemon tells are those counted since the lane was made.
fn losses_add_up_over_kills(backend: &str) {
    let place = Place::new("kills and drops", "drop");
    let mut random = Random::seeded();
    let mut daemon = place.daemon(backend, &[]);
    let publishers = place.four_publishers(&["size=100", "oversize_every=1009"]);
    for _ in 0..setting("MILLPOND_TEST_KILLS", 5) {
        std::thread::sleep(random.millis(120));
        daemon.kill();
        daemon = place.daemon(backend, &[]);
    }
    let outcomes = outcomes_of(publishers);
    let stats = place.settled();
    daemon.stop();
    let mut found = Found::read(&place.logs());
    found.assert_orderly();
    for (label, outcome) in &outcomes {
        let source = source(&stats, label);
        assert_identity(source);
        let dropped = source.dropped;
        assert_eq!(
            (
                source.published,
                dropped.full,
                dropped.too_long,
                dropped.other
            ),
            (outcome.published, outcome.full, outcome.too_long, 0),
            "{label}"
        );
        let present = &found.sequences[label];
        assert_eq!(present.count(), source.written, "{label}");
        let mut gaps = found.gaps.remove(label).unwrap_or_default();
        // Before a new daemon has seen a record of a lane, its gaps go to a service of their own.
        gaps.sort_by_key(|gap| gap.first);
        assert_gaps_tell_it(label, &gaps, &missing(present, outcome.published));
    }
}

#[test]
fn losses_add_up_over_kills_auto() {
    losses_add_up_over_kills("auto");
}

#[test]
fn losses_add_up_over_kills_pwrite() {
    losses_add_up_over_kills("pwrite");
}

fn losses_add_up(backend: &str) {
    let place = Place::new("unpaced publishers", "drop");
    let daemon = place.daemon(backend, &[]);
    let seconds = format!("seconds={}", setting("MILLPOND_TEST_SECONDS", 2));
    let publishers = place.four_publishers(&[&seconds, "size=100", "oversize_every=1009"]);
    let outcomes: BTreeMap<String, Published> = publishers
        .into_iter()
        .enumerate()
        .map(|(index, publisher)| (format!("p{index}"), Published::of(publisher.finish())))
        .collect();
    let stats = place.settled();
    daemon.stop();
    let found = Found::read(&place.logs());
    found.assert_orderly();
    for (label, outcome) in &outcomes {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, outcome.published, "{label}");
        let dropped = source.dropped;
        assert_eq!(
            (
                dropped.full,
                dropped.deadline,
                dropped.too_long,
                dropped.other
            ),
            (outcome.full, 0, outcome.too_long, 0),
            "{label}"
        );
        let present = &found.sequences[label];
        assert_eq!(present.count(), source.written, "{label}");
        let none = Vec::new();
        let gaps = found.gaps.get(label).unwrap_or(&none);
        let told: u64 = gaps.iter().map(|gap| gap.count).sum();
        assert_eq!(told, outcome.dropped(), "{label}");
        for (cause, expected) in [("full", outcome.full), ("too_long", outcome.too_long)] {
            let told: u64 = gaps.iter().filter_map(|gap| gap.causes.get(cause)).sum();
            // The counters run ahead of the numbers, so a line may mix up the causes of its losses; the
            // sums agree.
            assert_eq!(told, expected, "{label} {cause}");
        }
        assert_gaps_tell_it(label, gaps, &missing(present, outcome.published));
    }
    let gap_lines: u64 = found.gaps.values().map(|gaps| gaps.len() as u64).sum();
    let lines: u64 = stats.services.iter().map(|service| service.lines).sum();
    assert_eq!(lines, found.lines);
    let written: u64 = stats.sources.iter().map(|source| source.written).sum();
    assert_eq!(found.lines, written + gap_lines);
    let published: u64 = outcomes.values().map(|outcome| outcome.published).sum();
    assert!(
        written < published,
        "nothing was dropped: this test showed nothing"
    );
    eprintln!("{backend}: {published} published, {written} written, {gap_lines} gap lines");
}

#[test]
fn losses_add_up_auto() {
    losses_add_up("auto");
}

#[test]
fn losses_add_up_pwrite() {
    losses_add_up("pwrite");
}
