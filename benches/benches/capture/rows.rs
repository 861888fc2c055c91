//! The same as rows, for the report that all comparisons are in.

use std::path::Path;
use std::process::Command;

use millpond_bench::{Figure, Guarantees, Round, Row};

/// What was written waits for nobody's reader but the kernel's, and is out of the command's hands.
const KEPT: Guarantees = Guarantees {
    bounded: true,
    blocking: true,
    lossy: false,
    crash_safe: true,
    durable: false,
};

/// Who did the work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub(crate) name: &'a str,
    /// Says its version.
    pub(crate) version: &'a [&'a str],
    /// Reads, and keeps nothing.
    pub(crate) is_floor: bool,
    /// Lets the command go on where the log is slow: what was dropped is counted.
    pub(crate) drops: bool,
}

/// A row without rounds is one that was skipped: its program is not there.
pub(crate) fn row(work: String, who: Who<'_>, figure: Figure, rounds: Vec<Round>) -> Row {
    let skipped = rounds
        .is_empty()
        .then(|| format!("{} is not installed", who.version[0]));
    Row {
        part: "capture".to_owned(),
        work,
        peer: who.name.to_owned(),
        version: match rounds.is_empty() {
            true => String::new(),
            false => version_of(who.version),
        },
        figure,
        varied: None,
        is_floor: who.is_floor,
        guarantees: Guarantees {
            blocking: !who.drops,
            crash_safe: !who.is_floor,
            ..KEPT
        },
        rounds,
        skipped,
        failed: None,
    }
}

/// Best effort: not every program has one.
fn version_of(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let said = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or_default().trim().to_owned()
}

/// A line of JSON each.
pub(crate) fn write(path: &Path, rows: &[Row]) {
    let lines = rows.iter().map(|row| {
        let line = serde_json::to_string(row).expect("a row is plain data");
        line + "\n"
    });
    std::fs::write(path, lines.collect::<String>()).expect("a place for the rows");
}
