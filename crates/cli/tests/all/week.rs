//! The operator's questions at a size for CI, asked of the command itself. `MILLPOND_TEST_SEED` repeats a run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use millpond_loadgen::{Host, week};

/// Real logs, where this checkout has them.
fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/loghub");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("no corpus at {}: lines are made of words", dir.display());
    None
}

fn seed() -> u64 {
    let given = std::env::var("MILLPOND_TEST_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    eprintln!("seed: MILLPOND_TEST_SEED={seed}");
    seed
}

#[test]
fn every_answer_is_what_grep_finds() {
    let millpond = env!("CARGO_BIN_EXE_millpond");
    let place = tempfile::tempdir().expect("a temporary place");
    let options = week::Options {
        host: Some(Host::new(millpond, &["replay-role"])),
        millpond: Some(millpond.into()),
        corpus: corpus(),
        seed: seed(),
        dir: Some(place.path().to_owned()),
        ..week::Options::ci()
    };
    let report = week::run(&options, &mut |_| {}).expect("it is played to its end");
    println!("{report}");
    for criterion in &report.criteria {
        assert!(criterion.met, "{}", criterion.text);
    }
    let plot = std::fs::read_to_string(place.path().join("week.svg")).expect("a plot");
    assert_eq!(plot.matches("<polyline").count(), 6);
    let table = std::fs::read_to_string(place.path().join("week.md")).expect("a table");
    assert!(table.contains("| text | disk | lines |"));
}
