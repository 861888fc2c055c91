//! Records in the place of `repeat` lines, against what was folded into them.

use std::fs;
use std::ops::ControlFlow;

use millpond_logfile::{
    BlockWriter, CommittedEnd, Cursor, Followed, Follower, Level, LevelSet, Order, Query, Reader,
    SegmentId, Source, SourcePattern, Told, rebuild_index, seal_segment,
};
use tempfile::TempDir;

use crate::model::Random;

const SOURCES: [&str; 4] = [
    "out",
    "two words",
    "out:2",
    // Two that are the same where a restarted daemon cuts them.
    "a-source-with-a-name-that-is-so-long-that-a-restarted-daemon-will-cut-it",
];
const MESSAGES: [&str; 4] = ["a", "b", "timeout", "repeat source=out count=2"];
const LEVELS: [Level; 3] = [Level::Info, Level::Warn, Level::Error];

/// A record, and the time of the line that has or counts it.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    level: Level,
    source: String,
    message: String,
    line_ns: u64,
}

struct Folded {
    logs: TempDir,
    records: Vec<Record>,
    /// The open segment and its length.
    end: (SegmentId, u64),
    /// By gap lines.
    dropped: u64,
}

struct Writer {
    block: BlockWriter,
    text: Vec<u8>,
    time_ns: u64,
}

impl Writer {
    fn line(&mut self, level: Level, source: &str, message: &[u8]) {
        let source = Source::new(source);
        self.block
            .append(&mut self.text, self.time_ns, level, &source, message);
    }
}

impl Folded {
    fn random(random: &mut Random, lines: usize) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let dir = logs.path().join("web");
        fs::create_dir(&dir).unwrap();
        let mut records: Vec<Record> = Vec::new();
        let mut dropped = 0;
        let start_ns = 1_795_224_593_000_000_000;
        let mut id = SegmentId::from_ns(start_ns);
        let mut writer = Writer {
            block: BlockWriter::new(),
            text: Vec::new(),
            time_ns: start_ns,
        };
        for number in 0..lines {
            writer.time_ns += random.below(5) as u64;
            if random.one_in(20) {
                // Somebody set the clock back.
                writer.time_ns -= random.below(30) as u64;
            }
            match random.below(10) {
                0 if number > 0 => writer.line(Level::Warn, "millpond", b"suppressed count=3"),
                1 => {
                    writer.line(
                        Level::Warn,
                        "millpond",
                        b"gap source=x lane=1 count=2 cause=full:2",
                    );
                    dropped += 2;
                }
                2..5 if !records.is_empty() => {
                    let last = records.last().unwrap().clone();
                    let token = Source::new(&last.source);
                    let cut = match random.one_in(2) {
                        true => token.token().len().min(64),
                        false => token.token().len(),
                    };
                    let count = 1 + random.below(4) as u64;
                    let told = Told::Repeat {
                        source: &token.token()[..cut],
                        count,
                        first_ns: writer.time_ns - 1,
                        last_ns: writer.time_ns,
                    };
                    let mut message = Vec::new();
                    told.write(&mut message);
                    writer.line(last.level, "millpond", &message);
                    let line_ns = writer.time_ns;
                    records.extend((0..count).map(|_| Record {
                        line_ns,
                        ..last.clone()
                    }));
                }
                _ => {
                    let record = Record {
                        level: random.pick(&LEVELS),
                        source: random.pick(&SOURCES).to_owned(),
                        message: random.pick(&MESSAGES).to_owned(),
                        line_ns: writer.time_ns,
                    };
                    writer.line(record.level, &record.source, record.message.as_bytes());
                    records.push(record);
                }
            }
            if random.one_in(40) && writer.time_ns > id.as_ns() {
                fs::write(id.log_path(&dir), &writer.text).unwrap();
                if random.one_in(2) {
                    rebuild_index(&dir, id, false).unwrap();
                    seal_segment(&dir, id, 1, &mut || true).unwrap();
                }
                id = SegmentId::from_ns(writer.time_ns);
                writer.text.clear();
                writer.block = BlockWriter::new();
            }
        }
        fs::write(id.log_path(&dir), &writer.text).unwrap();
        let end = (id, writer.text.len() as u64);
        Folded {
            logs,
            records,
            end,
            dropped,
        }
    }
}

