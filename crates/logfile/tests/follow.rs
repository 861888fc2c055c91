//! Following a log while it is written, rotated, sealed and trimmed.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs::{self, File};
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use millpond_logfile::{
    BlockWriter, Cursor, Followed, Follower, Gone, Level, LogPosition, SegmentId, Source,
    list_segments, rebuild_index, seal_segment, written_end,
};

const LINES: u64 = 40;

/// The ids of segments are 1, 2, 3 ..; the times of lines are their numbers.
fn write_segment(dir: &Path, segment: u64) {
    let id = SegmentId::from_ns(segment);
    let mut file = File::create(id.log_path(dir)).unwrap();
    let (mut block, mut text) = (BlockWriter::new(), Vec::new());
    let source = Source::new("s");
    for number in (segment - 1) * LINES..segment * LINES {
        block.append(&mut text, number, Level::Info, &source, &[b'x'; 40]);
    }
    // In pieces that are no whole lines.
    for piece in text.chunks(700) {
        file.write_all(piece).unwrap();
    }
}

fn close(dir: &Path, segment: u64) {
    let id = SegmentId::from_ns(segment);
    rebuild_index(dir, id, false).unwrap();
    seal_segment(dir, id, 1, &mut || true).unwrap();
}

fn remove(dir: &Path, id: SegmentId) {
    for path in [id.log_path(dir), id.sealed_path(dir), id.index_path(dir)] {
        // One of the two forms is not there.
        let _ = fs::remove_file(path);
    }
}

/// What was read, in the order it came: numbers and losses.
#[derive(Default)]
struct Read {
    numbers: Vec<u64>,
    losses: Vec<(usize, Gone)>,
    cursor: Cursor,
}

impl Read {
    /// Follows until all lines of `segments` are read; with `often` from a new follower, as a program that is
    /// started again and again.
    fn follow(logs: &Path, segments: u64, often: bool, read_to: &AtomicU64) -> Self {
        let dir = logs.join("web");
        let mut read = Read::default();
        let mut follower = Follower::new(logs, Cursor::default());
        follower.add_service("web");
        let mut steps = 0;
        while read.numbers.last() != Some(&(segments * LINES - 1)) {
            let end = written_end(&dir).unwrap();
            let mut left = 1000;
            follower
                .read(&|_| end, &mut |found| {
                    match found {
                        Followed::Line { hit, next } => {
                            read.numbers.push(hit.time_ns);
                            read_to.store(next.segment_id.as_ns(), Ordering::Release);
                        }
                        Followed::Gone(gone) => read.losses.push((read.numbers.len(), gone)),
                    }
                    left -= 1;
                    match left {
                        0 => ControlFlow::Break(()),
                        _ => ControlFlow::Continue(()),
                    }
                })
                .unwrap();
            steps += 1;
            if often && steps % 3 == 0 {
                let token = follower.cursor().to_string();
                follower = Follower::new(logs, token.parse().unwrap());
                follower.add_service("web");
            }
        }
        read.cursor = follower.cursor();
        read
    }
}

fn rotate_while_followed(segments: u64, often: bool, trim_unread: bool) -> Read {
    let logs = tempfile::tempdir().unwrap();
    let dir = logs.path().join("web");
    fs::create_dir(&dir).unwrap();
    let (read_to, is_written) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for segment in 1..=segments {
                write_segment(&dir, segment);
                if segment > 1 {
                    close(&dir, segment - 1);
                }
            }
            is_written.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !is_written.load(Ordering::Acquire) {
                let ids = list_segments(&dir).unwrap();
                let read_to = SegmentId::from_ns(read_to.load(Ordering::Acquire));
                let kept = ids.len().saturating_sub(4);
                for &id in &ids[..kept] {
                    if trim_unread || id < read_to {
                        remove(&dir, id);
                    }
                }
                thread::yield_now();
            }
        });
        Read::follow(logs.path(), segments, often, &read_to)
    })
}

#[test]
fn a_thousand_rotations_are_followed_without_a_line_missed_or_doubled() {
    for often in [false, true] {
        let read = rotate_while_followed(1000, often, false);
        let all: Vec<u64> = (0..1000 * LINES).collect();
        assert!(read.numbers == all, "{} lines", read.numbers.len());
        assert_eq!(read.losses, []);
        assert_eq!(
            read.cursor.positions["web"].segment_id,
            SegmentId::from_ns(1000)
        );
    }
}

#[test]
fn what_retention_takes_from_under_a_follower_is_told_in_its_place() {
    let read = rotate_while_followed(300, false, true);
    let mut losses = read.losses.iter().peekable();
    let mut expected = 0;
    for (at, &number) in read.numbers.iter().enumerate() {
        let mut gone: Option<Range<LogPosition>> = None;
        while let Some((_, loss)) = losses.next_if(|(place, _)| *place == at) {
            let from = gone.map_or(loss.from, |gone| gone.start);
            gone = Some(from..loss.to);
        }
        if number != expected {
            assert!(number > expected, "line {number} came twice");
            let gone = gone.expect("a loss is told");
            assert!(
                gone.end.segment_id.as_ns() > number / LINES,
                "{gone:?} {number}"
            );
            assert!(
                gone.start.segment_id.as_ns() <= expected / LINES + 1,
                "{gone:?} {expected}"
            );
        }
        expected = number + 1;
    }
    assert_eq!(expected, 300 * LINES);
}
