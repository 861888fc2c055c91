//! Queries against a naive reference over the same logs: with good indexes, with bad ones, with
//! none, with torn text, and while the files are written and deleted.
//!
//! `MILLPOND_TEST_SEED` repeats a run; each test prints its seed.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of a test")]

mod model;
mod sealed;
mod unfolded;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use millpond_logfile::{
    BLOCK_BYTES, ErrorKind, Histogram, Level, LevelSet, Order, Query, Reader, SegmentId,
};

use self::model::{Ask, Logs, Random, SERVICES, SegmentWriter, check, check_random_questions, run};

/// Ends the process when `work` hangs. No time limit for anything that moves.
fn watched<T>(work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if is_done.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a query hangs");
            std::process::abort();
        }
    });
    let result = work();
    drop(done);
    result
}

#[test]
fn a_thousand_random_questions_are_answered_like_the_reference_does() {
    let mut random = Random::seeded();
    watched(|| {
        for _ in 0..10 {
            let services = &SERVICES[..1 + random.below(SERVICES.len())];
            let lines = random.pick(&[1, 300, 3000]);
            let logs = Logs::random(&mut random, services, lines);
            check_random_questions(&mut random, &logs, 100);
        }
    });
}

#[test]
fn answers_do_not_depend_on_the_index() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 3000);
    let paths = logs.index_paths();
    let files: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for round in 0..20 {
        for (path, bytes) in paths.iter().zip(&files) {
            let mut bytes = bytes.clone();
            match random.below(6) {
                0 => fs::remove_file(path).unwrap_or_default(),
                1 => bytes.truncate(random.below(bytes.len() + 1)),
                2 => {
                    let at = random.below(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
                3 => bytes = random.pick(&files),
                4 => bytes.extend_from_slice(&random.pick(&files)[64..]),
                _ => {}
            }
            if round > 0 {
                fs::write(path, bytes).unwrap();
            } else {
                fs::remove_file(path).unwrap_or_default();
            }
        }
        check_random_questions(&mut random, &logs, 20);
    }
    logs.rebuild_indexes();
    check_random_questions(&mut random, &logs, 50);
}

/// Without an index and larger than what is taken apart ahead of the query.
#[test]
fn a_large_text_without_an_index_is_searched_as_it_is() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES[..2], 40_000);
    for path in logs.index_paths() {
        fs::remove_file(path).unwrap();
    }
    check_random_questions(&mut random, &logs, 30);
    let id = logs.segments("api")[0];
    assert!(
        fs::metadata(id.log_path(&logs.service_dir("api")))
            .unwrap()
            .len()
            > 1 << 20
    );
}

/// Enough text for several threads, and more hits than may wait for the merge.
#[test]
fn large_answers_come_in_order_from_several_threads() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 60_000);
    watched(|| {
        for order in [Order::Oldest, Order::Newest] {
            check(
                &logs,
                &Ask {
                    order,
                    ..Ask::default()
                },
                "everything",
            );
            let substrings = vec![b"after 17".to_vec()];
            check(
                &logs,
                &Ask {
                    order,
                    substrings,
                    ..Ask::default()
                },
                "a frequent needle",
            );
        }
        check_random_questions(&mut random, &logs, 20);
    });
}

#[test]
fn a_visitor_that_breaks_off_or_panics_ends_the_query() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 30_000);
    let reader = Reader::open(logs.path()).unwrap();
    let all = logs.records.len() as u64;
    watched(|| {
        for stop_after in [1, 1000, all - 1] {
            let mut seen = 0;
            let report = reader.run(&Query::new(), &mut |_| {
                seen += 1;
                if seen == stop_after {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            let report = report.unwrap();
            assert_eq!((report.matched, report.ended_early), (stop_after, true));
            let mut seen = 0;
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                reader.run(&Query::new(), &mut |_| {
                    seen += 1;
                    assert_ne!(seen, stop_after, "the visitor gives up");
                    ControlFlow::Continue(())
                })
            }));
            assert!(panicked.is_err());
        }
    });
}

#[test]
fn the_last_lines_need_the_last_blocks_only() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 30_000);
    let ask = Ask {
        services: vec!["db".into()],
        order: Order::Newest,
        limit: Some(200),
        ..Ask::default()
    };
    check(&logs, &ask, "last lines");
    let (_, report) = run(logs.path(), &ask.query());
    assert!(
        report.text_bytes_read <= 4 * BLOCK_BYTES + 200_000,
        "{report:?}"
    );
    assert!(report.ended_early);
}

