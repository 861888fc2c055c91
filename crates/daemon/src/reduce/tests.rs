//! The reduction of a service against what it says of itself: its log, unfolded, is what was published.

use millpond_bus::Verdict;
use millpond_logfile::{Level, Source, Told, parse_line};
use proptest::prelude::*;

use super::service::{Entry, Lines, REMEMBERED_BYTES_MAX, ServiceState};
use super::*;

const SECOND: u64 = 1_000_000_000;

/// A line that was written, and whether the daemon wrote it for itself.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    time_ns: u64,
    level: Level,
    source: Vec<u8>,
    message: Vec<u8>,
}

impl Lines for Vec<Line> {
    fn append(&mut self, time_ns: u64, level: Level, source: &Source, message: &[u8]) {
        self.push(Line {
            time_ns,
            level,
            source: source.token().to_vec(),
            message: message.to_vec(),
        });
    }
}

/// What a reader makes of a log.
#[derive(Debug, Default)]
struct Unfolded {
    records: Vec<Line>,
    written: u64,
    repeated: u64,
    suppressed: u64,
}

fn unfold(lines: &[Line]) -> Unfolded {
    let mut unfolded = Unfolded::default();
    let mut last: Option<&Line> = None;
    for line in lines {
        if line.source != Rule::OWN_SOURCE.as_bytes() {
            unfolded.records.push(line.clone());
            unfolded.written += 1;
            last = Some(line);
            continue;
        }
        match Told::parse(&line.message).expect("one of our forms") {
            Told::Repeat {
                source,
                count,
                first_ns,
                last_ns,
            } => {
                let last = last.expect("something to repeat");
                assert_eq!((line.level, source), (last.level, &last.source[..]));
                assert!(first_ns <= last_ns && line.time_ns == last_ns && count > 0);
                unfolded.repeated += count;
                let again = std::iter::repeat_n(last.clone(), count as usize);
                unfolded.records.extend(again);
            }
            Told::Suppressed {
                count,
                first_ns,
                last_ns,
            } => {
                assert_eq!(line.level, Level::Warn);
                assert!(first_ns <= last_ns && line.time_ns == last_ns && count > 0);
                unfolded.suppressed += count;
            }
        }
    }
    unfolded
}

fn same(a: &Line, b: &Line) -> bool {
    (a.level, &a.source, &a.message) == (b.level, &b.source, &b.message)
}

/// What happens to a service.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        later_ns: u64,
        level: u8,
        source: &'static str,
        message: Vec<u8>,
    },
    /// It is looked what is due.
    Look,
    /// A group is committed.
    Commit,
    /// The daemon is killed, and another one goes on.
    Kill,
    Configure(Reduction),
}

fn reduction() -> impl Strategy<Value = Reduction> {
    let limit = (1_u32..50, 1_u32..20).prop_map(|(lines_per_s, burst_lines)| RateLimit {
        lines_per_s,
        burst_lines,
    });
    let redact = prop::sample::select(vec![
        vec![],
        vec![("x", "b+")],
        vec![("x", "a"), ("y", r"\[.*\]")],
    ]);
    (
        any::<bool>(),
        prop::option::of(limit),
        prop::option::of(0_u32..5),
        redact,
    )
        .prop_map(|(repeats, rate_limit, sample, redact)| Reduction {
            repeats,
            rate_limit,
            sample,
            redact: redact
                .into_iter()
                .map(|(name, pattern)| Redaction::new(name, pattern).expect("a good pattern"))
                .collect(),
        })
}

fn publish() -> impl Strategy<Value = Step> {
    let later = prop_oneof![4 => 0..SECOND / 100, 1 => 0..4 * SECOND, 1 => Just(11 * SECOND)];
    let message = prop_oneof![
        6 => prop::sample::select(vec![&b"a"[..], b"b", b"", b"ab"]).prop_map(<[u8]>::to_vec),
        1 => Just(vec![b'z'; REMEMBERED_BYTES_MAX]),
        1 => Just(vec![b'z'; REMEMBERED_BYTES_MAX + 1]),
    ];
    let source = prop::sample::select(vec!["out", "out", "err", "out+"]);
    // Mostly the same once more: what is not repeated is not reduced.
    (later, 2_u8..4, source, message, 1_usize..5).prop_map(
        |(later_ns, level, source, message, _)| Step::Publish {
            later_ns,
            level,
            source,
            message,
        },
    )
}

fn steps(configures: bool) -> impl Strategy<Value = Vec<Step>> {
    let runs = (publish(), 1_usize..6).prop_map(|(step, times)| vec![step; times]);
    let one = |step: Step| Just(vec![step]);
    let changes = match configures {
        true => reduction().prop_map(Step::Configure).boxed(),
        false => Just(Step::Look).boxed(),
    };
    let step = prop_oneof![
        12 => runs,
        3 => one(Step::Look),
        3 => one(Step::Commit),
        2 => one(Step::Kill),
        1 => changes.prop_map(|step| vec![step]),
    ];
    prop::collection::vec(step, 1..60).prop_map(|runs| runs.concat())
}

