//! The operator's questions at a size for CI, asked of the command itself. `MILLPOND_TEST_SEED` repeats a run.

use std::path::{Path, PathBuf};

use millpond_loadgen::{Host, week};
use millpond_tests::seed;

/// Real logs, where this checkout has them.
fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/loghub");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("no corpus at {}: lines are made of words", dir.display());
    None
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