/// One service has the needle at its very end: the others are not read for it, since their indexes
/// say that what they hold is older.
#[test]
fn a_merge_does_not_read_what_comes_later_anyhow() {
    let mut random = Random::seeded();
    let mut logs = Logs::random(&mut random, &SERVICES[..3], 20_000);
    let newest_ns = logs
        .records
        .iter()
        .map(|record| record.time_ns)
        .max()
        .unwrap()
        + 1_000_000;
    let mut segment = SegmentWriter::create(logs.path(), "web", SegmentId::from_ns(newest_ns));
    logs.records
        .push(segment.append_message(newest_ns, Level::Info, "log", b"needle 4711"));
    segment.write(false);
    let substrings = vec![b"needle 4711".to_vec()];
    let ask = Ask {
        substrings,
        order: Order::Newest,
        limit: Some(1),
        ..Ask::default()
    };
    check(&logs, &ask, "needle");
    let (_, report) = run(logs.path(), &ask.query());
    assert!(report.text_bytes_read < 1000, "{report:?}");
}

/// A line far before its time, in a block or a segment that comes later: the merge must know of it
/// before it hands out what another service has.
#[test]
fn a_line_far_before_its_time_takes_its_place_among_the_services() {
    for segment_lines in [10_000, 3500] {
        let mut logs = Logs {
            dir: tempfile::tempdir().unwrap(),
            records: Vec::new(),
        };
        let mut add = |service: &str, id: u64, times: &[(u64, &str)]| {
            let mut segment =
                SegmentWriter::create(logs.dir.path(), service, SegmentId::from_ns(id));
            for (time_ns, message) in times {
                logs.records.push(segment.append_message(
                    *time_ns,
                    Level::Info,
                    "log",
                    message.as_bytes(),
                ));
            }
            segment.write(true);
        };
        let mut lines: Vec<(u64, &str)> = (0..10_000)
            .map(|number| (1000 + number, "in time"))
            .collect();
        lines[5000] = (10, "needle, early");
        lines[8000] = (100_000, "needle, late");
        for (id, lines) in (1..).zip(lines.chunks(segment_lines)) {
            add("api", id, lines);
        }
        add(
            "db",
            1,
            &[(500, "needle"), (5000, "needle"), (50_000, "needle")],
        );
        for order in [Order::Oldest, Order::Newest] {
            let substrings = vec![b"needle".to_vec()];
            let ask = Ask {
                substrings,
                order,
                ..Ask::default()
            };
            check(&logs, &ask, "early and late");
            check(
                &logs,
                &Ask {
                    limit: Some(1),
                    ..ask
                },
                "the first of early and late",
            );
        }
    }
}

#[test]
fn counts_by_level_need_no_text() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 3000);
    let counts = Reader::open(logs.path())
        .unwrap()
        .count(&Query::new())
        .unwrap();
    assert_eq!(counts.report.text_bytes_read, 0);
    assert_eq!(counts.total(), logs.records.len() as u64);
    let warnings = logs
        .records
        .iter()
        .filter(|record| record.level == Level::Warn)
        .count();
    assert_eq!(counts.level(Level::Warn), warnings as u64);
}

#[test]
fn an_unfinished_last_line_is_damage_only_in_a_closed_segment() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &["web"], 2000);
    let dir = logs.service_dir("web");
    let open = *logs.segments("web").last().unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(open.log_path(&dir))
        .unwrap();
    file.write_all(b"2026-11-21T01:29:53.1234567").unwrap();
    check_random_questions(&mut random, &logs, 20);
    assert_eq!(run(logs.path(), &Query::new()).1.damage, []);

    // Another segment is opened: now nobody will finish that line.
    SegmentWriter::create(logs.path(), "web", SegmentId::from_ns(u64::MAX)).write(false);
    check_random_questions(&mut random, &logs, 20);
    let damage = run(logs.path(), &Query::new()).1.damage;
    assert_eq!(damage.len(), 1);
    assert_eq!(
        (damage[0].what, damage[0].found.as_str()),
        ("last line", "27 bytes without one")
    );
}

#[test]
fn an_index_that_is_ahead_of_its_text_is_reported_and_the_text_is_believed() {
    let mut random = Random::seeded();
    let mut logs = Logs::random(&mut random, &["web"], 5000);
    let id = logs.segments("web")[0];
    let dir = logs.service_dir("web");
    let in_segment = logs
        .records
        .iter()
        .filter(|record| record.segment == id)
        .count();
    let end = logs.records[in_segment / 2].range.end;
    logs.records
        .retain(|record| record.segment != id || record.range.end <= end);
    OpenOptions::new()
        .write(true)
        .open(id.log_path(&dir))
        .unwrap()
        .set_len(end)
        .unwrap();
    check_random_questions(&mut random, &logs, 30);
    let damage = run(logs.path(), &Query::new()).1.damage;
    assert_eq!(
        damage[0].what, "length of the text by its index",
        "{damage:?}"
    );
}