/// Plays a service with its commit point: what is not committed when the daemon is killed is published again.
struct Play {
    published: Vec<Line>,
    kept: u64,
    coalesced: u64,
    suppressed: u64,
    log: Vec<Line>,
}

fn play(settings: &Reduction, steps: &[Step]) -> Play {
    let own = Source::new(Rule::OWN_SOURCE);
    let (mut settings, mut time_ns) = (settings.clone(), 1_000 * SECOND);
    let mut state = ServiceState::new(&settings);
    let (mut published, mut log) = (Vec::new(), Vec::new());
    let mut counts = [0_u64; 3];
    // What the commit point says: how much of either is true, the counts, and what is untold.
    let mut committed = (0, 0, counts, millpond_bus::Untold::default());
    let mut commit = |state: &mut ServiceState, published: usize, log: usize, counts| {
        let untold = match state.take_change() {
            Some((untold, _)) => untold,
            None => committed.3.clone(),
        };
        committed = (published, log, counts, untold);
        committed.clone()
    };
    let mut point = commit(&mut state, 0, 0, counts);
    let mut again: Vec<Line> = Vec::new();
    let deliver =
        |state: &mut ServiceState, line: &Line, log: &mut Vec<Line>, counts: &mut [u64; 3]| {
            let source = Source::new(std::str::from_utf8(&line.source).expect("text"));
            let entry = Entry {
                time_ns: line.time_ns,
                level: line.level,
                source: &source,
                message: &line.message,
            };
            match state.take(entry, &own, log) {
                Verdict::Keep => counts[0] += 1,
                Verdict::Coalesce => counts[1] += 1,
                Verdict::Suppress => counts[2] += 1,
                other => panic!("{other:?}"),
            }
        };
    for step in steps {
        match step {
            Step::Publish {
                later_ns,
                level,
                source,
                message,
            } => {
                time_ns += later_ns;
                let line = Line {
                    time_ns,
                    level: Level::from_u8(*level),
                    source: source.as_bytes().to_vec(),
                    message: message.clone(),
                };
                deliver(&mut state, &line, &mut log, &mut counts);
                published.push(line);
            }
            Step::Look => state.tell_due(time_ns, &own, &mut log),
            Step::Commit => point = commit(&mut state, published.len(), log.len(), counts),
            Step::Kill => {
                again.extend(published.drain(point.0..));
                log.truncate(point.1);
                counts = point.2;
                state = ServiceState::new(&settings);
                state.restore(&point.3);
                state.tell_due(u64::MAX, &own, &mut log);
                for line in again.drain(..) {
                    deliver(&mut state, &line, &mut log, &mut counts);
                    published.push(line);
                }
            }
            Step::Configure(new) => {
                settings.clone_from(new);
                state.configure(&settings, &own, &mut log);
            }
        }
    }
    state.tell_due(u64::MAX, &own, &mut log);
    let untold = state.take_change().map(|(untold, _)| untold);
    assert_eq!(untold.unwrap_or_default(), millpond_bus::Untold::default());
    assert_eq!(state.due_ns(), None);
    Play {
        published,
        kept: counts[0],
        coalesced: counts[1],
        suppressed: counts[2],
        log,
    }
}

proptest! {
    /// Repeats alone lose nothing at all, not even the order.
    #[test]
    fn a_log_with_repeats_unfolds_to_what_was_published(steps in steps(false)) {
        let played = play(&Reduction::default(), &steps);
        let unfolded = unfold(&played.log);
        prop_assert_eq!(unfolded.records.len(), played.published.len());
        for (found, published) in unfolded.records.iter().zip(&played.published) {
            prop_assert!(same(found, published), "{found:?} for {published:?}");
        }
        prop_assert_eq!(unfolded.written, played.kept);
        prop_assert_eq!(unfolded.repeated, played.coalesced);
    }

    /// Whatever is asked for, and changed on the way: every record is in a line or in a count.
    #[test]
    fn every_record_is_in_a_line_or_in_a_count(settings in reduction(), steps in steps(true)) {
        let played = play(&settings, &steps);
        let unfolded = unfold(&played.log);
        let told = unfolded.written + unfolded.repeated + unfolded.suppressed;
        prop_assert_eq!(told, played.published.len() as u64);
        prop_assert_eq!(unfolded.written, played.kept);
        prop_assert_eq!(unfolded.repeated, played.coalesced);
        prop_assert_eq!(unfolded.suppressed, played.suppressed);
    }

    /// A longer record comes whole: no part of it is swallowed, and none is taken for a repeat.
    #[test]
    fn parts_of_a_record_are_never_reduced(settings in reduction(), steps in steps(false)) {
        let settings = Reduction { redact: Vec::new(), ..settings };
        // Within one life: which parts come next is not known to another daemon.
        let steps: Vec<Step> = (steps.into_iter())
            .filter(|step| !matches!(step, Step::Kill)).collect();
        let played = play(&settings, &steps);
        let parts = |lines: &[Line]| {
            let (mut is_open, mut parts) = (false, Vec::new());
            for line in lines {
                let continues = line.source == b"out+";
                if continues || (is_open && line.source == b"out") {
                    is_open = continues;
                    parts.push(line.clone());
                }
            }
            parts
        };
        if settings != Reduction::none() {
            prop_assert_eq!(parts(&played.log), parts(&played.published));
        }
    }
}

