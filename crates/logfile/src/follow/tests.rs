use std::fs;
use std::ops::Range;

use super::*;
use crate::name::SegmentId;
use crate::{BlockWriter, Level, Source, rebuild_index};

/// A log directory whose lines are numbers, in the order of their times.
struct Log {
    logs: tempfile::TempDir,
}

/// As if every segment that ever was had a number of its own from 1 on.
fn end((segment_id, length_bytes): (u64, u64)) -> CommittedEnd {
    CommittedEnd {
        segment_id,
        length_bytes,
        segments: segment_id,
    }
}

fn at(segment: u64, offset: u64) -> LogPosition {
    LogPosition {
        segment_id: SegmentId::from_ns(segment),
        offset,
        records: 0,
    }
}

impl Log {
    fn new() -> Self {
        Log {
            logs: tempfile::tempdir().expect("a directory"),
        }
    }

    fn dir(&self, service: &str) -> PathBuf {
        self.logs.path().join(service)
    }

    /// Appends a line per number, which is its time too; returns the length of the segment then.
    fn append(&self, service: &str, segment: u64, numbers: Range<u64>) -> u64 {
        let dir = self.dir(service);
        fs::create_dir_all(&dir).expect("a service");
        let path = SegmentId::from_ns(segment).log_path(&dir);
        let mut text = fs::read(&path).unwrap_or_default();
        let mut block = BlockWriter::new();
        let mut new = Vec::new();
        for number in numbers {
            let message = number.to_string();
            let source = Source::new("s");
            block.append(&mut new, number, Level::Info, &source, message.as_bytes());
        }
        text.extend_from_slice(&new);
        fs::write(&path, &text).expect("a segment");
        text.len() as u64
    }

    fn index(&self, service: &str, segment: u64) {
        let id = SegmentId::from_ns(segment);
        rebuild_index(&self.dir(service), id, false).expect("an index");
    }

    fn remove(&self, service: &str, segment: u64) {
        let path = SegmentId::from_ns(segment).log_path(&self.dir(service));
        fs::remove_file(path).expect("a segment");
    }

    fn follower(&self, cursor: Cursor, services: &[&str]) -> Follower {
        let mut follower = Follower::new(self.logs.path(), cursor);
        services
            .iter()
            .for_each(|service| follower.add_service(service));
        follower
    }
}

/// Everything up to `limit`, at most `most` items at a call.
fn read_by(follower: &mut Follower, limit: (u64, u64), most: usize) -> (Vec<u64>, Vec<Gone>) {
    let (mut numbers, mut losses) = (Vec::new(), Vec::new());
    loop {
        let mut left = most;
        let report = follower
            .read(&|_| Some(end(limit)), &mut |found| {
                match found {
                    Followed::Line { hit, .. } => {
                        let text = std::str::from_utf8(hit.message).expect("a number");
                        numbers.push(text.parse().expect("a number"));
                    }
                    Followed::Gone(gone) => losses.push(gone),
                }
                left -= 1;
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })
            .expect("readable");
        assert_eq!(report.damaged_lines, 0);
        if report.caught_up {
            return (numbers, losses);
        }
    }
}

fn read(follower: &mut Follower, limit: (u64, u64)) -> (Vec<u64>, Vec<Gone>) {
    read_by(follower, limit, usize::MAX)
}

fn numbers(range: Range<u64>) -> (Vec<u64>, Vec<Gone>) {
    (range.collect(), Vec::new())
}

#[test]
fn what_is_not_committed_is_not_read() {
    let log = Log::new();
    let committed = log.append("web", 1, 10..20);
    log.append("web", 1, 20..30);
    log.append("web", 2, 30..40);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    let nothing = follower.read(&|_| None, &mut |_| unreachable!());
    assert!(nothing.expect("readable").caught_up);
    assert_eq!(read(&mut follower, (1, committed)), numbers(10..20));
    assert_eq!(read(&mut follower, (1, committed)), numbers(0..0));
    assert_eq!(follower.cursor().positions["web"], at(1, committed));
}

