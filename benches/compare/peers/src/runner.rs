//! The order of a comparison: parts x rounds x peers. Within a round all peers take their turn, and the one that begins
//! changes from round to round, so that what else the machine does happens to all of them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millpond_bench::{Round, Row, report};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Fallible, Watch};

/// A table on something that is no terminal.
const WIDTH: usize = 160;
const INTERRUPTED: u8 = 130;

/// What is compared, and how often.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// These parts only
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    pub parts: Vec<String>,
    /// Only peers whose names contain one of these
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub peers: Vec<String>,
    /// How often each is measured, interleaved [default: 5; 1 where tiny]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// As it is quoted, or tiny: a proof that it runs, whose figures mean nothing
    #[arg(long, value_enum, default_value = "full")]
    pub size: Size,
    /// Writes the rows there as well, a line of JSON each
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Prints the parts, and the peers with their versions or why they cannot run here
    #[arg(long)]
    pub list: bool,
    /// A round that takes longer is killed [default: 120; 30 where tiny]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// Seconds.
    Tiny,
    /// Many minutes.
    Full,
}

/// A peer, and its version or why it cannot run here.
pub type Found = (String, Result<String, String>);

/// A row to be, and how a round of it is measured.
pub struct Case<'a> {
    /// Without rounds.
    pub row: Row,
    /// One round, which `Watch` ends if nothing else does.
    pub round: Measure<'a>,
}

/// Measures one round.
pub type Measure<'a> = Box<dyn FnMut(&Watch) -> Fallible<Round> + 'a>;

/// What is done with peers.
pub trait Comparison {
    /// Words for [`Flags::parts`], in the order in which they are run.
    fn parts(&self) -> Vec<&'static str>;

    /// Everybody, in the order of the table.
    fn peers(&self) -> Vec<Found>;

    /// Whoever of `peers` does the work of a part; who cannot is a row that says so.
    fn cases<'a>(&'a self, part: &str, peers: &[Found]) -> Vec<Case<'a>>;

    /// Whether millpond itself did wrong in this row.
    fn is_bad(&self, row: &Row) -> bool {
        row.is_bad()
    }
}