#[test]
fn an_index_of_another_text_is_reported_and_the_text_is_believed() {
    let mut random = Random::seeded();
    let mut logs = Logs::random(&mut random, &["api"], 2000);
    let id = SegmentId::from_ns(1);
    let mut other = SegmentWriter::create(logs.path(), "web", id);
    for number in 0..5000 {
        other.append_message(number, Level::Info, "log", b"a text that was here before");
    }
    other.write(true);
    let mut segment = SegmentWriter::create(logs.path(), "web", id);
    for number in 0..10_000 {
        logs.records
            .push(segment.append(&mut random, 1_000_000 + number));
    }
    fs::write(id.log_path(&segment.dir), &segment.text).unwrap();
    check_random_questions(&mut random, &logs, 30);
    let damage = run(logs.path(), &Query::new()).1.damage;
    assert_eq!(
        damage[0].what, "end of the last block by the index",
        "{damage:?}"
    );
}

#[test]
fn a_changed_byte_is_reported_with_the_line_that_holds_it() {
    let logs_dir = tempfile::tempdir().unwrap();
    let mut segment = SegmentWriter::create(logs_dir.path(), "web", SegmentId::from_ns(1));
    for number in 0..5000u64 {
        segment.append_message(
            number,
            Level::Info,
            "log",
            format!("line number {number}").as_bytes(),
        );
    }
    let changed = segment.append_message(5000, Level::Info, "log", b"peaceful");
    segment.append_message(5001, Level::Info, "log", b"the last line");
    segment.write(true);
    let path = segment.id.log_path(&segment.dir);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"P", changed.range.end - 9).unwrap();

    let (found, report) = run(logs_dir.path(), &Query::new().contains("Peaceful"));
    assert_eq!(found.len(), 1);
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].what, "checksum of the block");
    assert_eq!(report.damage[0].path, path);

    let elsewhere = Query::new().contains("number 17");
    assert_eq!(run(logs_dir.path(), &elsewhere).1.damage, []);
    assert_eq!(
        run(logs_dir.path(), &elsewhere.verify(true)).1.damage.len(),
        1
    );
}

#[test]
fn lines_of_another_form_are_reported_and_the_rest_is_returned() {
    let mut random = Random::seeded();
    let mut logs = Logs::random(&mut random, &["web"], 2000);
    let spoilt = logs.records.remove(logs.records.len() / 2);
    let path = spoilt.segment.log_path(&logs.service_dir("web"));
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"yesterday", spoilt.range.start)
        .unwrap();
    let (found, report) = run(logs.path(), &Query::new());
    assert_eq!(found, logs.answer(&Ask::default()));
    let line = report
        .damage
        .iter()
        .find(|damage| damage.what == "line")
        .unwrap();
    assert_eq!((&line.path, line.offset), (&path, spoilt.range.start));
    for path in logs.index_paths() {
        fs::remove_file(path).unwrap();
    }
    check_random_questions(&mut random, &logs, 20);
}

#[test]
fn a_hole_without_line_ends_is_stepped_over() {
    const HOLE_BYTES: u64 = 20 << 20;
    let logs_dir = tempfile::tempdir().unwrap();
    let mut segment = SegmentWriter::create(logs_dir.path(), "web", SegmentId::from_ns(1));
    let before = segment.append_message(1, Level::Info, "log", b"before");
    let after = segment.append_message(2, Level::Info, "log", b"after");
    let line = segment.text[after.range.start as usize..].to_vec();
    let path = segment.id.log_path(&segment.dir);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&segment.text[..before.range.end as usize], 0)
        .unwrap();
    let hole_end = before.range.end + HOLE_BYTES;
    file.write_all_at(b"\n", hole_end - 1).unwrap();
    file.write_all_at(&line, hole_end).unwrap();

    let (found, report) = run(logs_dir.path(), &Query::new());
    let messages: Vec<&[u8]> = found
        .iter()
        .map(|line| line.raw_message.as_slice())
        .collect();
    assert_eq!(messages, [b"before".as_slice(), b"after"]);
    assert_eq!(found[1].offset, hole_end);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert_eq!(
        (report.damage[0].what, report.damage[0].offset),
        ("line", before.range.end)
    );
}

