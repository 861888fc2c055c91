//! The parts about the bus, with their curves: every case is measured, what is counted adds up, nothing is left behind.

use std::sync::{Mutex, MutexGuard, PoisonError};

use millpond_bench::{Figure, Options, Part, Row, Size, run};
use millpond_loadgen::Host;

const PARTS: [Part; 5] = [
    Part::Ring,
    Part::Publish,
    Part::Drain,
    Part::Batch,
    Part::Wake,
];

fn options(parts: &[Part]) -> Options {
    Options {
        parts: parts.to_vec(),
        host: Some(Host::new(env!("CARGO_BIN_EXE_bench-host"), &[])),
        ..Options::new(Size::Tiny)
    }
}

fn measured(options: &Options) -> Vec<Row> {
    let mut steps = 0;
    let rows = run(options, &mut |step| {
        assert!(step.index < step.count);
        steps += 1;
    });
    let rows = rows.expect("the parts can be prepared");
    assert!(steps > 0);
    rows
}

/// Measurements of one process are not made at the same time: each would be in the figures of the other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Buses of this process that are still in the system.
fn buses_left() -> Vec<String> {
    let own = format!("-{}-", std::process::id());
    let objects = std::fs::read_dir("/dev/shm").expect("shared memory can be listed");
    objects
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("millpond.bench-") && name.contains(&own))
        .collect()
}

#[test]
fn every_case_is_measured_and_nothing_is_left() {
    let _turn = turn();
    let parent = tempfile::tempdir().expect("a place for the logs");
    let options = Options {
        rounds: 2,
        dir: Some(parent.path().to_owned()),
        ..options(&PARTS)
    };
    for row in measured(&options) {
        let what = format!("{} / {} / {}", row.part, row.work, row.peer);
        assert_eq!(row.failed, None, "{what}");
        if let Some(reason) = row.skipped {
            assert_eq!(
                (reason.as_str(), cores()),
                ("there is only one core", 1),
                "{what}"
            );
            continue;
        }
        assert_eq!(row.rounds.len(), 2, "{what}");
        for round in &row.rounds {
            assert!(round.events > 0 && round.seconds > 0.0, "{what}: {round:?}");
            assert!(round.cpu_seconds > 0.0, "{what}: {round:?}");
            assert!(round.memory_bytes.is_some_and(|bytes| bytes > 0), "{what}");
            assert!(round.lost < round.events, "{what}: {round:?}");
            assert!(row.figure.of(round).is_finite(), "{what}: {round:?}");
            let is_latency = row.figure == Figure::Latency;
            assert_eq!(round.latency_ns.is_some(), is_latency, "{what}");
        }
    }
    assert_eq!(buses_left(), Vec::<String>::new());
    let logs = std::fs::read_dir(parent.path()).expect("it is there");
    assert_eq!(logs.count(), 0, "logs are left");
}

#[test]
fn a_work_has_millpond_and_its_floor() {
    let _turn = turn();
    let rows = measured(&options(&PARTS));
    for part in PARTS {
        let of_part = || rows.iter().filter(|row| row.part == part.name());
        assert!(
            of_part().any(|row| !row.is_floor
                && of_part().any(|floor| floor.is_floor && floor.work == row.work)),
            "{part:?} has no work with a floor"
        );
        for row in of_part() {
            assert_eq!(
                row.peer.starts_with("millpond"),
                row.guarantees.crash_safe && row.version == env!("CARGO_PKG_VERSION")
            );
            assert_eq!(row.varied, None, "curves were not asked for");
        }
    }
}

#[test]
fn curves_have_all_their_points() {
    let _turn = turn();
    let options = Options {
        growth: true,
        ..options(&[Part::Publish, Part::Drain, Part::Batch])
    };
    let rows = measured(&options);
    let curves: [(&str, &[u64]); 5] = [
        ("publishers", &[1, 2, 4, 8, 16, 32, 64]),
        (
            "payload bytes",
            &[8, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10],
        ),
        ("rules", &[1, 16, 64, 256]),
        ("lanes", &[1, 10, 100, 1000]),
        ("subscribers", &[0, 1, 2, 4, 8, 16, 32, 64]),
    ];
    for (name, values) in curves {
        let points: Vec<&Row> = rows
            .iter()
            .filter(|row| {
                row.varied
                    .as_ref()
                    .is_some_and(|varied| varied.name == name)
            })
            .collect();
        let own = |row: &&&Row| row.peer.starts_with("millpond");
        let mut works: Vec<&str> = points
            .iter()
            .filter(own)
            .map(|row| row.work.as_str())
            .collect();
        works.sort_unstable();
        works.dedup();
        assert!(!works.is_empty(), "no curve over {name}");
        for work in works {
            let of_work = points.iter().filter(own).filter(|row| row.work == work);
            let (found, failed): (Vec<u64>, Vec<_>) = of_work
                .map(|row| {
                    (
                        row.varied.as_ref().map_or(0, |varied| varied.value),
                        &row.failed,
                    )
                })
                .unzip();
            assert_eq!(found, values, "{work}");
            assert!(
                failed.iter().all(|failed| failed.is_none()),
                "{work}: {failed:?}"
            );
        }
    }
}

#[test]
fn a_process_that_fails_is_told_in_its_row_and_the_others_go_on() {
    let _turn = turn();
    let options = Options {
        host: Some(Host::new("false", &[])),
        ..options(&[Part::Publish])
    };
    let rows = measured(&options);
    let (failed, others): (Vec<Row>, Vec<Row>) =
        rows.into_iter().partition(|row| row.peer == "millpond");
    assert!(!failed.is_empty() && !others.is_empty());
    for row in failed {
        let why = row.failed.clone().unwrap_or_default();
        assert!(why.contains("bus-publisher ended without a word"), "{why}");
        assert!(row.is_bad() && row.rounds.is_empty());
    }
    for row in others {
        assert_eq!(
            (row.failed.as_deref(), row.rounds.len()),
            (None, 1),
            "{}",
            row.peer
        );
    }
}