#[test]
fn rotations_leave_no_seam_wherever_reading_breaks_off() {
    for most in [1, 2, 7, usize::MAX] {
        let log = Log::new();
        let mut follower = log.follower(Cursor::default(), &["web"]);
        let first = log.append("web", 1, 10..2010);
        assert_eq!(read_by(&mut follower, (1, first), most), numbers(10..2010));
        log.append("web", 1, 2010..2020);
        log.append("web", 2, 2020..2021);
        // Committed, but its file is not there yet.
        assert_eq!(read_by(&mut follower, (3, 0), most), numbers(2010..2021));
        let last = log.append("web", 3, 2021..2030);
        assert_eq!(read_by(&mut follower, (3, last), most), numbers(2021..2030));
    }
}

#[test]
fn a_cursor_goes_on_behind_the_last_line_that_was_visited() {
    let log = Log::new();
    log.append("web", 1, 10..50);
    let end = log.append("web", 2, 50..90);
    let mut cursor = Cursor::default();
    let mut all = Vec::new();
    while all.len() < 80 {
        let text = cursor.to_string();
        let mut follower = log.follower(text.parse().expect("a cursor"), &["web"]);
        let step = |found: Followed<'_>| {
            if let Followed::Line { hit, .. } = found {
                all.push(hit.time_ns);
            }
            ControlFlow::Break(())
        };
        let mut step = step;
        follower
            .read(&|_| Some(self::end((2, end))), &mut step)
            .expect("readable");
        cursor = follower.cursor();
    }
    assert_eq!(all, (10..90).collect::<Vec<u64>>());
}