#[test]
fn a_segment_that_retention_deletes_meanwhile_is_skipped_and_named() {
    let mut random = Random::seeded();
    let mut logs = Logs::random(&mut random, &["web"], 10);
    let later = SegmentId::from_ns(u64::MAX - 1);
    let mut segment = SegmentWriter::create(logs.path(), "web", later);
    segment.append(&mut random, 1);
    segment.write(true);
    let last = SegmentId::from_ns(u64::MAX);
    let mut segment = SegmentWriter::create(logs.path(), "web", last);
    logs.records.push(segment.append(&mut random, 2));
    segment.write(false);

    let path = later.log_path(&logs.service_dir("web"));
    let mut lines = 0;
    let reader = Reader::open(logs.path()).unwrap();
    let report = reader.run(&Query::new(), &mut |_| {
        if lines == 0 {
            fs::remove_file(&path).unwrap();
        }
        lines += 1;
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!(report.deleted, [path]);
    assert_eq!(lines, logs.records.len());
    assert_eq!(report.damage, []);
}

#[test]
fn what_is_being_written_is_seen_up_to_some_line_and_never_in_part() {
    const SEGMENTS: u64 = 3;
    const LINES: usize = 6000;
    let mut random = Random::seeded();
    let mut logs = Logs {
        dir: tempfile::tempdir().unwrap(),
        records: Vec::new(),
    };
    let mut segments = Vec::new();
    let mut time_ns = 1000;
    for number in 0..SEGMENTS {
        let service_dir = tempfile::tempdir().unwrap();
        let id = SegmentId::from_ns(1 + number);
        let mut segment = SegmentWriter::create(service_dir.path(), "web", id);
        for _ in 0..LINES {
            time_ns += random.next() % 3;
            logs.records.push(segment.append(&mut random, time_ns));
        }
        segments.push((id, segment.text));
    }
    let expected = logs
        .records
        .iter()
        .map(|record| (record.segment, record.range.start));
    let expected: Vec<_> = expected.collect();
    let ends: Vec<u64> = logs.records.iter().map(|record| record.range.end).collect();
    // There is a segment before the reader looks, or there would be no service.
    SegmentWriter::create(logs.path(), "web", segments[0].0);

    let written = AtomicUsize::new(0);
    watched(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| write_in_pieces(&mut random, &logs, &segments, &ends, &written));
            while written.load(Ordering::Acquire) < expected.len() {
                let at_least = written.load(Ordering::Acquire);
                let (found, report) = run(logs.path(), &Query::new());
                let found: Vec<_> = found
                    .iter()
                    .map(|line| (line.segment, line.offset))
                    .collect();
                assert!(
                    found.len() >= at_least,
                    "{} lines of {at_least}",
                    found.len()
                );
                assert_eq!(found, expected[..found.len()]);
                assert_eq!(report.damage, []);
                let counts = Reader::open(logs.path())
                    .unwrap()
                    .count(&Query::new())
                    .unwrap();
                assert!(counts.total() >= found.len() as u64);
            }
        });
    });
    assert_eq!(run(logs.path(), &Query::new()).0.len(), expected.len());
}

/// Appends text in pieces that end anywhere, then the index entries of what is there, as the sink
/// does.
fn write_in_pieces(
    random: &mut Random,
    logs: &Logs,
    segments: &[(SegmentId, Vec<u8>)],
    ends: &[u64],
    written: &AtomicUsize,
) {
    let mut lines_before = 0;
    for (number, (id, text)) in segments.iter().enumerate() {
        let segment = SegmentWriter::create(logs.path(), "web", *id);
        let mut file = OpenOptions::new()
            .append(true)
            .open(id.log_path(&segment.dir))
            .unwrap();
        let lines = ends.len() / segments.len();
        let ends = &ends[lines_before..lines_before + lines];
        let mut at = 0;
        while at < text.len() {
            let end = (at + 1 + random.below(20_000)).min(text.len());
            file.write_all(&text[at..end]).unwrap();
            at = end;
            let whole = ends.partition_point(|&end| end <= at as u64);
            written.store(lines_before + whole, Ordering::Release);
            if random.one_in(10) {
                millpond_logfile::rebuild_index(&segment.dir, *id, true).unwrap();
            }
        }
        lines_before += lines;
        if number + 1 < segments.len() {
            millpond_logfile::rebuild_index(&segment.dir, *id, false).unwrap();
        }
    }
}