/// Compares, prints a table a part, and writes the rows. Exit codes: 0, 1 millpond itself failed, 2 the comparison could
/// not run, 130 it was interrupted.
pub fn run(comparison: &dyn Comparison, flags: &Flags) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let done = [SIGINT, SIGTERM]
        .into_iter()
        .try_for_each(|signal| {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map(|_| ())
        })
        .map_err(Into::into)
        .and_then(|()| compare(comparison, flags, interrupted));
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn compare(
    comparison: &dyn Comparison,
    flags: &Flags,
    interrupted: Arc<AtomicBool>,
) -> Fallible<ExitCode> {
    let parts = wanted_parts(comparison, &flags.parts)?;
    let peers = wanted_peers(comparison, &flags.peers)?;
    if flags.list {
        println!("parts: {}", parts.join(" "));
        for (name, found) in &peers {
            let said = match found {
                Ok(version) => version.clone(),
                Err(why) => format!("skipped: {why}"),
            };
            println!("{name:32}  {said}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (rounds, limit_s) = match flags.size {
        Size::Tiny => (1, 30),
        Size::Full => (5, 120),
    };
    let rounds = flags.rounds.unwrap_or(rounds).max(1);
    let limit = Duration::from_secs(flags.timeout.unwrap_or(limit_s));
    let watch = Watch::new(limit, interrupted);
    println!("{}; {rounds} rounds", millpond_bench::machine());
    let mut all = Vec::new();
    for part in parts {
        let cases = comparison.cases(part, &peers);
        let Some(rows) = take_turns(part, cases, rounds, &watch) else {
            return Ok(ExitCode::from(INTERRUPTED));
        };
        println!("\n{}", report::table(&rows, width()));
        all.extend(rows);
    }
    if flags.size == Size::Tiny {
        println!("(a tiny run: the figures mean nothing)");
    }
    if let Some(path) = &flags.json {
        write_rows(path, &all)?;
    }
    Ok(match all.iter().any(|row| comparison.is_bad(row)) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The rows of a part; `None` where it was interrupted.
fn take_turns(
    part: &str,
    mut cases: Vec<Case<'_>>,
    rounds: usize,
    watch: &Watch,
) -> Option<Vec<Row>> {
    let count = cases.len();
    for round in 0..rounds {
        for at in 0..count {
            let case = &mut cases[(round + at) % count];
            if case.row.skipped.is_some() || case.row.failed.is_some() {
                continue;
            }
            say(&format!("{part} {}/{rounds}: {}", round + 1, case.row.peer));
            match (case.round)(watch) {
                Ok(figures) => case.row.rounds.push(figures),
                Err(why) => case.row.failed = Some(format!("round {}: {why}", round + 1)),
            }
            if watch.is_interrupted() {
                say_nothing();
                return None;
            }
        }
    }
    say_nothing();
    Some(cases.into_iter().map(|case| case.row).collect())
}

/// What is about to be done: one line that is written over, or lines where nobody sees that.
fn say(what: &str) {
    let mut out = std::io::stderr().lock();
    // Whoever closed it does not want to know.
    let _ = match out.is_terminal() {
        true => write!(out, "\r\x1b[K{what}").and_then(|()| out.flush()),
        false => writeln!(out, "{what}"),
    };
}

fn say_nothing() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { WIDTH } else { columns }
}

fn wanted_parts(
    comparison: &dyn Comparison,
    wanted: &[String],
) -> Result<Vec<&'static str>, String> {
    let mut parts = comparison.parts();
    if let Some(unknown) = wanted.iter().find(|name| !parts.contains(&name.as_str())) {
        return Err(format!(
            "--parts {unknown}: there is no such part; there are {}",
            parts.join(", ")
        ));
    }
    parts.retain(|part| wanted.is_empty() || wanted.iter().any(|name| name == part));
    Ok(parts)
}

fn wanted_peers(comparison: &dyn Comparison, wanted: &[String]) -> Result<Vec<Found>, String> {
    let mut peers = comparison.peers();
    let is_named = |peer: &Found, name: &String| {
        let name = name.to_lowercase();
        peer.0.to_lowercase().contains(&name)
    };
    let is_nobody = |name: &&String| !peers.iter().any(|peer| is_named(peer, name));
    if let Some(nobody) = wanted.iter().find(is_nobody) {
        return Err(format!(
            "--peers {nobody}: no peer has such a name: `--list` prints them"
        ));
    }
    peers.retain(|peer| wanted.is_empty() || wanted.iter().any(|name| is_named(peer, name)));
    Ok(peers)
}

fn write_rows(path: &Path, rows: &[Row]) -> Fallible<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    Ok(std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use millpond_bench::{Figure, Guarantees};

    use super::*;

    struct Two;

    impl Comparison for Two {
        fn parts(&self) -> Vec<&'static str> {
            vec!["one", "other"]
        }

        fn peers(&self) -> Vec<Found> {
            vec![
                ("Alpha".to_owned(), Ok("1".to_owned())),
                ("Beta".to_owned(), Err("not installed".to_owned())),
            ]
        }

        fn cases<'a>(&'a self, _: &str, _: &[Found]) -> Vec<Case<'a>> {
            Vec::new()
        }
    }

    fn row(peer: &str) -> Row {
        Row {
            part: "one".to_owned(),
            work: "nothing".to_owned(),
            peer: peer.to_owned(),
            version: String::new(),
            figure: Figure::Rate,
            varied: None,
            is_floor: false,
            guarantees: Guarantees::default(),
            rounds: Vec::new(),
            skipped: None,
            failed: None,
        }
    }

    #[test]
    fn parts_and_peers_are_chosen_by_name_and_unknown_ones_are_told() {
        let names = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let parts = wanted_parts(&Two, &names(&["other"])).expect("it is there");
        assert_eq!(parts, ["other"]);
        let why = wanted_parts(&Two, &names(&["none"])).expect_err("it is not");
        assert!(why.contains("there are one, other"), "{why}");
        let peers = wanted_peers(&Two, &names(&["alph"])).expect("it is there");
        assert_eq!(peers, [("Alpha".to_owned(), Ok("1".to_owned()))]);
        assert!(wanted_peers(&Two, &names(&["gamma"])).is_err());
    }

    #[test]
    fn who_begins_changes_and_who_fails_has_no_more_turns() {
        let order = &RefCell::new(Vec::new());
        let case = |name: &'static str| Case {
            row: row(name),
            round: Box::new(move |_| {
                order.borrow_mut().push(name);
                match name {
                    "b" => Err("it broke".into()),
                    _ => Ok(Round::default()),
                }
            }),
        };
        let mut cases = vec![case("a"), case("b"), case("c")];
        cases[2].row.skipped = Some("not installed".to_owned());
        let watch = Watch::new(Duration::from_secs(60), Arc::default());
        let rows = take_turns("one", cases, 2, &watch).expect("nobody interrupts");
        assert_eq!(*order.borrow(), ["a", "b", "a"]);
        assert_eq!(rows[0].rounds.len(), 2);
        assert_eq!(rows[1].failed.as_deref(), Some("round 1: it broke"));
        assert!(rows[2].rounds.is_empty() && rows[2].failed.is_none());
    }
}