fn publish_all(
    state: &mut ServiceState,
    lines: &[(u64, Level, &[u8])],
) -> (Vec<Line>, Vec<Verdict>) {
    let (own, source) = (Source::new(Rule::OWN_SOURCE), Source::new("out"));
    let mut log = Vec::new();
    let verdicts = lines
        .iter()
        .map(|&(time_ns, level, message)| {
            let entry = Entry {
                time_ns,
                level,
                source: &source,
                message,
            };
            state.take(entry, &own, &mut log)
        })
        .collect();
    (log, verdicts)
}

#[test]
fn a_sample_keeps_the_first_and_each_nth_and_all_warnings() {
    let settings = Reduction {
        sample: Some(100),
        repeats: false,
        ..Reduction::none()
    };
    let mut state = ServiceState::new(&settings);
    let lines: Vec<(u64, Level, &[u8])> = (0..1000)
        .map(|index| match index % 10 {
            9 => (index, Level::Warn, &b"warning"[..]),
            _ => (index, Level::Info, &b"all is well"[..]),
        })
        .collect();
    let (log, verdicts) = publish_all(&mut state, &lines);
    let of = |level| log.iter().filter(|line| line.level == level).count();
    assert_eq!((of(Level::Warn), of(Level::Info)), (100, 9));
    let suppressed = verdicts
        .iter()
        .filter(|&&verdict| verdict == Verdict::Suppress);
    assert_eq!(suppressed.count(), 891);
    assert_eq!(
        state.due_ns(),
        Some(1 + 10 * SECOND),
        "ten seconds after the first"
    );
}

#[test]
fn over_the_limit_it_is_told_each_second_and_repeats_cost_nothing() {
    let settings = Reduction {
        rate_limit: Some(RateLimit {
            lines_per_s: 2,
            burst_lines: 2,
        }),
        ..Reduction::default()
    };
    let mut state = ServiceState::new(&settings);
    let lines: [(u64, Level, &[u8]); 6] = [
        (SECOND, Level::Error, b"a"),
        (SECOND, Level::Error, b"a"),
        (SECOND, Level::Error, b"a"),
        (SECOND, Level::Error, b"b"),
        (SECOND, Level::Fatal, b"c"),
        (2 * SECOND, Level::Info, b"d"),
    ];
    let (_, verdicts) = publish_all(&mut state, &lines);
    use Verdict::{Coalesce, Keep, Suppress};
    assert_eq!(verdicts, [Keep, Coalesce, Coalesce, Keep, Suppress, Keep]);
    assert_eq!(state.due_ns(), Some(2 * SECOND));
}

#[test]
fn redaction_comes_before_repeats_and_is_counted() {
    let settings = Reduction {
        redact: vec![
            Redaction::new("card", r"\b[0-9]{16}\b").expect("a pattern"),
            Redaction::new("mail", r"[^ ]+@[^ ]+").expect("a pattern"),
        ],
        ..Reduction::default()
    };
    let mut state = ServiceState::new(&settings);
    let lines: [(u64, Level, &[u8]); 3] = [
        (1, Level::Info, b"paid with 1234567812345678 by a@b \xff"),
        (2, Level::Info, b"paid with 8765432187654321 by c@d \xff"),
        (3, Level::Info, b"done"),
    ];
    let (log, _) = publish_all(&mut state, &lines);
    assert_eq!(
        log[0].message,
        b"paid with [redacted:card] by [redacted:mail] \xff"
    );
    assert!(log[1].message.starts_with(b"repeat source=out count=1 "));
    let (_, redacted) = state.take_change().expect("something has changed");
    assert_eq!(redacted, 4);
}

#[test]
fn patterns_that_match_nothing_or_are_none_are_refused() {
    for (name, pattern) in [("x", "a*"), ("x", "["), ("two words", "a"), ("", "a")] {
        Redaction::new(name, pattern).expect_err("refused");
    }
}

#[test]
fn what_the_daemon_writes_reads_as_lines() {
    let mut state = ServiceState::new(&Reduction::default());
    let lines: [(u64, Level, &[u8]); 3] = [
        (1, Level::Error, b"a"),
        (2, Level::Error, b"a"),
        (3, Level::Error, b"b"),
    ];
    let (log, _) = publish_all(&mut state, &lines);
    let mut text = Vec::new();
    millpond_logfile::LineWriter::new().write(
        &mut text,
        log[1].time_ns,
        log[1].level,
        &Source::new(Rule::OWN_SOURCE),
        &log[1].message,
    );
    let line = parse_line(&text).expect("a line");
    assert_eq!((line.level, line.source), (Level::Error, &b"millpond"[..]));
}