#[test]
fn an_unknown_service_is_named_with_its_nearest() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 1);
    let reader = Reader::open(logs.path()).unwrap();
    let error = reader
        .run(&Query::new().service("wbe"), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.starts_with("no service \"wbe\" in /"), "{text}");
    assert!(text.contains("the nearest of 4 are \"web\", "), "{text}");
    assert!(
        reader
            .count(&Query::new().service("web").service("nope"))
            .is_err()
    );
}

#[test]
fn what_is_not_ours_is_left_out_and_what_nearly_is_gets_named() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &["web"], 10);
    let in_dir = |name: &str| logs.path().join(name);
    fs::write(in_dir("notes.txt"), "a file").unwrap();
    fs::create_dir(in_dir("lost+found")).unwrap();
    fs::create_dir(in_dir("empty")).unwrap();
    fs::write(in_dir("web/old.log"), "another program's").unwrap();
    fs::create_dir(in_dir("two words")).unwrap();
    fs::write(in_dir("two words/20261121T012953.000000000Z.log"), "").unwrap();
    let reader = Reader::open(logs.path()).unwrap();
    assert_eq!(reader.services(), ["web"]);
    let ignored: Vec<_> = reader
        .ignored()
        .iter()
        .map(|ignored| ignored.path.clone())
        .collect();
    assert_eq!(ignored, [in_dir("two words"), in_dir("web/old.log")]);
    assert_eq!(run(logs.path(), &Query::new()).0.len(), logs.records.len());
}

#[test]
fn levels_and_limits_at_their_ends() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &["web"], 500);
    for ask in [
        Ask {
            limit: Some(0),
            ..Ask::default()
        },
        Ask {
            levels: LevelSet::of(&[]),
            ..Ask::default()
        },
        Ask {
            since_ns: Some(u64::MAX),
            ..Ask::default()
        },
        Ask {
            until_ns: Some(0),
            ..Ask::default()
        },
        Ask {
            since_ns: Some(5),
            until_ns: Some(5),
            ..Ask::default()
        },
        Ask {
            until_ns: Some(u64::MAX),
            ..Ask::default()
        },
        Ask {
            substrings: vec![Vec::new()],
            ..Ask::default()
        },
    ] {
        check(&logs, &ask, "at the ends");
    }
}

/// The histogram must be what counting the lines one by one gives.
#[test]
fn a_histogram_is_a_count_of_lines_by_time_and_level() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 5000);
    let reader = Reader::open(logs.path()).unwrap();
    let first = logs
        .records
        .iter()
        .map(|record| record.time_ns)
        .min()
        .unwrap();
    let last = logs
        .records
        .iter()
        .map(|record| record.time_ns)
        .max()
        .unwrap();
    let sealed = |logs: &Logs| {
        for service in SERVICES {
            let segments = logs.segments(service);
            for &id in &segments[..segments.len() - 1] {
                millpond_logfile::seal_segment(&logs.service_dir(service), id, 1, &mut || true)
                    .unwrap();
            }
        }
    };
    for round in 0..40 {
        if round == 20 {
            sealed(&logs);
        }
        let ask = Ask::random(&mut random, &logs);
        let query = ask.query();
        let bucket_ns = Histogram::bucket_ns_for(last - first, random.pick(&[2, 10, 100, 4000]));
        let mut expected: std::collections::BTreeMap<u64, [u64; Level::COUNT]> = Default::default();
        let mut span: Option<(u64, u64)> = None;
        let unlimited = Ask { limit: None, ..ask }.query();
        reader
            .run(&unlimited, &mut |hit| {
                expected
                    .entry(hit.time_ns / bucket_ns * bucket_ns)
                    .or_default()[hit.level as usize] += 1;
                let (first, last) = span.unwrap_or((u64::MAX, 0));
                span = Some((first.min(hit.time_ns), last.max(hit.time_ns)));
                ControlFlow::Continue(())
            })
            .unwrap();
        let histogram = reader.histogram(&query, bucket_ns).unwrap();
        let found: std::collections::BTreeMap<_, _> = histogram
            .buckets
            .iter()
            .map(|bucket| (bucket.start_ns, Level::ALL.map(|level| bucket.level(level))))
            .collect();
        assert_eq!(found, expected, "{query:?} in buckets of {bucket_ns} ns");
        assert_eq!(reader.time_span(&query).unwrap(), span, "{query:?}");
    }
    let error = reader.histogram(&Query::new(), 1).unwrap_err().to_string();
    assert!(
        error.contains("the limit is 4096: use buckets of"),
        "{error}"
    );
}