#[test]
fn a_segment_that_is_being_read_may_be_removed() {
    let log = Log::new();
    log.append("web", 1, 0..10_000);
    let end = log.append("web", 2, 10_000..10_010);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    let mut seen = 0;
    let mut few = |_: Followed<'_>| {
        seen += 1;
        match seen {
            10 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    follower
        .read(&|_| Some(self::end((2, end))), &mut few)
        .expect("readable");
    log.remove("web", 1);
    assert_eq!(read(&mut follower, (2, end)), numbers(10..10_010));
}

#[test]
fn what_retention_took_is_told_and_the_rest_is_read() {
    let log = Log::new();
    let first = log.append("web", 1, 10..20);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    assert_eq!(read(&mut follower, (1, first)), numbers(10..20));
    let second = log.append("web", 2, 20..30);
    let third = log.append("web", 3, 30..35);
    let (_, losses) = read_by(
        &mut log.follower(Cursor::default(), &["web"]),
        (3, third),
        1,
    );
    assert_eq!(losses, []);
    // Seen before it went: its bytes are known.
    let seen = follower.read(
        &|_| Some(self::end((3, 0))),
        &mut |_| ControlFlow::Break(()),
    );
    assert!(!seen.expect("readable").caught_up);
    follower.tracks[0].close();
    follower.tracks[0].move_to(at(1, first));
    log.remove("web", 1);
    log.remove("web", 2);
    let (read_now, losses) = read(&mut follower, (3, third));
    assert_eq!(read_now, (30..35).collect::<Vec<u64>>());
    let [gone] = losses.as_slice() else {
        panic!("{losses:?}")
    };
    assert_eq!((gone.from, gone.to), (at(1, first), at(3, 0)));
    assert_eq!(gone.bytes_min, second);
    assert!(gone.to_string().contains("web"), "{gone}");
}

#[test]
fn segments_that_came_and_went_unseen_are_counted() {
    let log = Log::new();
    let first = log.append("web", 1, 10..20);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    assert_eq!(read(&mut follower, (1, first)), numbers(10..20));
    log.remove("web", 1);
    log.append("web", 5, 50..60);
    let end = log.append("web", 6, 60..70);
    let (read_now, losses) = read(&mut follower, (6, end));
    assert_eq!(read_now, (50..70).collect::<Vec<u64>>());
    assert_eq!(losses.len(), 1);
    assert_eq!((losses[0].segments_min, losses[0].bytes_min), (3, 0));
}

#[test]
fn a_cursor_into_a_removed_segment_is_told_and_goes_on() {
    let log = Log::new();
    let end = log.append("web", 7, 70..80);
    let cursor = Cursor {
        since_ns: 0,
        positions: BTreeMap::from([("web".to_owned(), at(3, 45))]),
    };
    let mut follower = log.follower(cursor, &["web"]);
    let (read_now, losses) = read(&mut follower, (7, end));
    assert_eq!(read_now, (70..80).collect::<Vec<u64>>());
    assert_eq!(losses.len(), 1);
    assert_eq!((losses[0].from, losses[0].to), (at(3, 45), at(7, 0)));
    assert_eq!((losses[0].segments_min, losses[0].bytes_min), (1, 0));
}

#[test]
fn a_cursor_behind_a_cut_goes_on_at_the_cut() {
    let log = Log::new();
    let cut = log.append("web", 1, 10..20);
    let cursor = Cursor {
        since_ns: 0,
        positions: BTreeMap::from([("web".to_owned(), at(1, cut + 450))]),
    };
    let mut follower = log.follower(cursor, &["web"]);
    assert_eq!(read(&mut follower, (1, cut)), numbers(0..0));
    let end = log.append("web", 1, 20..40);
    assert_eq!(read(&mut follower, (1, end)), numbers(20..40));
}

#[test]
fn a_time_starts_at_its_first_line_with_and_without_indexes() {
    for with_indexes in [false, true] {
        let log = Log::new();
        let mut end = 0;
        for segment in 0..4 {
            let first = 10_000 * segment;
            end = log.append("web", first + 1, first + 1..first + 10_001);
            if with_indexes {
                log.index("web", first + 1);
            }
        }
        for since_ns in [1, 2, 9_999, 10_000, 10_001, 25_000, 39_999, 40_000] {
            let cursor = Cursor {
                since_ns,
                positions: BTreeMap::new(),
            };
            let mut follower = log.follower(cursor, &["web"]);
            let found = read(&mut follower, (30_001, end));
            assert_eq!(found, numbers(since_ns..40_001), "since {since_ns}");
        }
    }
}

#[test]
fn services_are_merged_by_time() {
    let log = Log::new();
    let mut end = 0;
    for number in 0..50 {
        let service = ["web", "db", "api"][number as usize % 3];
        end = log.append(service, 1, number + 100..number + 101).max(end);
    }
    let mut follower = log.follower(Cursor::default(), &["web", "db", "api"]);
    let limit = |service: &str| {
        let path = SegmentId::from_ns(1).log_path(&log.dir(service));
        Some(self::end((1, fs::metadata(path).expect("a segment").len())))
    };
    let mut times = Vec::new();
    follower
        .read(&limit, &mut |found| {
            if let Followed::Line { hit, .. } = found {
                times.push(hit.time_ns);
            }
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(times, (100..150).collect::<Vec<u64>>());
}

#[test]
fn damaged_and_long_lines_stop_nothing() {
    let log = Log::new();
    log.append("web", 1, 10..12);
    let path = SegmentId::from_ns(1).log_path(&log.dir("web"));
    let mut text = fs::read(&path).expect("a segment");
    text.extend_from_slice(
        b"what somebody typed
",
    );
    text.extend_from_slice(&vec![b'x'; 300_000]);
    text.extend_from_slice(
        b"
",
    );
    fs::write(&path, &text).expect("a segment");
    let last = log.append("web", 1, 12..14);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    let mut times = Vec::new();
    let report = follower
        .read(&|_| Some(self::end((1, last))), &mut |found| {
            if let Followed::Line { hit, .. } = found {
                times.push(hit.time_ns);
            }
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(times, [10, 11, 12, 13]);
    assert_eq!(report.damaged_lines, 2);
    assert!(follower.tracks[0].buffer.capacity() <= CHUNK_BYTES.end);
}

#[test]
fn less_text_than_committed_is_an_error_that_names_the_file() {
    let log = Log::new();
    let end = log.append("web", 1, 10..12);
    let mut follower = log.follower(Cursor::default(), &["web"]);
    let outcome = follower.read(&|_| Some(self::end((1, end + 45))), &mut |_| {
        ControlFlow::Continue(())
    });
    let message = outcome.expect_err("too short").to_string();
    assert!(
        message.contains("19700101T000000.000000001Z.log"),
        "{message}"
    );
}

#[test]
fn what_is_no_cursor_is_refused() {
    for text in [
        "",
        "c1:",
        "c2:0",
        "c1:0,web",
        "c1:0,../x=1+2",
        "c1:0,web=x+1",
    ] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}