/// Some conditions, and what they leave.
fn ask(random: &mut Random, folded: &Folded) -> (Query, Vec<Record>) {
    let mut query = Query::new().service("web").unfold();
    let mut expected = folded.records.clone();
    if random.one_in(2) {
        let message = random.pick(&MESSAGES[..3]);
        query = match random.one_in(2) {
            true => query.contains(message),
            false => query.regex(message).unwrap(),
        };
        expected.retain(|record| record.message.contains(message));
    }
    if random.one_in(2) {
        let source = random.pick(&["out", "out*", "two words", SOURCES[3], "a-source*"]);
        let pattern = SourcePattern::new(source);
        query = query.source(source);
        expected.retain(|record| pattern.matches(Source::new(&record.source).token()));
    }
    if random.one_in(2) {
        let level = random.pick(&LEVELS);
        query = query.levels(LevelSet::of(&[level]));
        expected.retain(|record| record.level == level);
    }
    if random.one_in(2) {
        let since_ns = random.pick(&folded.records).line_ns;
        query = query.since_ns(since_ns);
        expected.retain(|record| record.line_ns >= since_ns);
    }
    if random.one_in(3) {
        let until_ns = random.pick(&folded.records).line_ns;
        query = query.until_ns(until_ns);
        expected.retain(|record| record.line_ns < until_ns);
    }
    if random.one_in(2) {
        query = query.order(Order::Newest);
        expected.reverse();
    }
    if random.one_in(2) {
        let limit = random.below(expected.len() + 2);
        query = query.limit(limit as u64);
        expected.truncate(limit);
    }
    (query, expected)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

type Seen = (Level, String, String);

fn of_record(record: &Record) -> Seen {
    let source = text(Source::new(&record.source).token());
    (record.level, source, record.message.clone())
}

#[test]
fn records_are_what_was_folded_whatever_is_asked() {
    let mut random = Random::seeded();
    for _ in 0..60 {
        let lines = 1 + random.below(400);
        let folded = Folded::random(&mut random, lines);
        let reader = Reader::open(folded.logs.path()).unwrap();
        let all = Query::new().unfold();
        let report = reader
            .run(&all, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(report.matched, folded.records.len() as u64);
        assert_eq!(report.left_out.dropped, folded.dropped);
        assert_eq!(report.left_out.repeated, 0);
        if folded.records.is_empty() {
            continue;
        }
        for _ in 0..40 {
            let (query, expected) = ask(&mut random, &folded);
            let mut found: Vec<Seen> = Vec::new();
            let report = reader.run(&query, &mut |hit| {
                found.push((hit.level, text(hit.source), text(hit.message)));
                ControlFlow::Continue(())
            });
            let expected: Vec<Seen> = expected.iter().map(of_record).collect();
            assert_eq!(found, expected, "{query:?}");
            assert_eq!(report.unwrap().matched, found.len() as u64);
        }
    }
}

#[test]
fn a_follower_gives_each_record_once_wherever_it_is_left_and_gone_on() {
    let mut random = Random::seeded();
    for _ in 0..60 {
        let lines = 1 + random.below(300);
        let folded = Folded::random(&mut random, lines);
        let end = CommittedEnd {
            segment_id: folded.end.0.as_ns(),
            length_bytes: folded.end.1,
            segments: 1,
        };
        let mut cursor = Cursor::default();
        let mut found: Vec<Seen> = Vec::new();
        loop {
            let mut follower = Follower::new(folded.logs.path(), cursor).unfold();
            follower.add_service("web");
            let mut left = 1 + random.below(20);
            let report = follower.read(&|_| Some(end), &mut |item| {
                let Followed::Line { hit, .. } = item else {
                    panic!("nothing is gone")
                };
                if hit.source != Told::SOURCE {
                    found.push((hit.level, text(hit.source), text(hit.message)));
                }
                left -= 1;
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            });
            // As somebody else reads it who was given the text.
            cursor = follower.cursor().to_string().parse().unwrap();
            if report.unwrap().caught_up {
                break;
            }
        }
        let expected: Vec<Seen> = folded.records.iter().map(of_record).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn repeats_of_a_line_that_is_gone_are_counted() {
    let logs = tempfile::tempdir().unwrap();
    let dir = logs.path().join("web");
    fs::create_dir(&dir).unwrap();
    let id = SegmentId::from_ns(1_795_224_593_000_000_000);
    let time = "2026-11-21T01:29:53.000000001Z";
    let text = format!(
        "{time} INFO  millpond repeat source=out count=7 first={time} last={time}\n\
         {time} INFO  out there\n\
         {time} INFO  millpond repeat source=out count=2 first={time} last={time}\n\
         {time} WARN  millpond repeat source=out count=5 first={time} last={time}\n"
    );
    fs::write(id.log_path(&dir), &text).unwrap();
    for order in [Order::Oldest, Order::Newest] {
        let reader = Reader::open(logs.path()).unwrap();
        let query = Query::new().unfold().order(order);
        let report = reader
            .run(&query, &mut |hit| {
                assert_eq!(hit.message, b"there");
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((report.matched, report.left_out.repeated), (3, 12));
    }
}
